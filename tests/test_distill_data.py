from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from boomerang import progress
from boomerang.checkpoint.loading import load_tokenizer
from boomerang.checkpoint.sources import Source, Sources
from boomerang.distill.inputs import Inputs
from boomerang.distill.losses import IGNORED
from boomerang.distill.recipe import Data, Recipe
from boomerang.errors import DataError, RecipeError
from boomerang.layers import LAST_TO_FIRST, LayerMap
from boomerang.text.documents import SEPARATOR, read_documents
from boomerang.text.pack import Document, Row, packed
from boomerang.text.prepare import load_rows, prepare_rows, rows_hash
from boomerang.text.rows import Rows, collate, count_tokens

TEXTS = (
    "Once upon a time there was a cat.",
    "The dog ran.",
    "Lily saw a big red ball in the park.",
)


@pytest.fixture(scope="module")
def tokenizer(stories: Path) -> Any:
    return load_tokenizer(stories)


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(f"\n{SEPARATOR}\n".join(TEXTS) + f"\n{SEPARATOR}\n")
    return str(path)


@pytest.fixture
def read(tmp_path: Path, tokenizer: Any) -> Any:
    """Rows by the settings of `Data`, through a file."""

    def rows(reference: bool = False, say: Any = print, **settings: Any) -> Any:
        data, out = Data(**settings), tmp_path / "data"
        prepare_rows(data, tokenizer, out, repr(data), reference=reference, say=say)
        return load_rows(data, out)

    return rows


def tokens_of(tokenizer: Any) -> list[list[int]]:
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]


def stored(rows: Rows) -> list[Row]:
    return [rows.rows[number] for number in range(len(rows))]


def real_tokens(rows: Rows) -> list[int]:
    found: list[int] = []
    for row in stored(rows):
        found.extend(row.tokens[: row.length].tolist())
    return found


def test_packed_rows_hold_the_documents_and_no_target_crosses_them(
    tokenizer: Any, text: str, read: Any
) -> None:
    expected = tokens_of(tokenizer)
    rows, held_out = read(files=[text], sequence_length=7)
    assert held_out is None
    stream = [token for document in expected for token in document]
    padding = -len(stream) % 7
    assert 0 < padding < 7
    tokens = torch.cat([row["input_ids"] for row in rows]).tolist()
    assert tokens == stream + [tokenizer.eos_token_id] * padding
    starts = {0, len(expected[0]), len(expected[0] + expected[1]), len(stream)}
    position = 0
    for number, row in enumerate(rows):
        for key in ("input_ids", "labels", "position_ids"):
            assert row[key].dtype == torch.int64 and row[key].shape == (7,)
        is_last = number == len(rows) - 1
        assert ("aligned" in row) == is_last
        for place in range(7):
            index = 7 * number + place
            first = index in starts or place == 0
            position = 0 if first else position + 1
            is_target = not first and index < len(stream)
            assert row["labels"][place] == (tokens[index] if is_target else IGNORED)
            assert row["position_ids"][place] == position
            assert not is_last or row["aligned"][place] == (index < len(stream))


def test_padded_documents_go_on_in_further_rows(tokenizer: Any, text: str, read: Any) -> None:
    rows, _ = read(files=[text], sequence_length=12, packing=False)
    pieces = [d[begin : begin + 12] for d in tokens_of(tokenizer) for begin in range(0, len(d), 12)]
    assert len(rows) == len(pieces) > len(TEXTS)
    for row, piece in zip(rows, pieces, strict=True):
        rest = 12 - len(piece)
        assert set(row) == {"input_ids", "labels", "attention_mask"}
        assert row["attention_mask"].tolist() == [1] * len(piece) + [0] * rest
        assert row["input_ids"][: len(piece)].tolist() == piece
        assert row["labels"].tolist() == [IGNORED, *piece[1:]] + [IGNORED] * rest


def test_the_reference_cuts_documents_off_and_never_predicts_their_end(
    tokenizer: Any, text: str, read: Any
) -> None:
    said: list[str] = []
    settings = {"files": [text], "packing": False}
    rows, _ = read(reference=True, say=said.append, sequence_length=12, **settings)
    documents = tokens_of(tokenizer)
    assert [
        row["input_ids"][: len(d)].tolist() for row, d in zip(rows, documents, strict=True)
    ] == [document[:12] for document in documents]
    lost = sum(max(0, len(document) - 12) for document in documents)
    total = sum(map(len, documents))
    assert any(f"Cut off {lost} of {total} tokens" in line for line in said)
    rows, _ = read(reference=True, sequence_length=64, **settings)
    for row, document in zip(rows, documents, strict=True):
        assert row["labels"][len(document) - 2] == document[-2]
        assert row["labels"][len(document) - 1] == IGNORED


