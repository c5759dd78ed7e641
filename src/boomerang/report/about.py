"""How the results were measured, and what is missing, as cards for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluate.provenance import Provenance
from ..evaluate.results import FAMILY
from .external import External
from .sources import ResultSet


@dataclass(frozen=True)
class Card:
    """Facts about one source of measurements.

    Args:
        name: The heading.
        notes: What is missing, in sentences.
        facts: Texts by name.
        recipe: The student's recipe, or nothing.
        tasks: The settings of each task, by its name.
    """

    name: str
    notes: Sequence[str]
    facts: Mapping[str, str]
    recipe: str = ""
    tasks: Mapping[str, str] = field(default_factory=dict)


def card(each: ResultSet) -> Card:
    """Where one set of results comes from."""
    facts = {"Results": str(each.path)}
    found = each.provenance
    if found is not None:
        facts |= _family(found)
    facts |= _series(each)
    facts |= _settings(each.settings)
    if found is not None and not found.recipe:
        facts["Recipe"] = "none is recorded with the student"
    recipe = "" if found is None else found.recipe or ""
    tasks = {name: _plain(entry) for name, entry in each.tasks.items()}
    return Card(each.name, each.missing, facts, recipe, tasks)


def external_card(external: Mapping[str, Sequence[External]], shown: set[External]) -> Card:
    """Which models come from elsewhere, and which of their values have no figure."""
    facts = {
        source: ", ".join(dict.fromkeys(point.name for point in points))
        for source, points in external.items()
    }
    absent = [point for points in external.values() for point in points if point not in shown]
    names = ", ".join(dict.fromkeys(f"{point.metric} on {point.task}" for point in absent))
    note = f"Not shown, since no member was measured so: {names}."
    return Card("Measured elsewhere", [note] if absent else [], facts)


def _family(found: Provenance) -> dict[str, str]:
    order = found.order if isinstance(found.order, str) else _numbers(found.order)
    return {
        "Teacher": f"{found.teacher.reference} ({found.num_teacher_layers} layers, "
        f"content {found.teacher.hash})",
        "Student": f"{found.student.reference} ({len(found.kept_layers)} layers, "
        f"content {found.student.hash})",
        "Kept layers": _numbers(found.kept_layers),
        "Default order": order,
        "Built in": found.dtype or "the teacher's dtypes",
        "Measured": found.measured,
        "With": ", ".join(f"{name} {version}" for name, version in found.tools.items()),
    }


def _series(each: ResultSet) -> dict[str, str]:
    """The hashes of each series that `family.json` does not name."""
    found = {}
    for series in dict.fromkeys(row.series for row in each.rows):
        if series != FAMILY or each.provenance is None:
            rows = [row for row in each.rows if row.series == series]
            found[f"Series {series}"] = f"teacher {rows[-1].teacher}, student {rows[-1].student}"
    return found


def _settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings of the evaluation that are plain values, as they are called there."""
    known = {"schema_version", "teacher", "student", "kept"}
    plain = {key: value for key, value in settings.items() if key not in known}
    return {
        key.replace("_", " ").capitalize(): str(value)
        for key, value in plain.items()
        if isinstance(value, str | int | float)
    }


def _plain(settings: Mapping[str, Any]) -> str:
    """The settings of a task in a line, without those that are off."""
    parts = (
        f"{key.replace('_', ' ')} {json.dumps(value) if isinstance(value, dict) else value}"
        for key, value in settings.items()
        if not isinstance(value, list) and value is not None and value is not False
    )
    whole = settings.get("tasks")
    return f"group of {', '.join(map(str, whole))}" if isinstance(whole, list) else ", ".join(parts)


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
