"""`boomerang evaluate`: measure the members of a family on text and on tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .measuring import Measuring, Results, measuring


@measuring
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
    keep, loading = common.keep, common.loading()

    from ..checkpoint.pairing import pair_up
    from ..checkpoint.resolve import resolve
    from ..evaluate import evaluate as measure

    # Now, not after all is measured: by then the hub may not answer.
    trust = loading.get("trust_remote_code", False)
    theirs, ours = (resolve(each, trust_remote_code=trust) for each in (teacher, student))
    pairing = pair_up(theirs, ours, keep)
    rows = measure(
        teacher, student, out, members=chosen, order=order, keep=keep, **settings, **loading
    )
    common.show(rows)
    common.show_order(pairing, order)