def test_training_and_measuring_have_the_same_documents(text: str, read: Any) -> None:
    assert read_documents([text]) == list(TEXTS)
    rows, _ = read(files=[text], sequence_length=64, packing=False)
    assert len(rows) == len(TEXTS)


def test_held_out_rows_are_the_last_ones(text: str, read: Any) -> None:
    whole, _ = read(files=[text], sequence_length=5)
    rows, held_out = read(files=[text], sequence_length=5, held_out=2)
    assert (len(rows), len(held_out)) == (len(whole) - 2, 2)
    assert torch.equal(held_out[0]["input_ids"], whole[len(whole) - 2]["input_ids"])


def packed_rows(*lengths: int) -> Rows:
    """Documents of these lengths in rows of four tokens."""
    documents = [Document(np.arange(n, dtype=np.int32), np.ones(n, np.bool_)) for n in lengths]
    return Rows(list(packed(documents, 4, 0)), packed=True)


def test_a_batch_without_inner_beginnings_needs_no_positions() -> None:
    plain, broken = packed_rows(4, 4), packed_rows(4, 2, 2)
    assert "position_ids" not in collate([plain[0], plain[1]])
    assert collate([broken[0], broken[1]])["position_ids"].tolist() == [
        [0, 1, 2, 3],
        [0, 1, 0, 1],
    ]


@pytest.mark.parametrize("packing", [True, False])
def test_a_batch_says_what_is_aligned_as_soon_as_one_row_does(
    text: str, read: Any, packing: bool
) -> None:
    rows, _ = read(files=[text], sequence_length=11, packing=packing)
    items = [rows[i] for i in range(len(rows))]
    length = sum(row.length for row in stored(rows))
    assert count_tokens(collate(items)) == length
    assert ("aligned" in collate(items)) == packing
    none = torch.zeros(11, dtype=torch.bool)
    batch = collate([{**items[0], "aligned": none}, *items[1:]])
    assert batch["aligned"].dtype == torch.bool
    assert count_tokens(batch) == length - stored(rows)[0].length


def test_rows_are_read_by_the_workers_of_a_loader(text: str, read: Any) -> None:
    rows, _ = read(files=[text], sequence_length=8)
    copied = pickle.loads(pickle.dumps(rows))
    loader = DataLoader(copied, batch_size=3, num_workers=1, collate_fn=collate)
    read_back = torch.cat([batch["input_ids"] for batch in loader])
    assert torch.equal(read_back, torch.stack([row["input_ids"] for row in rows]))


def test_text_that_cannot_be_used_is_refused(read: Any, tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"missing\.txt"):
        read(files=[str(tmp_path / "missing.txt")], sequence_length=4)
    with pytest.raises(DataError, match="2 rows of 32 tokens, 50 of them held out"):
        read(files=[text], sequence_length=32, held_out=50)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(DataError, match=r"empty\.txt: there is no text"):
        read(files=[str(empty)], sequence_length=4)
    assert not (tmp_path / "data").exists()
    with pytest.raises(DataError, match="holds no rows"):
        load_rows(Data(files=[text], sequence_length=4), tmp_path / "data")


# Prepared once


def test_rows_are_made_once_and_again_only_for_other_content(
    tokenizer: Any, text: str, tmp_path: Path
) -> None:
    data, out = Data(files=[text], sequence_length=8), tmp_path / "data"
    said: list[str] = []
    prepare_rows(data, tokenizer, out, "one", say=said.append)
    before = (out / "rows.arrow").stat()
    # Nothing is tokenised: there is no tokenizer.
    prepare_rows(data, None, out, "one", say=said.append)  # type: ignore[arg-type]
    assert (out / "rows.arrow").stat() == before
    assert "Taking the" in said[-1]
    whole = (out / "rows.arrow").read_bytes()
    for damaged in (whole[:-9], whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]):
        (out / "rows.arrow").write_bytes(damaged)
        prepare_rows(data, tokenizer, out, "one", say=said.append)
        assert (out / "rows.arrow").read_bytes() == whole
    record = json.loads((out / "data.json").read_text())
    tokens = tokens_of(tokenizer)
    assert (record["tokens"], record["cut_off"]) == (sum(map(len, tokens)), 0)
    assert record["sources"] == [{"name": text, "rows": record["rows"]}]
    with pytest.raises(DataError, match="held out"):
        prepare_rows(data.model_copy(update={"held_out": 99}), tokenizer, out, "one")
    prepare_rows(Data(files=[text], sequence_length=4), tokenizer, out, "two")
    assert len(load_rows(data, out)[0]) > record["rows"]
    assert datasets.Dataset.from_file(str(out / "rows.arrow"))[0]["length"] == 4


