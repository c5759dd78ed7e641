"""The report as one HTML file that fetches nothing.

All text from results is escaped, what the script reads is JSON that cannot end its element, and a
content security policy lets this one script and this one style sheet in, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from ..sizing import OVERHEAD
from ..version import __version__
from .about import outside, provenance
from .axes import NARROW, UNITS, WIDE, size_axes
from .budget import Choices, choices
from .charts import Chart, charts
from .choice import choice_data, choice_html
from .external import External
from .lines import Line
from .listing import member_listing
from .metrics import label
from .sources import ResultSet
from .svg import Name, chart_svg, drawn, swatch_svg
from .words import tooltip

GENERATOR = "boomerang report"

_UNIT_NAMES = {"parameters": "Parameters", "bytes": "Weights", "layers": "Layers"}


@dataclass(frozen=True)
class Report:
    """What a page is made of.

    Args:
        title: Its heading.
        sets: The sets of results, at least one.
        external: Models from elsewhere, by the name of their source.
        charts: The figures, the most telling first.
        choices: The families a member can be chosen from.
    """

    title: str
    sets: tuple[ResultSet, ...]
    external: Mapping[str, Sequence[External]]
    charts: tuple[Chart, ...]
    choices: tuple[Choices, ...]

    @classmethod
    def of(
        cls,
        sets: Sequence[ResultSet],
        external: Mapping[str, Sequence[External]],
        title: str | None = None,
    ) -> Report:
        """Arrange results."""
        found = charts(sets, external)
        # What two sets hold alike is drawn once, and is offered once.
        drawn_keys = {line.key for chart in found for line in chart.lines}
        return cls(
            title=_title(sets) if title is None else title,
            sets=tuple(sets),
            external=external,
            charts=tuple(found),
            choices=tuple(one for one in choices(sets) if one.key in drawn_keys),
        )

    @property
    def lines(self) -> list[Line]:
        """Every line of every figure once, in the report's order."""
        found = {line.key: line for chart in self.charts for line in chart.lines}
        return sorted(found.values(), key=lambda line: line.index)

    @property
    def ids(self) -> dict[Name, str]:
        """What the page's script knows members by."""
        return {
            (one.key, each.member): f"{i}:{j}"
            for i, one in enumerate(self.choices)
            for j, each in enumerate(one.candidates)
        }


