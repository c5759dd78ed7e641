"""What a plan has to know of the teacher and the texts; the embedded texts are written as files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint.blueprint import open_teacher
from ..checkpoint.directory import Checkpoint
from ..checkpoint.output import write_text
from ..checkpoint.resolve import resolve
from ..demo import assets
from ..distill.preflight import attention_width
from ..errors import DataError
from ..evaluate.perplexity import DEFAULT_WINDOW
from ..hashing import content_hash
from ..models.config import max_positions, num_layers, text_config
from ..models.names import is_matrix
from ..text.documents import check_file, join_documents, read_documents
from ..text.windows import cut_windows
from .config import EMBEDDED, Study
from .costs import Shape
from .plan import Facts

# Of each held-out book, and of each of the first two training books.
_MEASURED, _CALIBRATION = 60_000, 8_000


def find_facts(study: Study, texts: Path, *, download: bool) -> Facts:
    """Look at the teacher and the texts; nothing is written.

    Args:
        study: What names them.
        texts: Where the embedded teacher's texts are, or will be.
        download: Whether to download the weights of models on the hub. Without them there are no
            hashes of these models, and the runs of the plan that need them have other names.

    Raises:
        CheckpointError, ConfigError, ArchitectureError: The teacher cannot be used.
        DataError: A text cannot be read.
    """
    embedded = study.teacher == EMBEDDED
    teacher = str(assets.teacher_path()) if embedded else study.teacher
    model = study.recipe.get("model")
    trust = bool(isinstance(model, dict) and model.get("trust_remote_code"))
    directory = resolve(teacher, weights=download, trust_remote_code=trust)
    checkpoint = open_teacher(teacher)
    own = {str(texts / name): text for name, text in _embedded_texts().items()} if embedded else {}
    training, held_out, excerpt = ([path] for path in own) if own else ([], [], [])
    measured = list(study.measure.texts or ([] if study.measure.tasks else held_out))
    calibration = list(study.baselines.calibration or excerpt)
    named = {*measured, *calibration, *training, *_training_files(study)}
    hashes = {p: _hash(own[p].encode()) if p in own else _file_hash(p) for p in sorted(named)}
    models = [each for each in study.baselines.pretrained if download or Path(each).is_dir()]
    hashes |= {model: content_hash(resolve(model)) for model in models}
    there = any(directory.glob("*.safetensors"))
    return Facts(
        teacher=teacher,
        config=checkpoint.config,
        hash=content_hash(directory) if there else "",
        shape=shape_of(checkpoint),
        training=tuple(training),
        texts=tuple(measured),
        calibration=tuple(calibration),
        hashes=hashes,
    )


def shape_of(teacher: Checkpoint) -> Shape:
    """What decides the cost of a teacher's students, from its headers or its config."""
    layers = [teacher.layer(i) for i in range(num_layers(teacher.config))]
    inside = {id(tensor) for layer in layers for tensor in layer.values()}
    outside = {n: t for n, t in teacher.tensors.items() if id(t) not in inside}
    # Tables are only looked up; a tied one is the output matrix as well.
    output = teacher.output_matrix
    head = sum(tensor.elements for name, tensor in outside.items() if not is_matrix(name))
    return Shape(
        layers=tuple(sum(tensor.elements for tensor in layer.values()) for layer in layers),
        outside=head + (0 if output is None else output.elements),
        attention_width=attention_width(text_config(teacher.config)),
    )


def check_measurable(study: Study, facts: Facts) -> None:
    """Refuse what could not be measured or calibrated on, before anything is distilled for it.

    The names of tasks are not looked up, which takes the harness and its data.

    Raises:
        DataError: A text is none or has nothing in it, or a setting is out of range.
    """
    measure = study.measure
    for texts in (measure.texts, study.baselines.calibration):
        if texts:
            read_documents(texts)
    if facts.texts and measure.stride is not None:
        window = measure.window or DEFAULT_WINDOW
        cut_windows([], min(window, max_positions(dict(facts.config)) or window), measure.stride)
    replace(measure, texts=facts.texts).check()


def _training_files(study: Study) -> Iterable[str]:
    for _, keys in study.series().values():
        data: Any = keys.get("data")
        if isinstance(data, dict):
            yield from _files(data)
            sources = data.get("sources")
            for source in sources if isinstance(sources, list) else ():
                yield from _files(source if isinstance(source, dict) else {})


def _files(data: dict[str, Any]) -> list[str]:
    # What is no list of names is for the recipe to refuse.
    files = data.get("files")
    return [each for each in files if isinstance(each, str)] if isinstance(files, list) else []


def write_embedded_texts(directory: Path) -> None:
    """Write the embedded teacher's texts as files, as any user of the tool has them."""
    for name, text in _embedded_texts().items():
        if not (directory / name).exists():
            write_text(directory / name, text)


def _embedded_texts() -> dict[str, str]:
    """To distil on, to measure on, to calibrate on."""
    training = assets.training_documents()
    return {
        "train.txt": join_documents(training),
        "held-out-books.txt": join_documents(
            book[:_MEASURED] for book in assets.heldout_documents()
        ),
        "calibration.txt": join_documents(book[:_CALIBRATION] for book in training[:2]),
    }


def _file_hash(path: str) -> str:
    digest = hashlib.sha256()
    check_file(Path(path))
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
    return digest.hexdigest()[:16]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
