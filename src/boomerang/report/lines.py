"""Lines of points: what a report shows of any number of sets, called and drawn alike everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ResultsError
from ..evaluate.results import FAMILY, PRETRAINED, Row
from .external import External
from .metrics import difference_of, is_difference, is_noise
from .styles import Kind, Style, styles

_NAMES = {
    FAMILY: "boomerang family",
    "naive": "naive pruning",
    "random": "random initialisation",
    "shortgpt": "ShortGPT",
    "laco": "LaCo",
    "distilled": "distilled one by one",
}

Key = tuple[str, str, str | None, str]
"""What a line is of, in every chart: set, series, order, teacher."""


@dataclass(frozen=True)
class Point:
    """One measured value.

    Args:
        parameters: Numbers stored.
        bytes: Of the weights as measured, or None where not known.
        layers: The number of layers, or None.
        value: The value.
        stderr: Its standard error, or None.
        member: The patched layers, or None of a model from elsewhere.
        patch: k, or None.
        change: The difference to the member one size below, and its paired standard error, or None.
        name: Of a model from elsewhere, its name; of the ends of a line `student` and `teacher`.
    """

    parameters: int
    bytes: int | None
    layers: int | None
    value: float
    stderr: float | None
    member: tuple[int, ...] | None = None
    patch: int | None = None
    change: tuple[float, float | None] | None = None
    name: str = ""

    @property
    def is_noise(self) -> bool:
        """Whether it may well be as good or bad as the member one size below."""
        return self.change is not None and is_noise(*self.change)


@dataclass(frozen=True)
class Line:
    """Points that belong together.

    Args:
        key: What it is of.
        index: Its place among the lines of the report.
        kind: The family, what it is compared with, or models from elsewhere.
        label: What it is called in this report.
        style: How it is drawn.
        connected: Whether the points are sizes of one thing: members along an order, or what one
            baseline makes of the teacher at each size.
        points: By increasing size, at least one.
    """

    key: Key
    index: int
    kind: Kind
    label: str
    style: Style
    connected: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curve:
    """One metric of one series on one task, along one order.

    Attributes:
        name: The series in words.
        rows: The points by increasing size, at least one.
        student: The point with nothing patched, if it was measured.
        teacher: The point with everything patched, if it was measured.
    """

    name: str
    rows: tuple[Row, ...]
    student: Row | None
    teacher: Row | None

    @property
    def series(self) -> str:
        """The series of the rows."""
        return self.rows[0].series


@dataclass(frozen=True)
class Lines:
    """The lines of a whole report: a label and a style each, the same in every chart.

    Args:
        labels: What each line is called, in the report's order.
        styles: How it is drawn.
    """

    labels: dict[Key, str]
    styles: dict[Key, Style]

    @classmethod
    def of(
        cls, sets: Mapping[str, Sequence[Row]], external: Mapping[str, Sequence[External]]
    ) -> Lines:
        """The lines that these results have.

        Args:
            sets: Rows that hold, by the name of their set.
            external: Models from elsewhere, by the name of their source.
        """
        keys: dict[Key, str] = {}
        seen: set[frozenset[Row]] = set()
        for set_name, some in sets.items():
            mine: dict[Key, list[Curve]] = {}
            for curve in _all_curves(some):
                mine.setdefault(_key(set_name, curve), []).append(curve)
            for key, parts in mine.items():
                # Two sets may hold the very same baseline, measured once.
                rows = frozenset(row for part in parts for row in part.rows)
                if rows not in seen:
                    seen.add(rows)
                    keys[key] = parts[0].name
        ordered = sorted(keys, key=lambda key: key[1] != FAMILY)
        labels = {key: _label(key, keys, len(sets) > 1) for key in ordered}
        labels |= {_external_key(source): source for source in external}
        kinds = [(_kind(key), key[1]) for key in labels]
        return cls(labels, dict(zip(labels, styles(kinds), strict=True)))

    def lines(
        self,
        rows: Mapping[str, Sequence[Row]],
        external: Mapping[str, Sequence[External]],
        task: str,
        metric: str,
    ) -> tuple[Line, ...]:
        """The lines of one task and metric, in the order of the report."""
        found: dict[Key, tuple[bool, tuple[Point, ...]]] = {}
        for name, some in rows.items():
            if not any(row.measure == (task, metric) for row in some):
                continue
            changes = {
                _identity(row): (row.value, row.stderr)
                for row in some
                if row.measure == (task, difference_of(metric))
            }
            for curve in curves(some, task=task, metric=metric):
                found[_key(name, curve)] = (_is_path(curve), _points(curve, changes))
        for source, points in external.items():
            mine = [_outside(p) for p in points if (p.task, p.metric) == (task, metric)]
            if mine:
                found[_external_key(source)] = (False, tuple(mine))
        return tuple(
            Line(key, index, _kind(key), label, self.styles[key], *found[key])
            for index, (key, label) in enumerate(self.labels.items())
            if key in found
        )

    def lines_of(self, rows: Mapping[str, Sequence[Row]], metric: str) -> list[Line]:
        """Every line that has the metric on any task."""
        measures = {row.measure for some in rows.values() for row in some if row.metric == metric}
        return [line for task, _ in measures for line in self.lines(rows, {}, task, metric)]


def _is_path(curve: Curve) -> bool:
    # Members of free blocks and models of the user's own have nothing to do with one another.
    return curve.rows[0].order is not None or curve.series not in (FAMILY, PRETRAINED)


def _all_curves(rows: Sequence[Row]) -> list[Curve]:
    measures = dict.fromkeys(row.measure for row in rows if not is_difference(row.metric))
    return [c for task, metric in measures for c in curves(rows, task=task, metric=metric)]


def _key(set_name: str, curve: Curve) -> Key:
    row = curve.rows[0]
    return (set_name, row.series, row.order, row.teacher)


def _external_key(source: str) -> Key:
    return ("", source, None, "")


def _kind(key: Key) -> Kind:
    set_name, series, _, _ = key
    return "external" if not set_name else "family" if series == FAMILY else "baseline"


def _label(key: Key, names: dict[Key, str], several_sets: bool) -> str:
    set_name, series, order, teacher = key
    label = names[key]
    # A model that stands alone is along no order, and needs no word about it.
    orders = {other[2] for other in names if other[2] is not None or other[1] == FAMILY}
    if len(orders) > 1 and (order is not None or series == FAMILY):
        label += f", {_order(order)}"
    if several_sets:
        label += f" · {set_name}"
    if len({other[3] for other in names if other[0] == set_name}) > 1:
        label += f", teacher {teacher}"
    return label


def _order(order: str | None) -> str:
    if order is None:
        return "free blocks"
    # A path or a list of its own may be long.
    return order if len(order) <= 28 else f"{order[:25]}…"


def _identity(row: Row) -> tuple[object, ...]:
    return (row.teacher, row.student, row.series, row.order, row.member)


def _points(
    curve: Curve, changes: dict[tuple[object, ...], tuple[float, float | None]]
) -> tuple[Point, ...]:
    return tuple(
        Point(
            parameters=row.parameters,
            bytes=row.bytes,
            layers=row.num_layers,
            value=row.value,
            stderr=row.stderr,
            member=row.member,
            patch=row.patch,
            change=changes.get(_identity(row)),
            name=_end(curve, row),
        )
        for row in curve.rows
    )


def _end(curve: Curve, row: Row) -> str:
    # A model that stands alone has no patched layers either.
    if row.series != FAMILY and row.order is None:
        return ""
    return "student" if row is curve.student else "teacher" if row is curve.teacher else ""


def _outside(point: External) -> Point:
    return Point(
        point.parameters, point.bytes, point.layers, point.value, point.stderr, name=point.name
    )


def curves(
    rows: Sequence[Row], *, task: str | None = None, metric: str = "perplexity"
) -> list[Curve]:
    """The curves of one task and metric, the family first, each in the order it was measured in.

    Args:
        rows: Rows that hold, one for all seeds: what `shown` returned.
        task: The task; may be left out when the rows are of one task only.
        metric: The metric.

    Raises:
        ResultsError: There are no rows of them, or several tasks and none named.
    """
    task = only_task(rows) if task is None else task
    chosen = [row for row in rows if row.measure == (task, metric)]
    if not chosen:
        raise ResultsError(f"there are no results for {metric} of {task}")
    groups: dict[tuple[str, str | None, str], list[Row]] = {}
    for row in chosen:
        groups.setdefault((row.series, row.order, row.teacher), []).append(row)
    keys = sorted(groups, key=lambda key: key[0] != FAMILY)
    result = []
    for key in keys:
        points = sorted(groups[key], key=lambda row: (row.num_layers, row.parameters))
        name = _NAMES.get(key[0], key[0])
        result.append(Curve(name, tuple(points), _student(points), _teacher(points)))
    return result


def only_task(rows: Sequence[Row]) -> str:
    """The task of rows that are all of one task.

    Raises:
        ResultsError: There are no rows, or several tasks.
    """
    tasks = sorted({row.task for row in rows})
    if not tasks:
        raise ResultsError("there are no results", fix="run `boomerang evaluate` first")
    if len(tasks) > 1:
        raise ResultsError(f"there are results for {', '.join(tasks)}", fix="name one task")
    return tasks[0]


def _student(points: Sequence[Row]) -> Row | None:
    return next((row for row in points if not row.member), None)


def _teacher(points: Sequence[Row]) -> Row | None:
    # Everything is patched in the member that has as many patched layers as the student has layers.
    student = _student(points)
    if student is None:
        return None
    return next((row for row in points if len(row.member) == student.num_layers), None)
