"""What a plan needs to know about the teacher and the texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.directory import Checkpoint
from ..checkpoint.output import write_text
from ..checkpoint.sources import Source
from ..demo import assets
from ..distill.preflight import Matrices, attention_width
from ..errors import DataError
from ..evaluate.perplexity import DEFAULT_WINDOW
from ..hashing import file_hash, short_hash
from ..models.config import max_positions, num_layers, text_config
from ..models.names import is_matrix
from ..text.documents import check_file, join_documents, read_documents
from ..text.windows import cut_windows
from .config import EMBEDDED, Study

# Characters of each held-out book, and of each of the first two training books.
_MEASURED, _CALIBRATION = 60_000, 8_000


@dataclass(frozen=True)
class Facts:
    """What a plan needs to know besides the study.

    Args:
        teacher: The teacher as recipes name it.
        config: Its `config.json`.
        hash: Its content hash; empty if its weights are not here.
        layers: The parameters of each of its layers.
        outside: The parameters outside the layers that each token is multiplied with: the head.
        training: Text files to distil on where the recipe names none.
        texts: Text files to measure on.
        calibration: Text files to calibrate on.
        hashes: Content hashes of these files by path, and of pretrained models by reference.
    """

    teacher: str
    config: Mapping[str, Any]
    hash: str
    layers: tuple[int, ...]
    outside: int
    training: tuple[str, ...]
    texts: tuple[str, ...]
    calibration: tuple[str, ...]
    hashes: Mapping[str, str]

    @property
    def num_layers(self) -> int:
        """N."""
        return len(self.layers)

    def matrices(self, layers: Iterable[int]) -> Matrices:
        """The model of some of the teacher's layers, as operations are counted."""
        chosen = [self.layers[i] for i in layers]
        width = attention_width(text_config(dict(self.config)))
        return Matrices(self.outside + sum(chosen), len(chosen), width)


def find_facts(study: Study, texts: Path, *, download: bool) -> Facts:
    """Look at the teacher and the texts; nothing is written.

    Args:
        study: The study.
        texts: Where the embedded teacher's texts are, or will be.
        download: Whether to download the weights of models on the hub. Without them these models
            have no hashes, and the runs of the plan that need them have other names.

    Raises:
        CheckpointError, ConfigError, ArchitectureError: The teacher cannot be used.
        DataError: A text cannot be read.
    """
    embedded = study.teacher == EMBEDDED
    teacher = str(assets.teacher_path()) if embedded else study.teacher
    model = study.recipe.get("model")
    trust = bool(isinstance(model, dict) and model.get("trust_remote_code"))
    source = Source.open(teacher, weights=download, trust_remote_code=trust)
    checkpoint = source.checkpoint
    own = {str(texts / name): text for name, text in _embedded_texts().items()} if embedded else {}
    training, held_out, excerpt = ([path] for path in own) if own else ([], [], [])
    measured = list(study.measure.texts or ([] if study.measure.tasks else held_out))
    calibration = list(study.baselines.calibration or excerpt)
    named = {*measured, *calibration, *training, *_training_files(study)}
    hashes = {path: short_hash(own[path]) if path in own else _hash(path) for path in sorted(named)}
    models = [each for _, models in study.baselines.wanted("given") for each in models]
    models = [each for each in models if download or Path(each).is_dir()]
    hashes |= {model: Source.open(model).content_hash for model in models}
    layers, outside = count_parameters(checkpoint)
    return Facts(
        teacher=teacher,
        config=checkpoint.config,
        hash=source.content_hash if any(source.directory.glob("*.safetensors")) else "",
        layers=layers,
        outside=outside,
        training=tuple(training),
        texts=tuple(measured),
        calibration=tuple(calibration),
        hashes=hashes,
    )


def count_parameters(teacher: Checkpoint) -> tuple[tuple[int, ...], int]:
    """The parameters of each layer, and those outside that a token is multiplied with."""
    layers = [teacher.layer(i) for i in range(num_layers(teacher.config))]
    inside = {id(tensor) for layer in layers for tensor in layer.values()}
    outside = {n: t for n, t in teacher.tensors.items() if id(t) not in inside}
    # Tables are only looked up; a tied one is the output matrix as well.
    output = teacher.output_matrix
    head = sum(tensor.elements for name, tensor in outside.items() if not is_matrix(name))
    counts = tuple(sum(tensor.elements for tensor in layer.values()) for layer in layers)
    return counts, head + (0 if output is None else output.elements)


def check_measurable(study: Study, facts: Facts) -> None:
    """Refuse what cannot be measured or calibrated on, before anything is distilled for it.

    The names of tasks are not looked up: that needs the harness and its data.

    Raises:
        DataError: A text cannot be read or is empty, or a setting is out of range.
    """
    measure = study.measure
    for texts in (measure.texts, study.baselines.calibration):
        if texts:
            read_documents(texts)
    if facts.texts and measure.stride is not None:
        window = measure.window or DEFAULT_WINDOW
        cut_windows([], min(window, max_positions(dict(facts.config)) or window), measure.stride)
    replace(measure, texts=facts.texts).check()


def write_embedded_texts(directory: Path) -> None:
    """Write the embedded teacher's texts as files."""
    for name, text in _embedded_texts().items():
        if not (directory / name).exists():
            write_text(directory / name, text)


def _embedded_texts() -> dict[str, str]:
    """To distil on, to measure on, to calibrate on."""
    training = assets.training_documents()
    held_out = (book[:_MEASURED] for book in assets.heldout_documents())
    return {
        "train.txt": join_documents(training),
        "held-out-books.txt": join_documents(held_out),
        "calibration.txt": join_documents(book[:_CALIBRATION] for book in training[:2]),
    }


def _training_files(study: Study) -> Iterator[str]:
    """The files that recipes name; the recipe refuses what is no list of names."""
    for _, keys in study.series().values():
        data = keys.get("data")
        sources = data.get("sources") if isinstance(data, dict) else None
        for each in (data, *(sources if isinstance(sources, list) else ())):
            files = each.get("files") if isinstance(each, dict) else None
            if isinstance(files, list):
                yield from (file for file in files if isinstance(file, str))


def _hash(path: str) -> str:
    check_file(Path(path))
    try:
        return file_hash(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
