"""Whether a checkpoint is what its own config says: numbers, widths, and nothing left out.

What is not certain is let pass. A nested config is saved without what equals its class's defaults,
and a model with code of its own may put the config's numbers together in ways no rule here knows.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import CheckpointError
from ..models.config import text_config
from ..models.groups import missing_in_layers, missing_outside
from ..models.shapes import misfit_in_layer, misfit_outside
from ..models.values import check_values
from ..models.widths import Sizes, layer_view, read_widths, unfit_number
from .convert import FLOATS
from .directory import Checkpoint

# Numbers of a byte each keep a tensor's shape; what packs several into one does not.
_NUMBERS = FLOATS | {"F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"}

_SURE_WITH_OWN_CODE = ("vocabulary", "table", "hidden")


def check_numbers(checkpoint: Checkpoint) -> None:
    """Check that the config's widths and counts are whole numbers, and other values of their kind.

    Raises:
        CheckpointError: A width or count is not.
        ConfigError: Another value is not.
    """
    check_values(checkpoint.config, checkpoint.directory)
    text = text_config(checkpoint.config)
    unfit = unfit_number(text, own_code=_has_own_code(checkpoint))
    if unfit is not None:
        raise CheckpointError(
            f"its config's {unfit[0]} is {unfit[1]!r:.80}, no whole number that fits",
            where=checkpoint.directory,
        )


def check_widths(checkpoint: Checkpoint) -> None:
    """Check every tensor against the widths that the config gives it.

    Raises:
        CheckpointError: A tensor is of another width, or the config does not give its width.
    """
    layout, text = checkpoint.layout, text_config(checkpoint.config)
    shapes = {t.name: t.shape for t in checkpoint.tensors.values() if t.dtype in _NUMBERS}
    for i, names in enumerate(layout.layers):
        widths = _widths(checkpoint, layer_view(text, i, len(layout.layers)))
        path = f"{layout.stack}{i}."
        layer = {name: shapes[path + name] for name in names if path + name in shapes}
        if misfit := misfit_in_layer(layer, widths):
            raise _unlike_config(checkpoint, path + misfit[0], misfit[1])
    if misfit := misfit_outside(layout, shapes, _widths(checkpoint, text)):
        raise _unlike_config(checkpoint, *misfit)


def check_complete(checkpoint: Checkpoint) -> None:
    """Check that no tensor is missing from every layer, or from before and after them.

    Raises:
        CheckpointError: One is missing that always comes with another that is there.
    """
    if _has_own_code(checkpoint):
        return
    layout = checkpoint.layout
    if missing := missing_in_layers(layout.layers, text_config(checkpoint.config)):
        raise CheckpointError(
            f"no layer has {f'{layout.stack}*.{missing[0]}'!r:.200}, which comes with "
            f"{missing[1]!r:.200}",
            where=checkpoint.directory,
        )
    if missing := missing_outside(layout.layers, layout):
        raise CheckpointError(
            f"lacks {missing[0]}, which comes with {missing[1]!r:.200}",
            where=checkpoint.directory,
        )


def _widths(checkpoint: Checkpoint, view: dict[str, object]) -> Mapping[str, Sizes]:
    widths = read_widths(view)
    if _has_own_code(checkpoint):
        return {name: widths[name] for name in _SURE_WITH_OWN_CODE if widths[name]}
    if text_config(checkpoint.config) is not checkpoint.config:
        return {name: sizes for name, sizes in widths.items() if sizes}
    return widths


def _has_own_code(checkpoint: Checkpoint) -> bool:
    config = checkpoint.config
    return bool(config.get("auto_map") or text_config(config).get("auto_map"))


def _unlike_config(checkpoint: Checkpoint, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"tensor {name!r:.200} {what}", where=checkpoint.directory)
