"""The report as one HTML file that fetches nothing.

One jinja2 template makes it and escapes all text from results. A content security policy lets in
this one script and this one style sheet, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..sizing import OVERHEAD
from ..units import show_bytes, show_count_briefly
from ..version import __version__
from .budget import Choices, choices
from .charts import Chart, models
from .external import External
from .figure import UNITS, SizeAxis
from .sentences import better_and_smaller, change, in_context, tooltip
from .sources import ResultSet
from .svg import NARROW, WIDE, Canvas, Name, swatch
from .words import NOISE, better, bytes_unit, label, show_value, show_with_error

GENERATOR = "boomerang report"


def page(
    charts: Sequence[Chart],
    sets: Sequence[ResultSet],
    external: Mapping[str, Sequence[External]],
    title: str | None = None,
) -> str:
    """The whole file; the charts are of these sets and models from elsewhere, by source.

    The title is by default after the teachers.
    """
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
    keys = {line.key: line for chart in charts for line in chart.lines}
    lines = sorted(keys.values(), key=lambda line: line.index)
    # What two sets hold alike is drawn once, and is offered once.
    offered = [one for one in choices(sets) if one.key in keys]
    # The script knows a member by its places among the families and within its own.
    ids: dict[Name, str] = {
        (one.key, each.row.member): f"{i}:{j}"
        for i, one in enumerate(offered)
        for j, each in enumerate(one.candidates)
    }
    names = dict.fromkeys(each.provenance.name if each.provenance else each.name for each in sets)
    # Close-ups repeat the values of others.
    whole = [chart for chart in charts if not chart.close_up]
    measures = {(chart.task, chart.metric) for chart in charts}
    outside = [one for points in external.values() for one in points]
    absent = [one for one in outside if (one.task, one.metric) not in measures]
    return environment.from_string(template).render(
        generator=GENERATOR,
        version=__version__,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        data={
            "choices": [_choice(one, charts[0]) for one in offered],
            "charts": [
                [tooltip(chart, line, point) for line in chart.lines for point in line.points]
                for chart in charts
            ],
        },
        title=f"Boomerang family of {' and '.join(names)}" if title is None else title,
        sets=sets,
        external=external,
        absent=dict.fromkeys(f"{one.metric} on {one.task}" for one in absent),
        charts=charts,
        drawings=_drawings(charts, ids),
        hollow=any(point.is_noise for chart in charts for point in chart.points),
        measured=whole,
        models=models(whole),
        ids=ids,
        choices=offered,
        layers=[each.row.num_layers for one in offered for each in one.candidates],
        labels={line.key: line.label for line in lines},
        swatches=[(line, swatch(line)) for line in lines],
        overhead=OVERHEAD,
        noise=NOISE,
        with_error=show_with_error,
    )


def _drawings(
    charts: Sequence[Chart], ids: Mapping[Name, str]
) -> list[list[tuple[tuple[int, int], Markup]]]:
    """For each chart its drawings and their sizes: of the first one a wide and a narrow one."""
    axes = [SizeAxis.of(unit, charts) for unit in UNITS]
    wide, narrow = (Canvas(size, axes, ids) for size in (WIDE, NARROW))
    found = [[(NARROW, narrow.draw(each, f"m{n}n"))] for n, each in enumerate(charts)]
    found[0].insert(0, (WIDE, wide.draw(charts[0], "m0w")))
    return found


def _choice(one: Choices, headline: Chart) -> dict[str, Any]:
    """What the page's script reads of a family; memory is stated for each context."""
    words = {
        point.member: (
            in_context(headline, line, point),
            better_and_smaller(headline, line.points, index),
        )
        for line in headline.lines
        if line.key == one.key
        for index, point in enumerate(line.points)
    }
    members = []
    for each in one.candidates:
        needs = [each.memory(context) for context in one.contexts]
        last, count = one.candidates[-1].row.patch, show_count_briefly(each.parameters)
        quality, rival = words.get(each.row.member, ("", ""))
        members.append({
            "layers": each.row.num_layers,
            "memory": [(need.weights, need.cache, need.workspace, need.total) for need in needs],
            "about": f"Patch {each.row.patch} of {last}, {count} parameters.",
            "quality": quality,
            "rival": rival,
            "command": each.command,
        })  # fmt: skip
    return {
        "unit": bytes_unit(one.needs[-1][0]),
        "context": one.context,
        "contexts": one.contexts,
        "members": members,
    }


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
