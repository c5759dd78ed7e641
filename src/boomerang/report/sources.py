"""What a report is made from: sets of results, each with what is known of its family."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..errors import ResultsError
from ..evaluate.provenance import Provenance, read_provenance
from ..evaluate.results import FAMILY, Row, current, read_results
from .words import is_difference

LARGEST = 1e100
"""Sums and ratios of values up to here are finite; no sensible value is larger."""

_SETTINGS_FILE = "evaluation.json"

# Settings of a task that differ with the tokenizer.
_HASHES = ("content", "text")


@dataclass(frozen=True)
class ResultSet:
    """One results directory."""

    name: str  # different from all others in the report
    path: Path
    rows: tuple[Row, ...]  # that hold, means over seeds
    provenance: Provenance | None  # of `family.json`, if it is of the family in the rows
    missing: tuple[str, ...]  # what cannot be shown or compared, in sentences
    settings: dict[str, Any]  # of `evaluation.json`

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The settings of each task, as `evaluation.json` says them; it may say nothing."""
        found = self.settings.get("tasks")
        entries = found.items() if isinstance(found, dict) else ()
        return {name: each for name, each in entries if isinstance(each, dict)}

    @property
    def groups(self) -> dict[str, frozenset[str]]:
        """The tasks of each group of tasks."""
        listed = ((name, each.get("tasks")) for name, each in self.tasks.items())
        return {name: frozenset(map(str, each)) for name, each in listed if isinstance(each, list)}


def read_sets(paths: Sequence[str | Path]) -> list[ResultSet]:
    """The sets of results in directories with a `results.jsonl`, or in such files.

    Raises:
        ResultsError: One cannot be read, is damaged or empty, or is named twice.
    """
    resolved = [Path(path).resolve() for path in paths]
    for path, real in zip(paths, resolved, strict=True):
        if resolved.count(real) > 1:
            raise ResultsError("is named twice", where=path)
    first, *others = map(_read, map(Path, paths), _names(resolved))
    return [first, *(_compared(each, first) for each in others)]


def _compared(each: ResultSet, first: ResultSet) -> ResultSet:
    """The set, with a note of what was not measured as in the first one."""
    notes = []
    for task, here in each.tasks.items():
        there = first.tasks.get(task, here)
        keys = [key for key in here if key not in _HASHES and there.get(key) != here[key]]
        if keys:
            words = ", ".join(key.replace("_", " ") for key in keys)
            notes.append(f"{task} was measured with other settings than in {first.name}: {words}.")
    return replace(each, missing=(*each.missing, *notes))


def _read(path: Path, name: str) -> ResultSet:
    found = shown(read_results(path))
    if all(is_difference(row.metric) for row in found):
        raise ResultsError("there are no results", where=path, fix="run `boomerang evaluate` first")
    rows = [row for row in found if _can_be_drawn(row)]
    if all(is_difference(row.metric) for row in rows):
        raise ResultsError(f"every value is beyond {LARGEST:g}", where=path)
    provenance, missing = _provenance(path, rows)
    settings = _settings(path)
    if len(rows) < len(found):
        names = {f"{row.metric} on {row.task}" for row in {*found} - {*rows}}
        missing += (f"Values beyond {LARGEST:g} are not shown: {', '.join(sorted(names))}.",)
    if settings is None:
        missing += (f"{_SETTINGS_FILE} is not there or damaged: settings are not known.",)
    return ResultSet(name, path, tuple(rows), provenance, missing, settings or {})


def _can_be_drawn(row: Row) -> bool:
    size = abs(row.value)
    return max(size, row.stderr or 0.0) <= LARGEST and (size == 0 or size >= 1 / LARGEST)


def _provenance(path: Path, rows: Sequence[Row]) -> tuple[Provenance | None, tuple[str, ...]]:
    measured = [row for row in rows if row.series == FAMILY]
    if not measured:
        return None, ("There are no rows of the family itself, only of baselines.",)
    found = read_provenance(path)
    if found is not None and any(
        (found.teacher.hash, found.student.hash) == (row.teacher, row.student) for row in measured
    ):
        known = all(size.cache is not None for size in found.built)
        unknown = "The KV cache of this architecture is not known: memory is weights alone."
        return found, () if known else (unknown,)
    problem = "family.json is of another teacher or student"
    if found is None:
        problem = "There is no family.json beside the results"
    return None, (
        f"{problem}: the report does not know where teacher and student are, nor the KV cache of a "
        "member. Memory is weights as they were measured, and the command has TEACHER and STUDENT "
        "to fill in. `boomerang evaluate`, run again on the same directory, writes it.",
    )


def _settings(path: Path) -> dict[str, Any] | None:
    """How it was measured; of interest to the reader, and needed by nothing here."""
    place = (path if path.is_dir() else path.parent) / _SETTINGS_FILE
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as make them differ."""
    places = [path.parent if path.suffix == ".jsonl" else path for path in paths]
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows that still hold, as a reader wants them: the mean over seeds.

    Called once, on all rows of a file (in the order of writing): given the rows it returned, or
    those of one task, it would take another student for the current one.
    """
    return mean_over_seeds(current(rows))


def mean_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """For each thing that was measured with several seeds, the mean; other rows as they are.

    All seeds were measured on the same items, so that more of them make only their own share of
    the error smaller: with n seeds, s the standard deviation over them and e their mean standard
    error over items, the mean's standard error is √(e² + s²/n). With one seed, s is not known and
    e is what there is.

    Args:
        rows: Rows that hold.

    Returns:
        Rows without seeds. As `student` they have that of the first seed.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        who = (row.teacher, row.series, row.order, row.member, row.num_layers, row.parameters)
        groups.setdefault(row.key if row.seed is None else (*who, *row.measure), []).append(row)
    return [_mean(group) for group in groups.values()]


def _mean(rows: Sequence[Row]) -> Row:
    rows = sorted(rows, key=lambda row: row.seed or 0)
    values = [row.value for row in rows]
    errors = [row.stderr for row in rows if row.stderr is not None]
    stderr = None
    if len(errors) == len(rows):
        spread = stdev(values) if len(values) > 1 else 0.0
        stderr = math.sqrt(mean(errors) ** 2 + spread**2 / len(values))
    return rows[0].model_copy(update={"value": mean(values), "stderr": stderr, "seed": None})
