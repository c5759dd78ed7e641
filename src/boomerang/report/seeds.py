"""Rows that differ in the seed alone, as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

from ..evaluate.results import Row, current


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows that still hold, as a reader wants them: the mean over seeds.

    Called once, on all rows of a file. Of the rows it returned, or of one task alone, it would take
    another student for the current one.

    Args:
        rows: Rows in the order of writing.
    """
    return mean_over_seeds(current(rows))


def mean_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """For each thing that was measured with several seeds, the mean.

    All seeds were measured on the same items, so that more of them make only their own share of
    the error smaller: with n seeds, s the standard deviation over them and e their mean standard
    error over items, the mean's standard error is √(e² + s²/n). With one seed, s is not known and
    e is what there is.

    Args:
        rows: Rows that hold; those without a seed stay as they are.

    Returns:
        Rows without seeds. As `student` they have that of the first seed.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_but_for_the_seed(row), []).append(row)
    return [_mean(group) for group in groups.values()]


def _but_for_the_seed(row: Row) -> tuple[object, ...]:
    if row.seed is None:
        return row.key
    what = (row.teacher, row.series, row.order, row.member, row.num_layers)
    return (*what, row.parameters, *row.measure)


def _mean(rows: Sequence[Row]) -> Row:
    rows = sorted(rows, key=lambda row: row.seed or 0)
    values = [row.value for row in rows]
    errors = [row.stderr for row in rows if row.stderr is not None]
    stderr = None
    if len(errors) == len(rows):
        spread = stdev(values) if len(values) > 1 else 0.0
        stderr = math.sqrt(mean(errors) ** 2 + spread**2 / len(values))
    return rows[0].model_copy(update={"value": mean(values), "stderr": stderr, "seed": None})
