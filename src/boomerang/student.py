"""Cutting a student out of its teacher's layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint.extra_files import find_extra_files
from .checkpoint.output import check_apart, check_free, new_directory
from .checkpoint.sources import Source, Sources
from .checkpoint.student_config import write_student_config, write_student_files
from .errors import LayerMapError
from .layers import LayerMap
from .models.config import num_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def cut(teacher: PreTrainedModel, layers: LayerMap) -> PreTrainedModel:
    """Returns the untrained student, in memory, sharing the teacher's tensors.

    Student layer i is teacher layer `layers.kept[i]`; embedding, final norm and head are the
    teacher's (arXiv 2510.05064, section 3.1). The teacher is left as it is.

    Raises:
        LayerMapError: `layers` is for another number of layers than the teacher has.
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    from .models.assembly import assemble, check_layers_can_move

    depth = num_layers(teacher.config.to_dict())
    if depth != layers.num_layers:
        raise LayerMapError(
            f"the teacher has {depth} layers and the kept layers make it {layers.num_layers}"
        )
    sources = [(teacher, i) for i in layers.kept]
    student = assemble(teacher, sources, layers.kept, embedding=teacher, head=teacher)
    check_layers_can_move(student)
    return student


def random_like(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Returns a model of the same config and dtype with randomly initialised weights.

    The paper's control: a student that never saw the teacher's weights (arXiv 2510.05064,
    section 4).
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: PreTrainedModel = type(model)(model.config)
        convert: Any = fresh.to
        return convert(model.dtype).eval()


def init_student(
    teacher: str | Path | Source | PreTrainedModel,
    out: str | Path,
    layers: LayerMap,
    *,
    random: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    **model_kwargs: Any,
) -> Path:
    """Cut a student out of a teacher and write it as a checkpoint.

    Args:
        teacher: A directory, a hub id (`owner/name`, `@revision`), or a live model.
        out: The directory to write; plain transformers opens it.
        layers: The teacher layers to keep.
        random: Initialise the weights at random instead of copying them (the paper's control).
        seed: Of the random initialisation.
        overwrite: Replace an `out` that this package made.
        **model_kwargs: For `from_pretrained` when the teacher is loaded.

    Returns:
        `out`, with weights, config and `student_config.json`. From a directory or hub id come also
        the teacher's own tokenizer and generation files, and the config keeps its spelling.

    Raises:
        LayerMapError: `layers` does not fit the teacher.
        CheckpointError: The teacher cannot be loaded.
        ConfigError, ArchitectureError: The architecture is not supported.
        OutputError: `out` is not empty, is, holds or lies inside the teacher, or cannot be
            written.
    """
    out = Path(out)
    check_free(out, overwrite=overwrite)
    source: Path | None = None
    if isinstance(teacher, str | Path | Source):
        trust = bool(model_kwargs.get("trust_remote_code", False))
        found = Source.open(teacher, trust_remote_code=trust)
        source = found.directory
        check_apart(out, source)
        # Before the weights are read, which may take minutes.
        Sources.uncut(found, layers)
        find_extra_files(source, same_layers=False)
        teacher = found.model(**model_kwargs)
    elif teacher.name_or_path:
        check_apart(out, teacher.name_or_path)
    student = cut(teacher, layers)
    if random:
        student = random_like(student, seed)
    with new_directory(out, overwrite=overwrite) as partial:
        student.save_pretrained(partial)
        if source is None:
            write_student_config(partial, layers)
        else:
            write_student_files(partial, layers, source=source, teacher=teacher, student=student)
    return out
