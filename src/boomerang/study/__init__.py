"""A study: a family, variants of it and baselines, from one YAML file to one report."""

from __future__ import annotations

from .config import Study
from .execute import run_study

__all__ = ["Study", "run_study"]
