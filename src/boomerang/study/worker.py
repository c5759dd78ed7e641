"""A process that does runs: one JSON line in for each run, one JSON line out when it is done.

It ends with its parent, however that ends: the end of its standard input is the sign. A run that is
cut off so goes on when the study is started again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from ..errors import BoomerangError
from .plan import Job
from .records import Directory


def main(directory: Path) -> None:
    """Do runs until standard input ends.

    Args:
        directory: The study's.
    """
    # Whatever a run prints goes to standard error; the lines for the parent go where they went.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        answer = _answer(Job.from_json(lines.get()), Directory(directory))
        print(json.dumps(answer), file=answers, flush=True)


def _read(lines: SimpleQueue[str]) -> None:
    stream: TextIO = sys.stdin
    for line in stream:
        lines.put(line)
    # Not sys.exit, which would wait for the run.
    os._exit(0)


def _answer(job: Job, directory: Directory) -> dict[str, Any]:
    print(f"\n{job.title} ({job.name})", file=sys.stderr, flush=True)
    try:
        # torch takes seconds to import, and is not needed to find out that there is no work.
        from transformers.utils import logging

        from .jobs import do

        logging.disable_progress_bar()
        do(job, directory)
    except BoomerangError as error:
        print(error, file=sys.stderr, flush=True)
        return {"error": str(error), "mistake": True}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "mistake": False}
    return {"error": None, "mistake": False}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
