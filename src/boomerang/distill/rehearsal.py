"""What transformers and torch find wrong with `training` only when it starts: found before.

They look at many values when they first need them, after the models are loaded and in the middle of
their own code. Here the same is set up once, so that a mistake is told as one, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import BoomerangError, RecipeError
from ..settings import hint

if TYPE_CHECKING:
    from .trainer import DistillTrainer

_KEY = "training"
_METRIC = "eval_"
# Where transformers' layers keep what recomputes them.
_RECOMPUTE = "_gradient_checkpointing_func"


@contextmanager
def refused_as_recipe() -> Iterator[None]:
    """What transformers refuses when it is set up, as a mistake in the recipe's `training`."""
    try:
        yield
    except (BoomerangError, torch.OutOfMemoryError):
        raise
    except KeyError as error:
        raise RecipeError(f"{error} is missing or unknown", where=_KEY) from error
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise RecipeError(" ".join(str(error).split()), where=_KEY) from error


def rehearse(trainer: DistillTrainer) -> None:
    """Set up what training begins with.

    The optimizer stays the trainer's.

    Raises:
        RecipeError: A value under `training` cannot be used.
    """
    args = trainer.args
    with refused_as_recipe():
        loader = trainer.get_train_dataloader()
        if not len(loader):
            raise RecipeError(
                f"the rows do not fill a batch of {args.train_batch_size} in every process",
                where=_KEY,
                fix="give more text, or set per_device_train_batch_size lower",
            )
        steps = int(trainer.set_initial_training_values(args, loader)[-1])
        trainer.create_optimizer()
        _try_schedule(trainer, steps)
    _check_metric(args.metric_for_best_model, trainer.metric_names)


def try_recomputation(model: nn.Module) -> None:
    """Recompute next to nothing in the way a model's layers are set to."""
    functions = (getattr(module, _RECOMPUTE, None) for module in model.modules())
    recompute = next(filter(None, functions), None)
    if recompute is not None:
        recompute(nn.Identity(), torch.zeros(1, requires_grad=True))


def _try_schedule(trainer: DistillTrainer, steps: int) -> None:
    """Make the schedule for an optimizer of no weights, and ask it for rates all over the run."""
    args = trainer.args
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    schedule: Any = trainer.create_scheduler(steps, optimizer=stand_in)
    for rate in getattr(schedule, "lr_lambdas", ()):
        for step in (1, steps // 2, steps - 1, steps):
            float(rate(step))
    trainer.lr_scheduler = None


def _check_metric(metric: str | None, names: list[str]) -> None:
    if metric is not None and metric.removeprefix(_METRIC) not in names:
        near = hint(metric.removeprefix(_METRIC), names) or f"; there are {', '.join(names)}"
        raise RecipeError(f"metric_for_best_model is {metric!r}, not measured{near}", where=_KEY)
