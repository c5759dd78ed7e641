"""The page in a browser: its script chooses as `build` does, its command works, it fetches nothing.

Needs Chromium and its driver (Debian: `chromium` and `chromium-driver`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from boomerang.checkpoint.sources import Sources
from boomerang.evaluate.provenance import write_provenance
from boomerang.layers import FIRST_TO_LAST, LAST_TO_FIRST
from boomerang.report.write import write_report
from boomerang.sizing import choose, member_sizes
from disk import save_pair
from result_rows import metric_rows, text_rows, write_results

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _start(*, scripts: bool = True) -> Chrome:
    """A browser without a window; the test is skipped aloud where there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        reason = "THE REPORT IS NOT TESTED IN A BROWSER: install chromium and chromium-driver"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    options = ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        # Chromium's sandbox does not run as root, as in most containers.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        setting = "profile.managed_default_content_settings.javascript"
        options.add_experimental_option("prefs", {setting: 2})
    return Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with _start() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    # Half its layers have a sliding window of 8 tokens, so that context changes what fits.
    return Sources.open(*save_pair(tmp_path_factory.mktemp("pair's place"), "qwen2"))


@pytest.fixture(scope="module")
def report(family: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two orders, a baseline, two tasks and a mean, and a model from elsewhere."""
    layers = family.layers
    rows = []
    for order in (LAST_TO_FIRST, FIRST_TO_LAST):
        rows += text_rows("family", [20.0, 21.0, 18.0, 17.0], layers=layers, order=order)
        for task in ("arc", "piqa"):
            acc = [0.4, 0.5, 0.6, 0.7]
            rows += metric_rows("family", "acc", acc, layers, task=task, order=order)
    rows += text_rows("naive", [90.0, 60.0, 40.0, 17.0], layers=layers)
    directory = tmp_path_factory.mktemp("report")
    results = write_results(directory / "results", rows)
    write_provenance(results, family, rows)
    (directory / "others.csv").write_text(
        "name,parameters,task,metric,value\nlarge,9000000,books,perplexity,25\n"
    )
    return write_report([results], directory / "report.html", external=[directory / "others.csv"])


@pytest.fixture
def page(browser: Chrome, report: Path) -> Iterator[Chrome]:
    """The page, freshly opened; afterwards nothing was fetched and nothing went wrong."""
    _show(browser, 1280, "light")
    browser.get(report.as_uri())
    yield browser
    fetched = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert (fetched, browser.get_log("browser")) == (0, [])


def _show(browser: Chrome, width: int, theme: str) -> None:
    scheme = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )


def _text(page: Chrome, name: str) -> str:
    return page.find_element(By.ID, name).text


def _set(page: Chrome, name: str, value: object) -> None:
    page.execute_script(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input')); field.dispatchEvent(new Event('change'));",
        name, str(value),
    )  # fmt: skip


def _chosen_layers(page: Chrome) -> str:
    row = page.find_element(By.CSS_SELECTOR, "tr.chosen")
    return row.find_elements(By.TAG_NAME, "td")[1].text


@pytest.mark.parametrize("context", [8, 64])
def test_every_budget_names_the_member_that_sizing_chooses(
    page: Chrome, family: Sources, context: int
) -> None:
    unit = {"KiB": 1024, "MiB": 1024**2}[_text(page, "budget-unit")]
    _set(page, "context", context)
    sizes = member_sizes(family, family.members(LAST_TO_FIRST), context=context)
    for size in sizes:
        assert size.memory is not None
        _set(page, "budget", size.memory / unit)
        wanted, _ = choose(sizes, memory=size.memory)
        assert _text(page, "member") == f"{wanted.member.num_layers} layers"
        assert f"--patch {wanted.member.patch}" in _text(page, "command")
        assert _chosen_layers(page) == str(wanted.member.num_layers)
    assert sizes[0].memory is not None
    _set(page, "budget", (sizes[0].memory - 1) / unit)
    assert _text(page, "member") == "Nothing fits"
    assert not page.find_element(By.ID, "command").is_displayed()


def test_the_slider_moves_by_keys(page: Chrome) -> None:
    slider = page.find_element(By.ID, "slider")
    slider.send_keys(Keys.HOME)
    seen = [_text(page, "member")]
    lowest = page.find_element(By.ID, "budget").get_attribute("value")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert float(page.find_element(By.ID, "budget").get_attribute("value")) > float(lowest)
    for _ in range(12):
        slider.send_keys(Keys.PAGE_UP)
        seen.append(_text(page, "member"))
    assert list(dict.fromkeys(seen)) == [
        "Nothing fits",
        *(f"{layers} layers" for layers in (4, 5, 6, 7)),
    ]
    assert slider.get_attribute("aria-valuetext").endswith("7 layers")


def test_the_command_builds_the_member(page: Chrome, tmp_path: Path) -> None:
    _set(page, "family", 1)
    page.find_element(By.ID, "slider").send_keys(Keys.HOME, *[Keys.PAGE_UP] * 5)
    words = shlex.split(_text(page, "command"))
    assert words[:2] == ["boomerang", "build"] and words[-2:] == ["--order", FIRST_TO_LAST]
    command = [sys.executable, "-m", *words]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (built,) = tmp_path.iterdir()
    assert f"{_text(page, 'member').split()[0]}L" in built.name
    assert (built / "config.json").exists()


def test_the_command_is_copied(page: Chrome) -> None:
    page.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page.find_element(By.ID, "copy").click()
    page.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    copied = page.execute_async_script(
        "const done = arguments[0]; setTimeout(async () => "
        "done([document.getElementById('copied').textContent,"
        " await navigator.clipboard.readText()]), 100)"
    )
    assert copied == ["Copied.", _text(page, "command").replace("\n", " ")]


def test_units_move_every_point(page: Chrome) -> None:
    def places() -> list[str]:
        return page.execute_script(
            "return [...document.querySelectorAll('.unit:not([hidden]) .point')]"
            ".map(p => [p.getAttribute('x'), p.getAttribute('y')].join())"
        )

    def axis() -> str:
        return page.find_element(By.CSS_SELECTOR, ".wide .unit:not([hidden]) .size").text

    def names() -> set[str]:
        return set(
            page.execute_script(
                "return [...document.querySelectorAll('.unit:not([hidden]) .point')].map(p => "
                "data.charts[p.closest('svg').dataset.chart][p.dataset.p][0])"
            )
        )

    before = places()
    assert axis() == "Parameters (millions)" and "large, others" in names()
    page.find_element(By.CSS_SELECTOR, "input[value=layers]").send_keys(Keys.SPACE)
    assert axis() == "Layers"
    assert places() != before
    # The model from elsewhere has no known number of layers.
    assert len(names()) > 5 and "large, others" not in names()
    page.find_element(By.CSS_SELECTOR, "input[value=parameters]").send_keys(Keys.SPACE)
    assert places() == before


def test_points_are_told_by_keys_and_by_pointer(page: Chrome) -> None:
    chart = page.find_element(By.CSS_SELECTOR, ".wide .chart")
    assert not page.find_element(By.ID, "tip").is_displayed()
    chart.send_keys(Keys.ARROW_RIGHT)
    first = _text(page, "tip")
    assert "4 layers" in first and "Accuracy 0.400" in first
    chart.send_keys(Keys.ARROW_RIGHT)
    assert "5 layers" in _text(page, "tip") and "+0.100" in _text(page, "tip")
    chart.send_keys(Keys.ESCAPE)
    assert not page.find_element(By.ID, "tip").is_displayed()


def test_the_table_sorts_by_a_column(page: Chrome) -> None:
    def column(index: int) -> list[str]:
        rows = page.find_elements(By.CSS_SELECTOR, "tbody tr")
        return [
            row.find_elements(By.CSS_SELECTOR, "th, td")[index].get_attribute("data-v")
            for row in rows
        ]

    headings = page.find_elements(By.CSS_SELECTOR, "thead button")
    index = next(i for i, each in enumerate(headings) if each.text.startswith("Perplexity"))
    for turn in (1, -1):
        headings[index].send_keys(Keys.ENTER)
        values = [float(value) for value in column(index) if value is not None]
        assert values == sorted(values)[::turn] and len(values) == 13
    assert column(1)[-1] is None or column(index)[-1] is not None


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_and_widths(page: Chrome, report: Path, width: int, theme: str) -> None:
    _show(page, width, theme)
    page.get(report.as_uri())
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(ground) == "rgb(247, 247, 245)"
    assert light == (theme == "light")
    # Nothing sticks out: only the table scrolls, within its frame.
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    small = page.execute_script(
        "return [...document.querySelectorAll('.chart text')]"
        ".filter(t => t.getClientRects().length)"
        ".map(t => t.getBoundingClientRect().height / t.getBBox().height * 12.5)"
    )
    assert min(small) > 9.5
    # No name in the table is cut: the ends of the family are named after the family.
    cut = page.execute_script(
        "return [...document.querySelectorAll('tbody th')]"
        ".filter(name => name.scrollWidth > name.clientWidth).length"
    )
    ends = {each.text for each in page.find_elements(By.CSS_SELECTOR, "tbody th small")}
    assert (cut, ends) == (0, {"student", "teacher"})
    page.find_element(By.ID, "theme").click()
    assert (page.execute_script(ground) == "rgb(247, 247, 245)") != light


def test_without_scripts_a_table_stands_for_the_slider(report: Path) -> None:
    with _start(scripts=False) as page:
        page.get(report.as_uri())
        assert page.find_element(By.CSS_SELECTOR, ".wide .chart .point").is_displayed()
        units = page.find_elements(By.CSS_SELECTOR, ".wide .chart .unit")
        assert [unit.is_displayed() for unit in units] == [True, False, False]
        assert not page.find_element(By.ID, "slider").is_displayed()
        tables = page.find_elements(By.CSS_SELECTOR, "noscript table")
        assert [table.is_displayed() for table in tables] == [True, True]
        assert tables[0].text.count("boomerang build") == 4
