"""Models that stand alone, measured beside a family: rows, sizes, saving, refusals."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from boomerang import LayerMap, evaluate, init_student
from boomerang.baselines import laco, shortgpt
from boomerang.baselines.bench import Bench, Standalone, save_model
from boomerang.baselines.distilled import (
    check_teacher,
    distil_sizes,
    evenly_spread,
    family_recipe,
    size_recipe,
)
from boomerang.baselines.pruning import Cache, PlanScores, calibration_text, combine, keep
from boomerang.checkpoint.loading import load_model
from boomerang.checkpoint.lock import LOCK
from boomerang.cli import app
from boomerang.distill import Recipe
from boomerang.errors import BoomerangError, LayerMapError, OutputError, RecipeError
from boomerang.evaluate.results import Row, current, read_results
from boomerang.hashing import content_hash
from boomerang.text.documents import read_documents
from boomerang.text.windows import prepare
from plain_scores import plain_scores
from task_files import write_tasks

LAYERS = LayerMap((0, 2, 4), 5)
SETTINGS: dict[str, Any] = {"window": 64}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, stories_text: Path) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("<|endoftext|>".join(read_documents([stories_text])[:2]))
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> Path:
    return init_student(stories, tmp_path_factory.mktemp("students") / "student", LAYERS)


@pytest.fixture(scope="module")
def bench(stories: Path, student: Path) -> Bench:
    return Bench.open(stories, student)


def _models(bench: Bench, text: Path, method: Any = shortgpt) -> list[Standalone]:
    teacher = bench.sources.teacher
    calibration = calibration_text([text], teacher.tokenizer, bench.model)
    scores = PlanScores(bench.model, calibration, teacher_hash=teacher.content_hash, cache=Cache())
    models: list[Standalone] = method.models(scores, bench.sizes())
    return models


def _perplexities(rows: list[Row]) -> list[float]:
    return [row.value for row in rows if row.metric == "perplexity"]


@pytest.mark.parametrize("method", [shortgpt, laco])
def test_rows_stand_beside_the_familys(
    method: Any, tmp_path: Path, stories: Path, student: Path, bench: Bench, text: Path
) -> None:
    out = tmp_path / "out"
    family = evaluate(stories, student, out, texts=[text], **SETTINGS)
    models = _models(bench, text, method)
    assert [model.num_layers for model in models] == bench.sizes() == [3, 4]
    rows = bench.measure(models, out, texts=[text], **SETTINGS)
    assert read_results(out) == family + rows
    # Every size holds, whatever was measured last.
    assert current(read_results(out)) == family + rows
    for model, row in zip(models, rows[::2], strict=True):
        assert (row.member, row.patch, row.order) == ((), 0, None)
        assert (row.series, row.num_layers, row.student) == (
            model.series, model.num_layers, model.hash,
        )  # fmt: skip
    assert {row.teacher for row in rows} == {content_hash(stories)}
    # The same figures as the plain models give.
    tokenizer = AutoTokenizer.from_pretrained(stories)
    for model, value in zip(models, _perplexities(rows), strict=True):
        built = model.build()
        score = plain_scores(built, prepare(read_documents([text]), tokenizer, **SETTINGS))
        assert score.perplexity.value == pytest.approx(value, rel=1e-5)
    written = (out / "results.jsonl").read_bytes()
    assert bench.measure(models, out, texts=[text], **SETTINGS) == rows
    assert (out / "results.jsonl").read_bytes() == written


def test_a_measured_model_is_not_asked_again(
    tmp_path: Path, bench: Bench, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boomerang.evaluate import scorer

    models = _models(bench, text)
    first = bench.measure(models[:1], tmp_path, texts=[text], **SETTINGS)
    asked: list[int] = []
    plain = scorer.Scorer.run

    def counting(self: Any, requests: Any) -> Any:
        asked.append(len(self.models[0].model.layers))
        return plain(self, requests)

    monkeypatch.setattr(scorer.Scorer, "run", counting)
    rows = bench.measure(models, tmp_path, texts=[text], **SETTINGS)
    assert asked == [models[1].num_layers] and rows[: len(first)] == first


def _row(student: str, num_layers: int, **changes: Any) -> Row:
    return Row(
        **{
            "member": (), "patch": 0, "order": None, "num_layers": num_layers,
            "parameters": 10 * num_layers, "bytes": 1, "task": "t", "metric": "perplexity",
            "value": 1.0, "stderr": None, "items": 1, "teacher": "T", "student": student,
            "series": "laco", **changes,
        }
    )  # fmt: skip


def test_the_last_model_of_each_size_holds() -> None:
    rows = [_row("a", 3), _row("b", 4), _row("c", 3)]
    assert current(rows) == rows[1:]
    # Two pretrained models of one depth are two sizes.
    wide = _row("d", 3, parameters=99)
    assert current([*rows, wide]) == [*rows[1:], wide]
    # A family's student as a free set of blocks is outdated by the next student, as all members.
    old = [_row("a", 3, series="family"), _row("a", 5, series="family", member=(1,))]
    new = _row("b", 4, series="family", member=(0,), order="x")
    assert current([*old, new]) == [new]


def test_saved_models_are_plain_checkpoints(
    tmp_path: Path, stories: Path, bench: Bench, text: Path
) -> None:
    model = _models(bench, text, laco)[0]
    teacher = bench.sources.teacher
    target = save_model(model, tmp_path / "saved", teacher)
    assert target.name == "stories260K-laco-3L"
    tokens = torch.arange(5, 25)[None]
    loaded = AutoModelForCausalLM.from_pretrained(target)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model.build()(tokens).logits)
    assert AutoTokenizer.from_pretrained(target).get_vocab() == teacher.tokenizer.get_vocab()
    record = json.loads((target / "baseline.json").read_text())
    assert record["hash"] == model.hash and record["method"] == "laco"
    assert len(record["layers"]) == 3 and "threshold" in record["settings"]
    assert "2402.11187" in (target / "README.md").read_text()
    # The same again is left alone, another is refused.
    before = (target / "model.safetensors").stat().st_mtime_ns
    assert save_model(model, tmp_path / "saved", teacher) == target
    assert (target / "model.safetensors").stat().st_mtime_ns == before
    other = Standalone("laco", 3, "other", lambda: combine(bench.model, keep([0, 1, 2])))
    with pytest.raises(OutputError, match="is not empty"):
        save_model(other, tmp_path / "saved", teacher)


def test_a_model_with_another_tokenizer_is_compared_by_bytes_alone(
    tmp_path: Path, stories: Path, bench: Bench, text: Path
) -> None:
    out = tmp_path / "out"
    same = bench.checkpoint("pretrained", stories, own_tokenizer=True)
    rows = bench.measure([same], out, texts=[text], **SETTINGS)
    assert [row.metric for row in rows] == ["perplexity", "bits_per_byte"]
    # Characters for tokens: the same text, in about twice as many tokens.
    directory = tmp_path / "other"
    load_model(stories).save_pretrained(directory)
    _character_tokenizer(text.read_text()).save_pretrained(directory)
    other = bench.checkpoint("pretrained", directory, own_tokenizer=True)
    rows = bench.measure([other], out, texts=[text], **SETTINGS)
    assert [row.metric for row in rows] == ["bits_per_byte"]
    assert rows[0].num_layers == 5 and rows[0].value > 0
    model, tokenizer = other.build(), other.tokenizer
    assert tokenizer is not None
    score = plain_scores(model, prepare(read_documents([text]), tokenizer, **SETTINGS))
    assert score.bits_per_byte.value == pytest.approx(rows[0].value, rel=1e-5)


def _character_tokenizer(text: str) -> PreTrainedTokenizerFast:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    characters = sorted({*text, "\n"})
    vocab = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(characters)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="</s>"
    )


def test_results_of_another_evaluation_are_refused_before_the_search(
    tmp_path: Path, stories: Path, student: Path, bench: Bench, text: Path
) -> None:
    out = tmp_path / "out"
    bench.measure(_models(bench, text)[:1], out, texts=[text], **SETTINGS)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    command = ["baseline", "laco", str(stories), str(student), str(out), "--text", str(text)]
    command += ["--calibration", str(text), "--window", "32", "--device", "cpu"]
    with pytest.raises(OutputError, match="window of stories is 64 there and 32 here"):
        app(command, standalone_mode=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_tasks_are_looked_up_before_the_search(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    tasks = write_tasks(tmp_path / "tasks")
    bench.check(tmp_path / "results", tasks="choices", include_path=tasks)
    with pytest.raises(BoomerangError, match="choice: there is no such task"):
        bench.check(tmp_path / "results", tasks="choice", include_path=tasks)


def test_results_that_another_process_writes_are_left_alone(
    bench: Bench, text: Path, tmp_path: Path
) -> None:
    with (tmp_path / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="is writing here"):
            bench.check(tmp_path, texts=[text])
        with pytest.raises(OutputError, match="is writing here"):
            bench.measure([], tmp_path, texts=[text])


def test_sizes_and_members_that_are_asked_for(bench: Bench) -> None:
    assert bench.sizes([4, 2, 4]) == [2, 4]
    assert bench.members(None) is None
    members = bench.members([4, 3], "first-to-last")
    assert members is not None and [member.patched for member in members] == [(), (0,)]
    for wrong in (0, 5):
        with pytest.raises(LayerMapError, match="cannot be kept"):
            bench.sizes([wrong])
    with pytest.raises(LayerMapError, match="no member has 2 layers; their sizes are 3, 4, 5"):
        bench.members([2])


def test_layers_spread_evenly() -> None:
    assert evenly_spread(9, 16) == (0, 2, 4, 6, 8, 9, 11, 13, 15)
    assert evenly_spread(1, 5) == (0,)
    for size, depth in ((2, 3), (12, 16), (15, 16), (19, 36)):
        kept = evenly_spread(size, depth)
        assert LayerMap(kept, depth).num_student_layers == size
        assert (kept[0], kept[-1]) == (0, depth - 1)
    with pytest.raises(LayerMapError, match="cannot be kept"):
        evenly_spread(5, 5)


def test_a_size_is_distilled_by_the_familys_recipe(tmp_path: Path) -> None:
    recipe = Recipe(
        teacher="T", keep=[0, 2, 4], out=str(tmp_path), order=[1, 0, 2], seed=3,
        data={"files": ["a.txt"], "sequence_length": 32, "held_out": 2},
        evaluate={"members": [1]}, training={"max_steps": 7},
    )  # fmt: skip
    changed = size_recipe(recipe, 4, 5, tmp_path / "sizes")
    assert set(recipe.differences(changed)) == {"keep", "order", "evaluate", "switch", "mirror"}
    assert (changed.switch, changed.mirror) == (0, 0)
    assert changed.keep == [0, 1, 3, 4] and changed.out == str(tmp_path / "sizes" / "4L")
    assert changed.evaluate.members == [] and changed.order is None
    with pytest.raises(RecipeError, match=r"has no recipe\.yaml"):
        family_recipe(tmp_path)


def test_a_recipe_of_another_teacher_is_refused(
    tmp_path: Path, stories: Path, student: Path, bench: Bench
) -> None:
    for teacher in (stories, student):
        (tmp_path / f"{teacher.name}.yaml").write_text(
            f"{{teacher: {teacher}, keep: [0, 4], out: x, "
            "data: {files: [a.txt], sequence_length: 8}}"
        )
    check_teacher(tmp_path / f"{stories.name}.yaml", bench.sources.teacher)
    with pytest.raises(RecipeError, match="distils another teacher"):
        check_teacher(tmp_path / f"{student.name}.yaml", bench.sources.teacher)


def test_distilled_students_are_measured_and_go_on(
    tmp_path: Path, stories: Path, stories_text: Path, student: Path, bench: Bench, text: Path
) -> None:
    recipe = Recipe(
        teacher=str(stories), keep=[0, 2, 4], out=str(tmp_path / "family"),
        data={"files": [str(stories_text)], "sequence_length": 32, "held_out": 0},
        training={"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True},
    )  # fmt: skip
    made = distil_sizes(recipe, [2, 4], 5, tmp_path / "sizes")
    assert [path.name for path in made.values()] == ["2L", "4L"]
    logs = [(path / "log.jsonl").read_bytes() for path in made.values()]
    assert distil_sizes(recipe, [2, 4], 5, tmp_path / "sizes") == made
    assert [(path / "log.jsonl").read_bytes() for path in made.values()] == logs
    models = [bench.checkpoint("distilled", path) for path in made.values()]
    rows = bench.measure(models, tmp_path / "out", texts=[text], **SETTINGS)
    assert [(row.series, row.num_layers) for row in rows[::2]] == [
        ("distilled", 2),
        ("distilled", 4),
    ]
    assert [row.student for row in rows[::2]] == [content_hash(path) for path in made.values()]


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[Row]:
    app([*map(str, arguments)], standalone_mode=False)
    return [Row.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]


def test_the_command_line(
    tmp_path: Path,
    stories: Path,
    student: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    family = (stories, student, tmp_path / "out")
    common = ("--text", text, "--window", "64", "--device", "cpu", "--json")
    naive = _run(capsys, "baseline", "naive", *family, *common, "--layers", "3")
    assert {(row.series, row.num_layers) for row in naive} == {("naive", 3)}
    pruned = _run(
        capsys, "baseline", "shortgpt", *family, *common, "--calibration", text,
        "--layers", "1,4", "--save", tmp_path / "saved",
    )  # fmt: skip
    assert {(row.series, row.num_layers) for row in pruned} == {("shortgpt", 1), ("shortgpt", 4)}
    assert (tmp_path / "out" / "baselines.jsonl").exists()
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"stories260K-shortgpt-1L", "stories260K-shortgpt-4L"}
    saved = tmp_path / "saved" / "stories260K-shortgpt-4L"
    same = _run(capsys, "baseline", "pretrained", *family, *common, "--model", saved)
    assert _perplexities(same) == pytest.approx(_perplexities(pruned)[1:], rel=1e-6)
    control = _run(capsys, "baseline", "random", *family, *common, "--layers", "4")
    assert {(row.series, row.num_layers) for row in control} == {("random", 4)}
    assert read_results(tmp_path / "out") == [*naive, *pruned, *same, *control]


@pytest.mark.parametrize(("arguments", "message"), [
    (["laco", "--calibration", "TEXT"], "nothing to measure on"),
    (["laco", "--text", "TEXT"], "nothing to calibrate on"),
    (["shortgpt", "--text", "TEXT", "--calibration", "TEXT", "--layers", "5"], "cannot be kept"),
    (["naive", "--text", "TEXT", "--layers", "2"], "no member has 2 layers"),
    (["distilled", "--text", "TEXT", "--layers", "2", "--students", "x"], "has no recipe.yaml"),
    (["shortgpt", "--text", "TEXT", "--calibration", "nowhere.txt"], "cannot be read"),
    (["pretrained", "--text", "TEXT", "--model", "TEACHER", "--model", "./nowhere"], "nowhere"),
])  # fmt: skip
def test_mistakes_are_told_before_anything_is_written(
    arguments: list[str], message: str, tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    paths = {"TEXT": str(text), "TEACHER": str(stories)}
    method, *rest = (paths.get(argument, argument) for argument in arguments)
    command = ["baseline", method, str(stories), str(student), str(tmp_path / "out"), *rest]
    with pytest.raises(BoomerangError, match=message):
        app([*command, "--device", "cpu"], standalone_mode=False)
    assert not any(tmp_path.iterdir())


def test_inspection_on_the_command_line(
    tmp_path: Path, stories: Path, student: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--text", str(text), "--device", "cpu"]
    app(["inspect", str(stories), str(student), *common, "--json", "--figure",
         str(tmp_path / "map.png")], standalone_mode=False)  # fmt: skip
    content = json.loads(capsys.readouterr().out)
    assert len(content["alone"]) == 3 and (tmp_path / "map.png").exists()
    app(["inspect", str(stories), *common], standalone_mode=False)
    assert "keep 0," in capsys.readouterr().out
    app(["inspect", str(stories), str(student), *common], standalone_mode=False)
    assert "order " in capsys.readouterr().out
