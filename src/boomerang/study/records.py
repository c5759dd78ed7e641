"""The output directory of a study: one record for each run that is done, and what they add up to.

A record is written whole when its run is done, and never changes. Results and costs of the whole
study are put together from the records of the runs that the study now has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
REPORT_FILE = "report.html"

_RECORD = "study.json"


class Cost(BaseModel):
    """What a run took.

    Attributes:
        cpu_seconds: Of all threads of its process, loading included.
        wall_seconds: Passed meanwhile.
        threads: That it computed with on the CPU.
        device: `cpu`, or the accelerator's name.
        resumed: Whether it went on with what a stopped run had begun, whose time is not counted.
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
    """Where a study lies.

    Args:
        path: The directory.
    """

    path: Path

    @property
    def texts(self) -> Path:
        """The embedded teacher's texts."""
        return self.path / "text"

    @property
    def report(self) -> Path:
        """The page of all results."""
        return self.path / REPORT_FILE

    @property
    def figures(self) -> Path:
        """The figures that the study asks for."""
        return self.path / "figures"

    def student(self, job: str) -> Path:
        """Where a distillation leaves its student."""
        return self.path / "students" / job

    def scratch(self, job: str) -> Path:
        """Where a run works, until it is done."""
        return self.path / "work" / job

    @property
    def logs(self) -> Path:
        """The directory of what runs print: a directory for each run."""
        return self.path / "logs"

    def family(self, job: str) -> Path:
        """`family.json` of a family that was measured."""
        return self.path / "families" / f"{job}.json"

    def record(self, job: str) -> Path:
        """The record of a run."""
        return self.path / "records" / f"{job}.json"

    def read_record(self, job: str) -> Record | None:
        """What a run found, if it is done.

        Raises:
            ResultsError: The record is damaged.
        """
        path = self.record(job)
        if not path.exists():
            return None
        try:
            return Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise ResultsError(
                f"is no record of a run ({reason})", where=path, fix="remove it to do it again"
            ) from None

    def write_record(self, record: Record) -> None:
        """Mark a run as done."""
        path = self.record(record.job)
        write_text(path, record.model_dump_json() + "\n")

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
        path = self.path / _RECORD
        try:
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8")).get("teacher")
                if found != teacher:
                    raise OutputError(
                        "holds the study of another teacher",
                        where=self.path,
                        fix="name another directory",
                    )
                return
            if is_occupied(self.path):
                raise OutputError(
                    "is not empty and holds no study", where=self.path, fix="name another directory"
                )
            write_text(path, json.dumps({"schema_version": 1, "teacher": teacher}) + "\n")
        except (ValueError, AttributeError) as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError("cannot be read as JSON", where=path) from None
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=self.path) from None

    def put_together(self, plan: Plan) -> list[Row]:
        """Write `results.jsonl`, `jobs.jsonl` and what the report needs, from the records.

        Args:
            plan: The study as it is now; runs that it does not have any more are left out.

        Returns:
            The rows, each with its series and seed.

        Raises:
            ResultsError: A record is damaged.
        """
        records = {name: self.read_record(name) for name in plan.jobs}
        rows: list[Row] = []
        for entry in plan.entries:
            record = records[entry.job]
            changes = {"series": entry.series, "seed": entry.seed}
            rows += [row.model_copy(update=changes) for row in (record.rows if record else ())]
        _write(self.path / RESULTS_FILE, "".join(f"{row.model_dump_json()}\n" for row in rows))
        lines = [
            _cost_line(job, plan, record)
            for name, job in plan.jobs.items()
            if (record := records[name]) is not None
        ]
        _write(self.path / JOBS_FILE, "".join(f"{json.dumps(line)}\n" for line in lines))
        first = next((e.job for e in plan.entries if plan.jobs[e.job].kind == "family"), None)
        record = None if first is None else records[first]
        if first is not None and record is not None:
            _write(self.path / SETTINGS_FILE, json.dumps(record.evaluation, indent=2) + "\n")
            if self.family(first).exists():
                _write(self.path / PROVENANCE_FILE, self.family(first).read_text(encoding="utf-8"))
        return rows


def _cost_line(job: Job, plan: Plan, record: Record) -> Mapping[str, Any]:
    """A line of `jobs.jsonl`."""
    measured = {name for name, other in plan.jobs.items() if job.name in (other.needs, other.name)}
    entries = [entry for entry in plan.entries if entry.job in measured]
    return {
        "job": job.name,
        "kind": job.kind,
        "title": job.title,
        "series": list(dict.fromkeys(entry.series for entry in entries)),
        "seed": entries[0].seed if entries else None,
        "num_layers": _layers(job),
        "tokens": job.tokens,
        "flops": job.flops,
        **record.cost.model_dump(),
    }


def _layers(job: Job) -> int | None:
    kept: Sequence[int] = job.work.get("keep", ())
    return len(kept) if job.kind == "distil" else None


def _write(path: Path, text: str) -> None:
    """Write a file, unless it says so already: what has not changed keeps its date."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
