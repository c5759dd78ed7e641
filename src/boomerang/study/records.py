"""The output directory of a study: a record for each finished run, and what they add up to.

A record is written whole when its run is done, and never changes. The results and costs of the
study are collected from the records of the runs that the study now has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..checkpoint.output import is_occupied, write_text
from ..errors import OutputError, ResultsError
from ..evaluate.provenance import PROVENANCE_FILE
from ..evaluate.results import RESULTS_FILE, Row
from ..evaluate.store import SETTINGS_FILE
from .plan import Job, Plan

JOBS_FILE = "jobs.jsonl"

_STUDY = "study.json"


class Cost(BaseModel):
    """What a run took.

    Attributes:
        cpu_seconds: Processor time of all its threads, loading included.
        wall_seconds: Elapsed time.
        threads: Threads that it computed with on the CPU.
        device: `cpu`, or the accelerator's name.
        resumed: Whether it continued a stopped run, whose time is not counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_seconds: float
    wall_seconds: float
    threads: int
    device: str
    resumed: bool


class Record(BaseModel):
    """What a run found.

    Attributes:
        job: Its name.
        cost: What it took.
        rows: What it measured, under the names of series that evaluation gives.
        evaluation: The settings it measured with, as in `evaluation.json`; empty of a distillation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    cost: Cost
    rows: tuple[Row, ...] = ()
    evaluation: dict[str, Any] = {}


@dataclass(frozen=True)
class Directory:
    """The directory of a study, and what is where in it."""

    path: Path

    @property
    def texts(self) -> Path:
        """The embedded teacher's texts."""
        return self.path / "text"

    @property
    def logs(self) -> Path:
        """What runs print: a directory for each run."""
        return self.path / "logs"

    def student(self, job: str) -> Path:
        """Where a distillation leaves its student."""
        return self.path / "students" / job

    def scratch(self, job: str) -> Path:
        """Where a run works until it is done."""
        return self.path / "work" / job

    def family(self, job: str) -> Path:
        """`family.json` of a family that was measured."""
        return self.path / "families" / f"{job}.json"

    def record(self, job: str) -> Path:
        """The record of a run."""
        return self.path / "records" / f"{job}.json"

    def write_record(self, record: Record) -> None:
        """Mark a run as done."""
        write_text(self.record(record.job), record.model_dump_json() + "\n")

    def done(self) -> frozenset[str]:
        """The runs that are done, of whatever study; a distillation while its student is there."""
        names = {path.stem for path in (self.path / "records").glob("*.json")}
        students = {path.parent.name for path in (self.path / "students").glob("*/config.json")}
        return frozenset(n for n in names if not n.startswith("distil-") or n in students)

    def claim(self, teacher: str) -> None:
        """Make the directory that of a study of one teacher, or see that it is.

        Args:
            teacher: The teacher's content hash.

        Raises:
            OutputError: It holds something else, or cannot be written.
        """
        path = self.path / _STUDY
        content = {"schema_version": 1, "teacher": teacher}
        if not path.exists():
            if is_occupied(self.path):
                raise OutputError(
                    "is not empty and holds no study", where=self.path, fix="name another directory"
                )
            write_text(path, json.dumps(content) + "\n")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise OutputError("cannot be read as JSON", where=path) from None
        if found != content:
            raise OutputError(
                "holds the study of another teacher", where=self.path, fix="name another directory"
            )

    def collect(self, plan: Plan) -> list[Row]:
        """Write `results.jsonl`, `jobs.jsonl` and what the report needs, from the records.

        Args:
            plan: The study as it is now; runs that it does not have any more are left out.

        Returns:
            The rows, each with its series and seed.

        Raises:
            ResultsError: A record is damaged.
        """
        records = {name: _read(self.record(name)) for name in plan.jobs}
        rows: list[Row] = []
        for entry in plan.entries:
            if record := records[entry.job]:
                changes = {"series": entry.series, "seed": entry.seed}
                rows += [row.model_copy(update=changes) for row in record.rows]
        _write(self.path / RESULTS_FILE, "".join(f"{row.model_dump_json()}\n" for row in rows))
        costs = [
            {**_describe(job, plan), **record.cost.model_dump()}
            for name, job in plan.jobs.items()
            if (record := records[name])
        ]
        _write(self.path / JOBS_FILE, "".join(f"{json.dumps(cost)}\n" for cost in costs))
        first = next((e.job for e in plan.entries if plan.jobs[e.job].kind == "family"), None)
        if first is not None and (record := records[first]):
            _write(self.path / SETTINGS_FILE, json.dumps(record.evaluation, indent=2) + "\n")
            if self.family(first).exists():
                _write(self.path / PROVENANCE_FILE, self.family(first).read_text(encoding="utf-8"))
        return rows


def _read(path: Path) -> Record | None:
    """What a run found, if it is done."""
    if not path.exists():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"is no record of a run ({str(error).splitlines()[0]})"
        raise ResultsError(what, where=path, fix="remove it to do it again") from None


def _describe(job: Job, plan: Plan) -> dict[str, Any]:
    """What `jobs.jsonl` says about a run besides its cost."""
    measured = {name for name, other in plan.jobs.items() if job.name in (other.needs, other.name)}
    entries = [entry for entry in plan.entries if entry.job in measured]
    return {
        "job": job.name,
        "kind": job.kind,
        "title": job.title,
        "series": list(dict.fromkeys(entry.series for entry in entries)),
        "seed": entries[0].seed if entries else None,
        "num_layers": len(job.work["keep"]) if job.kind == "distil" else None,
        "tokens": job.tokens,
        "flops": job.flops,
    }


def _write(path: Path, text: str) -> None:
    """Write a file unless it says so already: what has not changed keeps its date."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
