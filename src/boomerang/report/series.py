"""Lines of points: the results of any number of sets, by series, order and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from ..baselines import BASELINES
from ..evaluate.results import FAMILY, PRETRAINED, Row
from .external import External
from .words import NOISE, Kind, Style, difference_of, is_difference, styles


class Key(NamedTuple):
    """What a line shows; models from elsewhere have no set, and their source as series."""

    set: str
    series: str
    order: str | None = None
    teacher: str = ""

    @property
    def kind(self) -> Kind:
        """Whether it is a family, a baseline, or models from elsewhere."""
        return "external" if not self.set else "family" if self.series == FAMILY else "baseline"

    @property
    def connected(self) -> bool:
        """Whether the points are sizes of one thing, such as members along an order."""
        # Members of free blocks and models of the user's own have nothing to do with one another.
        return bool(self.set) and (
            self.order is not None or self.series not in (FAMILY, PRETRAINED)
        )


@dataclass(frozen=True)
class Point:
    """One value of one model."""

    task: str
    metric: str
    value: float
    stderr: float | None
    parameters: int  # numbers stored
    bytes: int | None  # of the weights as measured; None where not known, as for layers
    layers: int | None
    member: tuple[int, ...] | None = None  # the patched layers; None of a model from elsewhere
    patch: int | None = None
    change: tuple[float, float | None] | None = None  # from the size below, and its paired error
    name: str = ""  # "student" or "teacher" at an end of a line; that of a model from elsewhere

    @property
    def model(self) -> tuple[object, ...]:
        """What identifies the model within its line."""
        return (self.member, self.name, self.parameters)

    @property
    def is_noise(self) -> bool:
        """Whether the change is less than `NOISE` of its paired standard errors."""
        if self.change is None or self.change[1] is None:
            return False
        return abs(self.change[0]) < NOISE * self.change[1]


@dataclass(frozen=True)
class Line:
    """Points that belong together: by increasing size, or in the order of their CSV file."""

    key: Key
    index: int  # its place among the lines of the report
    label: str
    style: Style
    points: tuple[Point, ...]

    def name_of(self, point: Point) -> str:
        """The name of a point's model or, of a member, that of the line."""
        return point.name if self.key.kind == "external" else self.label

    def of(self, task: str, metric: str) -> Line:
        """The line with the points of one task and metric alone."""
        chosen = (p for p in self.points if (p.task, p.metric) == (task, metric))
        return replace(self, points=tuple(chosen))


def all_lines(
    sets: Mapping[str, Sequence[Row]], external: Mapping[str, Sequence[External]]
) -> list[Line]:
    """Every line with the points of every task and metric, the families first.

    The sets are rows that `shown` returned, by name; models from elsewhere are by source.
    """
    found: dict[Key, list[Row]] = {}
    seen: set[frozenset[Row]] = set()
    for name, rows in sets.items():
        mine: dict[Key, list[Row]] = {}
        for row in rows:
            mine.setdefault(Key(name, row.series, row.order, row.teacher), []).append(row)
        # Two sets may hold the very same baseline, measured once.
        found |= {key: some for key, some in mine.items() if frozenset(some) not in seen}
        seen |= set(map(frozenset, mine.values()))
    points = {key: _points(found[key]) for key in sorted(found, key=lambda k: k.kind != "family")}
    points = {key: some for key, some in points.items() if some}
    labels = {key: _label(key, points) for key in points}
    for source, some in external.items():
        labels[Key("", source)] = source
        points[Key("", source)] = [Point(**asdict(one)) for one in some]
    looks = styles([(key.kind, key.series) for key in points])
    return [
        Line(key, index, labels[key], look, tuple(points[key]))
        for index, (key, look) in enumerate(zip(points, looks, strict=True))
    ]


def series_name(series: str) -> str:
    """A series in words; a variant of a study by its own name."""
    known = BASELINES.get(series)
    return "boomerang family" if series == FAMILY else known.label if known else series


def _points(rows: Sequence[Row]) -> list[Point]:
    """The points of one line, by increasing size."""
    values = {(row.student, row.member, *row.measure): row for row in rows}
    student = next((row for row in rows if not row.member), None)
    # A baseline without an order is of models that stand alone: no member, no end.
    ends = {}
    if student is not None and (student.series == FAMILY or student.order is not None):
        ends = {student.num_layers: "teacher", 0: "student"}
    points = []
    for row in sorted(rows, key=lambda row: (row.num_layers, row.parameters)):
        if is_difference(row.metric):
            continue
        change = values.get((row.student, row.member, row.task, difference_of(row.metric)))
        difference = None if change is None else (change.value, change.stderr)
        name = ends.get(len(row.member), "")
        size = (row.parameters, row.bytes, row.num_layers, row.member, row.patch)
        points.append(Point(row.task, row.metric, row.value, row.stderr, *size, difference, name))
    return points


def _label(key: Key, keys: Mapping[Key, object]) -> str:
    """The name of a series, with what tells it from others in the report."""
    label = series_name(key.series)
    # A model that stands alone is along no order, and needs no word about it.
    orders = {other.order for other in keys if other.order is not None or other.kind == "family"}
    if len(orders) > 1 and (key.order is not None or key.kind == "family"):
        order = "free blocks" if key.order is None else key.order
        # A path or a list of its own may be long.
        label += f", {order if len(order) <= 28 else f'{order[:25]}…'}"
    if len({other.set for other in keys}) > 1:
        label += f" · {key.set}"
    if len({other.teacher for other in keys if other.set == key.set}) > 1:
        label += f", teacher {key.teacher}"
    return label