def page(report: Report) -> str:
    """The whole file."""
    assets = files("boomerang.report") / "assets"
    style = (assets / "page.css").read_text(encoding="utf-8") + _colours(report.lines)
    script = (assets / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    title = escape(report.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="generator" content="{GENERATOR} {__version__}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header><div><h1>{title}</h1><p class="quiet">{escape(_lead(report))}</p></div>'
        '<button id="theme" type="button" data-script hidden>Theme</button></header>\n'
        f"<main>\n{_main(report)}</main>\n"
        f"<footer>Made by boomerang {__version__} from results alone; nothing is loaded from "
        "elsewhere.</footer>\n"
        '<div id="tip" role="status" hidden></div>\n'
        f'<script type="application/json" id="data">{_json(_data(report))}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _main(report: Report) -> str:
    headline, *others = report.charts
    labels = _labels(report)
    parts = [
        f'<div class="overview">{_headline(report, headline)}'
        f"{choice_html(report.choices, labels)}</div>\n"
    ]
    if others:
        axes = size_axes(report.charts, 5)
        figures = "".join(
            f'<figure class="card"><div class="heading"><h3>{escape(_name(chart))}</h3></div>'
            f"{chart_svg(chart, NARROW, axes, number, report.ids)}{_caption(chart)}</figure>\n"
            for number, chart in enumerate(others, start=1)
        )
        parts.append(f'<h2>Every task and metric</h2>\n<div class="grid">{figures}</div>\n')
    parts.append(f"<h2>Every member</h2>\n{member_listing(report.charts, report.ids)}\n")
    about = "".join(map(provenance, report.sets)) + outside(report.external, _shown(report))
    parts.append(f'<h2>How it was measured</h2>\n<div class="about">{about}</div>\n')
    return "".join(parts)


def _headline(report: Report, chart: Chart) -> str:
    wide = chart_svg(chart, WIDE, size_axes(report.charts, 8), 0, report.ids)
    narrow = chart_svg(chart, NARROW, size_axes(report.charts, 5), 0, report.ids)
    units = "".join(
        f'<label><input type="radio" name="unit" value="{unit}"{" checked" * (unit == UNITS[0])}>'
        f"{_UNIT_NAMES[unit]}</label>"
        for unit in UNITS
    )
    keys = "".join(f"<li>{swatch_svg(line)}{escape(line.label)}</li>" for line in report.lines)
    noise = any(
        point.is_noise for each in report.charts for line in each.lines for point in line.points
    )
    hollow = " A hollow mark is within noise of the size below it." if noise else ""
    return (
        f'<figure class="card"><div class="heading"><h2>{escape(_heading(chart))}</h2>'
        '<fieldset class="units" data-script hidden><legend>Size in</legend>'
        f"<span>{units}</span></fieldset></div>"
        f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f'<ul class="legend">{keys}</ul>'
        f"{_caption(chart, f'Bars are one standard error.{hollow}')}</figure>"
    )


def _heading(chart: Chart) -> str:
    return (
        f"{label(chart.metric)}, {chart.task}"
        if chart.averaged
        else (f"{label(chart.metric)} on {chart.task}")
    )


def _name(chart: Chart) -> str:
    return f"{chart.task}, the family alone" if chart.close_up else chart.task


def _caption(chart: Chart, note: str = "") -> str:
    sentences = [note] if note else []
    if chart.averaged:
        sentences.append(f"The mean over {', '.join(chart.averaged)}.")
    if chart.left_out:
        sentences.append(f"Not measured on all of them: {', '.join(chart.left_out)}.")
    return f"<figcaption>{escape(' '.join(sentences))}</figcaption>" if sentences else ""


def _labels(report: Report) -> list[str]:
    names = {line.key: line.label for line in report.lines}
    return [names[one.key] for one in report.choices]


def _data(report: Report) -> dict[str, Any]:
    return {
        "overhead": OVERHEAD,
        "choices": [choice_data(one, report.charts[0]) for one in report.choices],
        "charts": [
            [tooltip(chart, line, point) for line in drawn(chart) for point in line.points]
            for chart in report.charts
        ],
    }


def _shown(report: Report) -> set[External]:
    measures = {(chart.task, chart.metric) for chart in report.charts}
    points = (point for some in report.external.values() for point in some)
    return {point for point in points if (point.task, point.metric) in measures}


def _title(sets: Sequence[ResultSet]) -> str:
    names = dict.fromkeys(
        each.name if each.provenance is None else each.provenance.name for each in sets
    )
    return f"Boomerang family of {' and '.join(names)}"


def _lead(report: Report) -> str:
    if not report.choices:
        return "Size against quality."
    layers = [each.layers for one in report.choices for each in one.candidates]
    what = "one distilled student" if len(report.sets) == 1 else "distilled students"
    whose = "its teacher" if len(report.sets) == 1 else "their teachers"
    return f"Models of {min(layers)} to {max(layers)} layers, all made of {what} and {whose}."


def _colours(lines: Sequence[Line]) -> str:
    light = "".join(f".c{line.index}{{color:{line.style.light}}}" for line in lines)
    system = "".join(
        f':root:not([data-theme="light"]) .c{line.index}{{color:{line.style.dark}}}'
        for line in lines
    )
    dark = "".join(
        f':root[data-theme="dark"] .c{line.index}{{color:{line.style.dark}}}' for line in lines
    )
    return f"{light}@media(prefers-color-scheme:dark){{{system}}}{dark}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it looks like markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
