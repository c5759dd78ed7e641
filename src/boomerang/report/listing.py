"""Every member and every metric as an HTML table that reads without its script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..units import show_bytes, show_count_briefly
from .charts import Chart
from .lines import Line, Point
from .metrics import NOISE, better, label
from .scale import show_with_error
from .svg import Name, swatch_svg
from .words import change

_SIZES = ("Patch", "Layers", "Parameters", "Weights")
_NONE = "<td>-</td>"


def member_listing(charts: Sequence[Chart], ids: Mapping[Name, str]) -> str:
    """The table, a row for each point of each line.

    Args:
        charts: At least one; close-ups repeat the values of others and are passed over.
        ids: What the script knows members by, of those that can be chosen.
    """
    charts = [chart for chart in charts if not chart.close_up]
    rows: dict[tuple[object, ...], tuple[Line, Point]] = {}
    values: dict[tuple[tuple[object, ...], int], Point] = {}
    for number, chart in enumerate(charts):
        for line in chart.lines:
            for point in line.points:
                who = _who(line, point)
                rows.setdefault(who, (line, point))
                values[who, number] = point
    heads = [_head(name, None) for name in ("Model", *_SIZES)]
    heads += [_head(label(chart.metric), chart) for chart in charts]
    ordered = sorted(rows.items(), key=lambda row: row[1][0].index)
    body = [
        _row(line, point, [values.get((who, n)) for n in range(len(charts))], ids)
        for who, (line, point) in ordered
    ]
    return (
        '<div class="card scroll" tabindex="0" role="region" aria-label="Every member">'
        f"<table><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
        '<p class="quiet">± one standard error; ≈ a change from the size below of less than '
        f"{NOISE} paired standard errors, which may well be noise.</p>"
    )


def _who(line: Line, point: Point) -> tuple[object, ...]:
    return (line.key, point.member, "" if line.kind != "external" else point.name, point.parameters)


def _head(name: str, chart: Chart | None) -> str:
    small = ""
    if chart is not None:
        hint = better(chart.metric)
        small = f"<small>{escape(chart.task)}</small>"
        small += f"<small>{hint}</small>" if hint else ""
    return f'<th scope="col">{small}<button type="button">{escape(name)}</button></th>'


def _row(line: Line, point: Point, values: Sequence[Point | None], ids: Mapping[Name, str]) -> str:
    known = ids.get((line.key, point.member))
    name = point.name if line.kind == "external" else line.label
    end = f" <small>{point.name}</small>" if line.kind == "family" and point.name else ""
    title = escape(f"{name} {point.name}".strip())
    cells = [
        f'<th scope="row" title="{title}" data-v="{escape(name)}">'
        f"{swatch_svg(line)}{escape(name)}{end}</th>",
        _cell(point.patch, str(point.patch)),
        _cell(point.layers, str(point.layers)),
        _cell(point.parameters, show_count_briefly(point.parameters)),
        _cell(point.bytes, show_bytes(point.bytes or 0)),
        *(_value(value) for value in values),
    ]
    chosen = "" if known is None else f' data-member="{known}"'
    return f"<tr{chosen}>{''.join(cells)}</tr>"


def _cell(value: int | None, text: str) -> str:
    return _NONE if value is None else f'<td data-v="{value}">{text}</td>'


def _value(point: Point | None) -> str:
    if point is None:
        return _NONE
    value, _, error = show_with_error(point.value, point.stderr).partition(" ± ")
    text = f"{value} <small>± {error}</small>" if error else value
    told = "" if point.change is None else f' title="{escape(change(point))}"'
    mark = ' <span class="noise" aria-label="within noise">≈</span>' if point.is_noise else ""
    return f'<td data-v="{point.value!r}"{told}>{text}{mark}</td>'
