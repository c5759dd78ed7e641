"""A study from its config to its report."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..checkpoint.lock import locked
from ..checkpoint.output import check_apart, write_text
from ..errors import StudyError
from ..evaluate.results import BITS_PER_BYTE, FAMILY, PERPLEXITY, Row
from .config import EMBEDDED, Study
from .facts import check_measurable, find_facts, write_embedded_texts
from .plan import Job, Plan, make_plan
from .records import Directory
from .submit import Executor, Failure, check_executor, run_jobs

Say = Callable[[str], None]

STUDY_FILE = "study.yaml"


def run_study(
    study: Study,
    out: str | Path,
    *,
    jobs: int = 1,
    executor: Executor = "local",
    say: Say = lambda line: None,
) -> list[Row]:
    """Do what is missing of a study, and write its results and its report.

    Every run is recorded when it is done, and not done again as long as nothing changes that
    decides its outcome; a run that was stopped goes on. Writes into `out`: `results.jsonl` and
    `jobs.jsonl` (what each run took), anew after each run; `report.html` and `figures/` at the
    end; and `students/`, which may be removed: a student is distilled again only if something is
    still to be measured of it.

    Args:
        study: The study.
        out: The output directory; one of the same teacher is continued.
        jobs: The number of runs at a time; each has a GPU of its own where there are several.
        executor: `local`: processes of this machine; `slurm`: jobs of a cluster.
        say: Called with a line for each run that starts or ends.

    Returns:
        The rows of the whole study.

    Raises:
        StudyError: A run failed (those that do not need it are done nevertheless).
        OutputError: `out` holds something else or the teacher, or another process writes into it.
        BoomerangError: The teacher or a text cannot be used.
        SystemExit: A signal stopped the study; the code is 128 plus its number.
    """
    check_executor(executor)
    directory = Directory(Path(out))
    check_apart(directory.path, study.teacher)
    with locked(directory.path):
        plan = _prepare(study, directory)
        write_text(directory.path / STUDY_FILE, _yaml(study))
        directory.put_together(plan)
        failures = _work(plan, directory, jobs, executor, say)
        rows = directory.put_together(plan)
        if any(row.series == FAMILY for row in rows):
            say(f"Report: {_draw(study, rows, directory)}")
    if failures:
        raise _error(failures, directory)
    return rows


def preview(study: Study, out: str | Path) -> tuple[Plan, list[Job]]:
    """The runs of a study and those that are left; nothing is written, nothing downloaded.

    Raises:
        BoomerangError: As `run_study`.
    """
    directory = Directory(Path(out))
    plan = make_plan(study, find_facts(study, directory.texts, download=False))
    return plan, plan.missing(directory.done())


def _prepare(study: Study, directory: Directory) -> Plan:
    # A study that cannot be is refused before anything is downloaded or written.
    facts = find_facts(study, directory.texts, download=False)
    plan = make_plan(study, facts)
    if not facts.hash or study.baselines.pretrained:
        facts = find_facts(study, directory.texts, download=True)
        plan = make_plan(study, facts)
    if plan.missing(directory.done()):
        check_measurable(study, facts)
    directory.claim(facts.hash)
    if study.teacher == EMBEDDED:
        write_embedded_texts(directory.texts)
    return plan


def _work(
    plan: Plan, directory: Directory, jobs: int, executor: Executor, say: Say
) -> list[Failure]:
    missing = plan.missing(directory.done())
    if not missing:
        return []

    def started(job: Job, number: int) -> None:
        say(f"[{number}/{len(missing)}] {job.title}")

    def ended(job: Job, seconds: float, error: str | None) -> None:
        if error is None:
            directory.put_together(plan)
        say(f"{job.title}: {f'{seconds:.0f} s' if error is None else f'failed: {error}'}")

    say(f"{len(missing)} of {len(plan.jobs)} runs to do; what they print is in {directory.logs}")
    return run_jobs(missing, directory, jobs, executor=executor, started=started, ended=ended)


def _draw(study: Study, rows: Sequence[Row], directory: Directory) -> Path:
    # matplotlib takes a second to import.
    from ..report.figure import save_figure
    from ..report.write import write_report

    for name, series in study.figures.items():
        shown = [row for row in rows if row.series in (FAMILY, *series)]
        for task, metric in headlines(shown):
            words = re.sub(r"[^A-Za-z0-9._]+", "-", f"{name} {task} {metric}").strip("-.")
            save_figure(shown, directory.figures / words, task=task, metric=metric)
    return write_report([directory.path], directory.report)


def headlines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The metrics worth a figure: no differences, and of a text its perplexity alone."""
    found = dict.fromkeys(row.measure for row in rows)
    texts = {task for task, metric in found if metric == PERPLEXITY}
    return [
        (task, metric)
        for task, metric in found
        if not metric.endswith("_difference") and not (task in texts and metric == BITS_PER_BYTE)
    ]


def _error(failures: Sequence[Failure], directory: Directory) -> Exception:
    first = failures[0]
    others = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
    text = f"failed: {first.error}{others}"
    if all(failure.mistake for failure in failures):
        return StudyError(text, where=first.job.title)
    return RuntimeError(f"{first.job.title}: {text}; {directory.logs} tells more")


def _yaml(study: Study) -> str:
    import yaml

    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
