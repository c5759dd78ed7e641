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
from .about import card, external_card
from .budget import Candidate, Choices, choices
from .charts import Chart, charts, is_log
from .external import External
from .figure import UNITS, SizeAxis
from .lines import Line
from .listing import better_and_smaller, description, in_context, member_listing, tooltip
from .metrics import NOISE, better, bytes_unit, label
from .sources import ResultSet
from .styles import PALETTE
from .svg import NARROW, WIDE, Canvas, Name, swatch

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
    texts = {
        name: (assets / name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js", "page.html")
    }
    style, script = texts["page.css"] + _palette(), texts["page.js"]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(texts["page.html"]).render(
        generator=f"{GENERATOR} {__version__}",
        version=__version__,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        data=_data(report),
        title=report.title,
        lead=_lead(report),
        units=[(unit, _UNIT_NAMES[unit]) for unit in UNITS],
        overhead=f"{OVERHEAD:.0%}",
        noise=NOISE,
        legend=[(line.index, line.label, swatch(line)) for line in report.lines],
        charts=_charts(report),
        choices=list(map(_choice, report.choices, _names(report))),
        listing=member_listing(report.charts, report.ids),
        cards=[
            *map(card, report.sets),
            *([external_card(report.external, _shown(report))] if report.external else []),
        ],
    )  # fmt: skip


def _charts(report: Report) -> list[dict[str, Any]]:
    axes = [SizeAxis.of(unit, report.charts) for unit in UNITS]
    wide, narrow = (Canvas(size, axes, report.ids) for size in (WIDE, NARROW))
    hollow = any(
        point.is_noise for each in report.charts for line in each.lines for point in line.points
    )
    found = []
    for number, chart in enumerate(report.charts):
        note = "Bars are one standard error." + (
            " A hollow mark is within noise of the size below it." * hollow
        )
        hint = better(chart.metric)
        joint = ", " if chart.averaged else " on "
        heading = f"{label(chart.metric)}{joint}{chart.task}"
        canvases = [wide, narrow] if number == 0 else [narrow]
        found.append({
            "name": heading if number == 0 else chart.task + ", the family alone" * chart.close_up,
            "axis": label(chart.metric) + f" ({hint})" * bool(hint) + ", log scale" * is_log(chart),
            "description": description(chart),
            "caption": _caption(chart, note * (number == 0)),
            "drawings": [
                (canvas.size, canvas.draw(chart, f"m{number}{'wn'[canvas is narrow]}"))
                for canvas in canvases
            ],
        })  # fmt: skip
    return found


def _caption(chart: Chart, note: str) -> str:
    sentences = [note] if note else []
    if chart.averaged:
        sentences.append(f"The mean over {', '.join(chart.averaged)}.")
    if chart.left_out:
        sentences.append(f"Not measured on all of them: {', '.join(chart.left_out)}.")
    return " ".join(sentences)


def _names(report: Report) -> list[str]:
    names = {line.key: line.label for line in report.lines}
    return [names[one.key] for one in report.choices]


def _choice(one: Choices, name: str) -> dict[str, Any]:
    """A family for those without the script."""
    few = one.everything is not None and len(one.candidates) < one.everything
    needs = sorted(
        ((each.memory(one.context or 1).total, each) for each in one.candidates),
        key=lambda need: need[0],
    )
    return {
        "name": name,
        "context": one.context,
        "note": f"{name}: of {one.everything} sizes {len(one.candidates)} were measured, and only "
        "those are offered." if few else "",
        "rows": [(show_bytes(total), each.layers, each.command) for total, each in needs],
    }  # fmt: skip


def _data(report: Report) -> dict[str, Any]:
    """What the page's script reads."""
    return {
        "choices": [_choice_data(one, report.charts[0]) for one in report.choices],
        "charts": [
            [tooltip(chart, line, point) for line in chart.lines for point in line.points]
            for chart in report.charts
        ],
    }


def _choice_data(one: Choices, headline: Chart) -> dict[str, Any]:
    largest = max(each.memory(one.context or 1).total for each in one.candidates)
    line = next((line for line in headline.lines if line.key == one.key), None)
    return {
        "unit": bytes_unit(largest),
        "context": one.context,
        "contexts": one.contexts,
        "members": [_member(one, each, headline, line) for each in one.candidates],
    }


def _member(one: Choices, each: Candidate, headline: Chart, line: Line | None) -> dict[str, Any]:
    points = () if line is None else line.points
    index = next((i for i, point in enumerate(points) if point.member == each.member), None)
    quality = rival = ""
    if line is not None and index is not None:
        quality = in_context(headline, line, points[index])
        rival = better_and_smaller(headline, points, index)
    last = one.candidates[-1].patch
    return {
        "layers": each.layers,
        # For each context: weights, cache, workspace and their sum.
        "memory": [
            (need.weights, need.cache, need.workspace, need.total)
            for need in map(each.memory, one.contexts)
        ],
        "about": f"Patch {each.patch} of {last}, {show_count_briefly(each.parameters)} parameters.",
        "quality": quality,
        "rival": rival,
        "command": each.command,
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


def _palette() -> str:
    """The lines' colours as variables, in both themes."""
    light, dark = (
        "".join(f"--c{pair[0][1:].lower()}:{pair[theme]};" for pair in PALETTE) for theme in (0, 1)
    )
    return (
        f":root{{{light}}}"
        f'@media(prefers-color-scheme:dark){{:root:not([data-theme="light"]){{{dark}}}}}'
        f':root[data-theme="dark"]{{{dark}}}'
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
