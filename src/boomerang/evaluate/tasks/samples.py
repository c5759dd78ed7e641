"""What members answered, document by document, in the harness's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lm_eval.utils import handle_non_serializable, sanitize_list

from ...checkpoint.output import write_text
from ...layers import Member


def write_samples(
    directory: Path, series: str, member: Member, task: str, samples: list[dict[str, Any]]
) -> Path:
    """Write `SERIES/MEMBER/samples_TASK.jsonl`, whole or not at all; an old one is replaced.

    Args:
        directory: Where the samples of an evaluation are.
        series: The series of the rows.
        member: Which member; its directory is named by its patched layers, as `patched-16-17-18`.
        task: The task's name.
        samples: As `lm_eval.evaluate` returns them.
    """
    name = "-".join(["patched", *map(str, member.patched)]) if member.patched else "student"
    path = directory / series / name / f"samples_{task.replace('/', '__')}.jsonl"
    lines = (
        json.dumps(_line(sample), default=handle_non_serializable, ensure_ascii=False)
        for sample in samples
    )
    write_text(path, "".join(line + "\n" for line in lines))
    return path


def _line(sample: dict[str, Any]) -> dict[str, Any]:
    arguments = {
        f"gen_args_{index}": {f"arg_{place}": value for place, value in enumerate(each)}
        for index, each in enumerate(sample["arguments"])
    }
    return {
        **sample,
        "arguments": arguments,
        "resps": sanitize_list(sample["resps"]),
        "filtered_resps": sanitize_list(sample["filtered_resps"]),
        "target": str(sample["target"]),
    }
