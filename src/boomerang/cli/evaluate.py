"""`boomerang evaluate`: measure the members of a family on text and on tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .measuring import Measuring, Results


@options.grouped
def evaluate(
    teacher: options.Teacher,
    student: options.Student,
    out: Results,
    common: Measuring,
    members: Annotated[str, typer.Option(help="all, or values of patch such as 0,4,8.")] = "all",
    order: options.OrderOption = None,
) -> None:
    """Measure every size on text and on tasks; an interrupted run is continued.

    `torchrun --nproc-per-node N -m boomerang evaluate ...` shares the work among N processes.
    """
    settings = common.settings()
    chosen = None if members == "all" else options.layer_list(members, "--members")
    keep, loading = common.kept, common.loading.kwargs()

    from ..checkpoint.sources import Sources
    from ..evaluate import evaluate_sources

    trust = common.loading.trust_remote_code
    sources = Sources.open(teacher, student, keep=keep, trust_remote_code=trust)
    rows = evaluate_sources(sources, out, members=chosen, order=order, **settings, **loading)
    common.show(rows, sources, order)
