"""What a report is made from: sets of results, each with what is known of its family."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ResultsError
from ..evaluate.provenance import Built, Provenance, read_provenance
from ..evaluate.results import FAMILY, Row, current, read_results

_SETTINGS_FILE = "evaluation.json"


@dataclass(frozen=True)
class ResultSet:
    """One results directory.

    Args:
        name: What tells it from the others of the report.
        path: The directory or file it was read from.
        rows: The rows that hold.
        provenance: What its `family.json` says, if it is of the family in the rows; else None.
        missing: What the report cannot show for want of it, in sentences.
        settings: What its `evaluation.json` says, or nothing.
    """

    name: str
    path: Path
    rows: tuple[Row, ...]
    provenance: Provenance | None
    missing: tuple[str, ...]
    settings: dict[str, Any]

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

    def built(self, member: tuple[int, ...]) -> Built | None:
        """A member as `build` writes it, where `family.json` says so."""
        sizes = () if self.provenance is None else self.provenance.built
        return next((size for size in sizes if size.member == member), None)


def read_sets(paths: Sequence[str | Path]) -> list[ResultSet]:
    """Read sets of results.

    Args:
        paths: Directories with a `results.jsonl`, or such files.

    Raises:
        ResultsError: One cannot be read, is damaged or empty, or is named twice.
    """
    places = [Path(path) for path in paths]
    resolved = [place.resolve() for place in places]
    for place, real in zip(places, resolved, strict=True):
        if resolved.count(real) > 1:
            raise ResultsError("is named twice", where=place)
    return [_read(place, name) for place, name in zip(places, _names(resolved), strict=True)]


def _read(path: Path, name: str) -> ResultSet:
    rows = current(read_results(path))
    if not rows:
        raise ResultsError("there are no results", where=path, fix="run `boomerang evaluate` first")
    provenance, missing = _provenance(path, rows)
    return ResultSet(name, path, tuple(rows), provenance, missing, _settings(path))


def _provenance(path: Path, rows: Sequence[Row]) -> tuple[Provenance | None, tuple[str, ...]]:
    measured = [row for row in rows if row.series == FAMILY]
    if not measured:
        return None, ("There are no rows of the family itself, only of baselines.",)
    provenance = read_provenance(path)
    consequence = (
        "the report does not know where teacher and student are, nor the KV cache of a member. "
        "Memory is weights as they were measured, and the command has TEACHER and STUDENT to fill "
        "in. `boomerang evaluate`, run again on the same directory, writes it."
    )
    if provenance is None:
        return None, (f"There is no family.json beside the results: {consequence}",)
    hashes = {(row.teacher, row.student) for row in measured}
    if (provenance.teacher.hash, provenance.student.hash) not in hashes:
        return None, (f"family.json is of another teacher or student: {consequence}",)
    if any(size.cache is None for size in provenance.built):
        unknown = "The KV cache of this architecture is not known: memory is weights alone."
        return provenance, (unknown,)
    return provenance, ()


def _settings(path: Path) -> dict[str, Any]:
    """How it was measured; of interest to the reader, and needed by nothing here."""
    place = (path if path.is_dir() else path.parent) / _SETTINGS_FILE
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    places = [path.parent if path.suffix == ".jsonl" else path for path in paths]
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
