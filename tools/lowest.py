"""Print `name==lower bound` for every direct dependency but torch, and for the `dev` extra.

`make test-lowest` installs exactly these, so that the bounds in pyproject.toml stay honest. torch
is left out: an old one brings gigabytes of CUDA along, and constraints.txt pins it anyway.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lower_bounds(pyproject: str) -> list[str]:
    """The lower bound of each direct dependency as a pip constraint.

    Args:
        pyproject: The text of a pyproject.toml whose dependencies all read `name>=bound[,...]`.

    Returns:
        Lines such as `numpy==1.26`, in the order of the file.

    Raises:
        ValueError: A dependency has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = []
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        match = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"pyproject.toml: {requirement!r} has no lower bound")
        name, bound = match.groups()
        if name != "torch":
            lines.append(f"{name}=={bound}")
    return lines


if __name__ == "__main__":
    print("\n".join(lower_bounds(PYPROJECT.read_text())))
