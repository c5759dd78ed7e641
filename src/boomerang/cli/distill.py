"""`boomerang distill`: train a student with its teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BoomerangError, RecipeError
from . import options

# The paper's (arXiv 2510.05064, section 4).
_SEQUENCE_LENGTH = 2048


@options.grouped
def distill(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE.yaml | TEACHER", help="A recipe, or a teacher.")
    ],
    cut: options.Cut,
    loading: options.Loading,
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
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value, such as loss.kl=1."),
    ] = None,
) -> None:
    """Distil a student: by a recipe, or `boomerang distill TEACHER OUT --data text.txt`."""
    from ..distill.recipe import Recipe

    overrides = setting or []
    if Path(recipe).suffix in (".yaml", ".yml"):
        shared = asdict(cut) | asdict(loading)
        given = {f"--{name.replace('_', '-')}": value for name, value in shared.items()}
        given |= {"--data": data, "--sequence-length": sequence_length, "--preset": preset}
        given |= {"OUT": out}
        extra = [name for name, value in given.items() if value not in (None, False, "auto")]
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
            sequence_length = _default_length(recipe)
        content = {
            "teacher": recipe,
            "keep": cut.recipe(),
            "out": str(out),
            "data": {"files": [str(path) for path in data], "sequence_length": sequence_length},
            "model": {
                "attn_implementation": loading.attn_implementation,
                "trust_remote_code": loading.trust_remote_code,
            },
            "training": _training(loading),
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


def _default_length(teacher: str) -> int:
    from ..checkpoint.sources import Source
    from ..models.config import max_positions

    limit = max_positions(Source.open(teacher, weights=False).config)
    return _SEQUENCE_LENGTH if limit is None else min(_SEQUENCE_LENGTH, limit)


def _training(loading: options.Loading) -> dict[str, Any]:
    """What device and dtype mean to Trainer, which takes the accelerator if there is one."""
    device, dtype = loading.device, options.known_dtype(loading.dtype)
    training = {} if dtype is None else {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}
    if device == "cpu":
        training["use_cpu"] = True
    elif device != "auto" and options.pick_device(device) != options.pick_device("auto"):
        raise BoomerangError(
            f"{device!r} cannot be chosen for training",
            where="--device",
            fix="give auto or cpu; CUDA_VISIBLE_DEVICES chooses among several GPUs",
        )
    return training