def test_what_breaks_off_leaves_nothing_under_the_final_name(
    tokenizer: Any, text: str, tmp_path: Path
) -> None:
    data, out = Data(files=[text, "missing.txt"], sequence_length=2), tmp_path / "out" / "data"
    with pytest.raises(DataError):
        prepare_rows(data, tokenizer, out, "one")
    assert not out.exists()
    script = f"""
import os, signal
from pathlib import Path
from boomerang.text import prepare as preparing
from boomerang.distill.recipe import Data
from boomerang.checkpoint.loading import load_tokenizer
make = preparing.make_rows
def killed(*args, **kwargs):
    for number, row in enumerate(make(*args, **kwargs)):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row
preparing.make_rows = killed
data = Data(files=[{text!r}], sequence_length=2)
tokenizer = load_tokenizer(Path({tokenizer.name_or_path!r}))
preparing.prepare_rows(data, tokenizer, Path({str(out)!r}), "one")
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == -9
    assert not out.exists()
    assert list(out.parent.iterdir()) != []
    data = Data(files=[text], sequence_length=2)
    prepare_rows(data, tokenizer, out, "one")
    assert list(out.parent.iterdir()) == [out]


def test_rows_are_known_by_text_tokenizer_and_settings(
    text: str, tmp_path: Path, stories: Path
) -> None:
    def hashes() -> list[str]:
        data = Data(files=[text], sequence_length=8)
        inputs = Inputs(
            Sources(Source(str(teacher), teacher), None, LayerMap((0,), 1), LAST_TO_FIRST), data
        )
        found = [rows_hash(data, inputs.text_hash, inputs.tokenizer_hash)]
        for changed in ({"sequence_length": 9}, {"packing": False}, {"held_out": 3}):
            other = data.model_copy(update=changed)
            found.append(rows_hash(other, inputs.text_hash, inputs.tokenizer_hash))
        found.append(rows_hash(data, inputs.text_hash, inputs.tokenizer_hash, reference=True))
        return found

    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for path in stories.glob("tokenizer*"):
        (teacher / path.name).write_bytes(path.read_bytes())
    first = hashes()
    # Which rows are held out changes none of them.
    assert len(set(first)) == 4 and first[3] == first[0]
    assert hashes() == first
    (teacher / "chat_template.jinja").write_text("{{ messages }}")
    second = hashes()
    assert not set(second) & set(first)
    (teacher / "generation_config.json").write_text("{}")
    assert hashes() == second
    Path(text).write_text("Another.")
    assert not set(hashes()) & set(second)


# Sources


def test_all_kinds_of_files_make_the_same_rows(
    text: str, tmp_path: Path, tokenizer: Any, read: Any
) -> None:
    lines, table = tmp_path / "text.jsonl", tmp_path / "text.parquet"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    datasets.Dataset.from_dict({"text": list(TEXTS)}).to_parquet(table)
    expected = [token for document in tokens_of(tokenizer) for token in document]
    for path in (text, lines, table):
        rows, _ = read(files=[str(path)], sequence_length=9)
        assert real_tokens(rows) == expected


def test_a_recipe_names_one_text(text: str) -> None:
    base = {"teacher": "t", "keep": [0], "out": "o"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "data: the text is given by either `files` or `sources`"),
        ({"files": [text], "sources": [{"files": [text]}]}, "data: the text is given by either"),
        ({"sources": []}, r"data\.sources"),
        ({"sources": [{}]}, r"data\.sources\.0: a source is given by either"),
        ({"sources": [{"files": [text], "dataset": "x"}]}, "give just one"),
        ({"sources": [{"files": [text], "revision": "x"}]}, "go with `dataset`"),
        ({"sources": [{"files": [text], "weight": 0}]}, r"data\.sources\.0\.weight"),
        ({"sources": [{"files": [text], "wieght": 1}]}, "did you mean weight"),
    ]
    for data, words in wrong:
        with pytest.raises(RecipeError, match=words):
            Recipe.parse(base | {"data": {"sequence_length": 8, **data}})


def test_sources_are_mixed_by_weight_until_one_runs_out(tmp_path: Path, read: Any) -> None:
    for name, many in (("cat", 400), ("dog", 100)):
        (tmp_path / f"{name}.txt").write_text(f"The {name} ran. " * many)
    said: list[str] = []
    sources = [
        {"files": [str(tmp_path / "cat.txt")], "weight": 1},
        {"files": [str(tmp_path / "dog.txt")], "weight": 3},
    ]
    rows, held_out = read(say=said.append, sources=sources, sequence_length=16, held_out=8)
    cats, dogs = (read(files=source["files"], sequence_length=16)[0] for source in sources)
    # All rows of the one that runs out, and the share of the other; also among those held out.
    mixed = [tuple(row["input_ids"].tolist()) for row in (*rows, *held_out)]
    known = {tuple(row["input_ids"].tolist()) for row in cats}
    from_cats = [row in known for row in mixed]
    assert len(mixed) - sum(from_cats) == len(dogs)
    assert sum(from_cats) == pytest.approx(len(dogs) / 3, abs=1)
    assert sum(from_cats[-8:]) == 2
    assert any(f"{len(dogs):,} rows of {tmp_path / 'dog.txt'}" in line for line in said)


class Hub:
    """Stands in for the hub: a stream of records, and how far it was read."""

    def __init__(self, records: Iterator[Any]) -> None:
        self.records = records
        self.read = 0
        self.asked: list[Any] = []

    def load_dataset(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        self.asked.append((args, kwargs))
        for record in self.records:
            self.read += 1
            yield record


def endless() -> Iterator[dict[str, str]]:
    while True:
        yield from ({"text": text, "url": "somewhere"} for text in TEXTS)


def test_so_many_tokens_are_streamed_from_the_hub(
    tokenizer: Any, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(endless())
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    source = {"dataset": "some/pile", "name": "en", "revision": "abc", "tokens": 3000}
    rows, _ = read(sources=[source], sequence_length=16)
    asked = {"split": "train", "revision": "abc", "streaming": True}
    assert hub.asked == [(("some/pile", "en"), asked)]
    stream = [token for document in tokens_of(tokenizer) for token in document]
    found = real_tokens(rows)
    # The last document is whole.
    assert 3000 <= len(found) < 3000 + len(stream) and found[-1] == tokenizer.eos_token_id
    assert found == (stream * len(found))[: len(found)]
    assert hub.read < 3000


def test_a_stream_that_breaks_is_one_clear_line(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield {"text": "Once."}
        raise ConnectionError("Couldn't reach\nthe hub")

    words = r"data set some/pile@main: cannot be streamed after 1 rows .*Couldn't reach the hub"
    monkeypatch.setattr(datasets, "load_dataset", broken)
    source = {"dataset": "some/pile", "revision": "main"}
    with pytest.raises(DataError, match=words) as error:
        read(sources=[source], sequence_length=4)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(datasets, "load_dataset", Hub(iter([{"code": "x"}])).load_dataset)
    with pytest.raises(DataError, match=r"row 1: .* it has code"):
        read(sources=[source], sequence_length=4)
    assert not (tmp_path / "data").exists()


def test_the_hub_out_of_reach_is_one_clear_line(read: Any) -> None:
    with pytest.raises(DataError, match="data set some/pile: cannot be streamed") as error:
        read(sources=[{"dataset": "some/pile", "tokens": 10}], sequence_length=4)
    assert "\n" not in str(error.value)


_WITHOUT_DATASETS = """
import sys
sys.modules["datasets"] = sys.modules["pyarrow"] = None
import numpy as np, torch
from pathlib import Path
from transformers import TrainingArguments
import boomerang.distill, boomerang.distill.run, boomerang.text.prepare
from boomerang.text.prepare import prepare_rows
from boomerang.text.pack import Document, packed
from boomerang.text.rows import Rows
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Data, Loss
from boomerang.distill.trainer import DistillTrainer
from boomerang.errors import DataError
from tiny_models import tiny_pair

document = Document(np.ones(8, np.int32), np.ones(8, np.bool_))
rows = Rows(list(packed([document] * 4, 8, 0)), packed=True)
args = TrainingArguments(output_dir={out!r}, max_steps=2, save_strategy="no", use_cpu=True,
                         disable_tqdm=True, report_to="none")
DistillTrainer(DistillModule(*tiny_pair("llama"), Loss()), args, rows).train()
try:
    prepare_rows(Data(files=[{text!r}], sequence_length=8), None, Path({out!r}) / "data", "one")
except DataError as error:
    print(error)
"""


def test_ready_rows_are_trained_on_without_the_library_datasets(tmp_path: Path, text: str) -> None:
    script = _WITHOUT_DATASETS.format(out=str(tmp_path / "out"), text=text)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "library datasets, which is not installed; pip install datasets" in done.stdout


def test_a_long_preparation_says_how_far_it_is(
    text: str, read: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    read(files=[text], sequence_length=8, say=lambda line: None)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Tokenising: 3 documents" in captured.err
