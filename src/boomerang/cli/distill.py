"""`boomerang distill`: train a student with its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BoomerangError, RecipeError
from . import options

# The paper's (arXiv 2510.05064, section 4).
_SEQUENCE_LENGTH = 2048


def distill(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE.yaml | TEACHER", help="A recipe, or a teacher.")
    ],
    out: Annotated[
        Path | None, typer.Argument(help="With a teacher: the directory for the student.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="With a teacher: text to train on; may be repeated.")
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            help="With a teacher: tokens in a row (default 2048, or what the teacher takes)."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="With a teacher: boomerang (the default), paper, reference or adapt; the values "
            "of all that is not set."
        ),
    ] = None,
    every: options.Every = None,
    first: options.First = None,
    last: options.Last = None,
    keep: options.Keep = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value, such as loss.kl=1."),
    ] = None,
    device: options.Device = "auto",
    attn_implementation: options.Attention = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Distil a student: by a recipe, or `boomerang distill TEACHER OUT --data text.txt`."""
    from ..distill.recipe import Recipe

    overrides = setting or []
    if Path(recipe).suffix in (".yaml", ".yml"):
        given = {"OUT": out, "--data": data, "--sequence-length": sequence_length, "--keep": keep}
        given |= {"--every": every, "--first": first, "--last": last}
        given |= {"--preset": preset, "--device": None if device == "auto" else device}
        given |= {"--attn-implementation": attn_implementation}
        given |= {"--trust-remote-code": trust_remote_code or None}
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise RecipeError("cannot go with a recipe", where=extra[0], fix="use --set instead")
        parsed = Recipe.load(recipe, overrides)
    else:
        if out is None or not data:
            raise RecipeError(
                "is no recipe (.yaml), so it is taken for a teacher, which needs OUT and --data",
                where=recipe,
            )
        if sequence_length is None:
            sequence_length = _default_length(recipe, trust_remote_code)
        content = {
            "teacher": recipe,
            "keep": _keep(keep, every, first, last),
            "out": str(out),
            "data": {"files": [str(path) for path in data], "sequence_length": sequence_length},
            "model": {
                "attn_implementation": attn_implementation,
                "trust_remote_code": trust_remote_code,
            },
            "training": _training(device),
        }
        if preset is not None:
            content["preset"] = preset
        parsed = Recipe.parse(content, overrides=overrides)
    options.quiet()

    from accelerate import PartialState

    from ..distill import distill as run

    student = run(parsed)
    if PartialState().is_main_process:
        typer.echo(f"{student}: the distilled student")


def _default_length(teacher: str, trust_remote_code: bool) -> int:
    from ..checkpoint.sources import Source
    from ..models.config import max_positions

    limit = max_positions(Source.open(teacher, weights=False).config)
    return _SEQUENCE_LENGTH if limit is None else min(_SEQUENCE_LENGTH, limit)


def _training(device: str) -> dict[str, Any]:
    """What a device means to Trainer, which takes the accelerator if there is one."""
    if device == "auto":
        return {}
    if device == "cpu":
        return {"use_cpu": True}
    if options.pick_device(device) != options.pick_device("auto"):
        raise BoomerangError(
            f"{device!r} cannot be chosen for training",
            where="--device",
            fix="give auto or cpu; CUDA_VISIBLE_DEVICES chooses among several GPUs",
        )
    return {}


def _keep(
    keep: str | None, every: int | None, first: int | None, last: int | None
) -> list[int] | dict[str, int]:
    if keep is None:
        return {
            "every": 2 if every is None else every,
            "first": 1 if first is None else first,
            "last": 2 if last is None else last,
        }
    if (every, first, last) != (None, None, None):
        raise RecipeError("cannot go with --every, --first or --last", where="--keep")
    return options.layer_list(keep, "--keep")
