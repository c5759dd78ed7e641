"""The line above a table of measurements: when, on what, by which versions."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import boomerang


def describe_machine(*facts: str) -> str:
    """Date, load, what a benchmark knows besides, and versions.

    Args:
        facts: What its figures depend on: processor, memory, libraries.
    """
    load = f"load {os.getloadavg()[0]:.1f}"
    versions = f"Python {platform.python_version()}, boomerang {boomerang.__version__}"
    return f"{', '.join((str(datetime.date.today()), *facts, load, versions))}."


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
