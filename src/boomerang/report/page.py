"""The report as one HTML file that fetches nothing.

One jinja2 template makes it and escapes all text from results. A content security policy lets in
this one script and this one style sheet, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..sizing import OVERHEAD
from ..units import show_bytes, show_count_briefly
from ..version import __version__
from .budget import Candidate, Choices, choices
from .charts import Chart, charts, models
from .external import External
from .figure import UNITS, SizeAxis
from .lines import Line
from .sentences import better_and_smaller, change, in_context, tooltip
from .sources import ResultSet
from .svg import NARROW, WIDE, Canvas, Name, swatch
from .words import NOISE, better, bytes_unit, label, show_value, show_with_error

GENERATOR = "boomerang report"


@dataclass(frozen=True)
class Report:
    """What a page is made of."""

    title: str
    sets: Sequence[ResultSet]  # at least one
    external: Mapping[str, Sequence[External]]  # by the name of their source
    charts: Sequence[Chart]  # the most telling first
    choices: Sequence[Choices]  # the families a member can be chosen from

    @classmethod
    def of(
        cls,
        sets: Sequence[ResultSet],
        external: Mapping[str, Sequence[External]],
        title: str | None = None,
    ) -> Report:
        """Arrange results; the title is by default after the teachers."""
        names = dict.fromkeys(
            each.name if each.provenance is None else each.provenance.name for each in sets
        )
        title = f"Boomerang family of {' and '.join(names)}" if title is None else title
        found = charts(sets, external)
        # What two sets hold alike is drawn once, and is offered once.
        drawn = {line.key for chart in found for line in chart.lines}
        return cls(title, sets, external, found, [one for one in choices(sets) if one.key in drawn])

    @property
    def lines(self) -> list[Line]:
        """Every line of every figure once, in the report's order."""
        found = {line.key: line for chart in self.charts for line in chart.lines}
        return sorted(found.values(), key=lambda line: line.index)

    @property
    def ids(self) -> dict[Name, str]:
        """The names that the page's script has for members."""
        return {
            (one.key, each.row.member): f"{i}:{j}"
            for i, one in enumerate(self.choices)
            for j, each in enumerate(one.candidates)
        }


def page(report: Report) -> str:
    """The whole file."""
    assets = files("boomerang.report") / "assets"
    style, script, template = (
        (assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "better": better,
        "bytes": show_bytes,
        "change": change,
        "count": show_count_briefly,
        "label": label,
        "value": show_value,
    }
    measures = {(chart.task, chart.metric) for chart in report.charts}
    outside = [one for points in report.external.values() for one in points]
    absent = [one for one in outside if (one.task, one.metric) not in measures]
    return environment.from_string(template).render(
        report=report,
        generator=GENERATOR,
        version=__version__,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        data=_data(report),
        layers=[each.row.num_layers for one in report.choices for each in one.candidates],
        overhead=OVERHEAD,
        noise=NOISE,
        labels={line.key: line.label for line in report.lines},
        swatches=[(line, swatch(line)) for line in report.lines],
        drawings=_drawings(report),
        hollow=any(point.is_noise for chart in report.charts for point in chart.points),
        # Close-ups repeat the values of others.
        measured=[chart for chart in report.charts if not chart.close_up],
        models=models([chart for chart in report.charts if not chart.close_up]),
        with_error=show_with_error,
        absent=dict.fromkeys(f"{one.metric} on {one.task}" for one in absent),
    )


def _drawings(report: Report) -> list[list[tuple[tuple[int, int], Markup]]]:
    """For each chart its drawings and their sizes: of the first one a wide and a narrow one."""
    axes = [SizeAxis.of(unit, report.charts) for unit in UNITS]
    wide, narrow = (Canvas(size, axes, report.ids) for size in (WIDE, NARROW))
    found = [[(NARROW, narrow.draw(each, f"m{n}n"))] for n, each in enumerate(report.charts)]
    found[0].insert(0, (WIDE, wide.draw(report.charts[0], "m0w")))
    return found


def _data(report: Report) -> dict[str, Any]:
    """What the page's script reads."""
    return {
        "choices": [_choice(one, report.charts[0]) for one in report.choices],
        "charts": [
            [tooltip(chart, line, point) for line in chart.lines for point in line.points]
            for chart in report.charts
        ],
    }


def _choice(one: Choices, headline: Chart) -> dict[str, Any]:
    line = next((line for line in headline.lines if line.key == one.key), None)
    return {
        "unit": bytes_unit(one.needs[-1][0]),
        "context": one.context,
        "contexts": one.contexts,
        "members": [_member(one, each, headline, line) for each in one.candidates],
    }


def _member(one: Choices, each: Candidate, headline: Chart, line: Line | None) -> dict[str, Any]:
    quality = rival = ""
    for index, point in enumerate(line.points if line is not None else ()):
        if line is not None and point.member == each.row.member:
            quality = in_context(headline, line, point)
            rival = better_and_smaller(headline, line.points, index)
    needs = [each.memory(context) for context in one.contexts]
    last, count = one.candidates[-1].row.patch, show_count_briefly(each.parameters)
    return {
        "layers": each.row.num_layers,
        # For each context.
        "memory": [(need.weights, need.cache, need.workspace, need.total) for need in needs],
        "about": f"Patch {each.row.patch} of {last}, {count} parameters.",
        "quality": quality,
        "rival": rival,
        "command": each.command,
    }


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
