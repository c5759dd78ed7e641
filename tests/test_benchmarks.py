"""The benchmarks run: on shapes so small that their figures say nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# As for a script that runs there, but last: its names are not to hide packages.
sys.path.append(str(BENCHMARKS))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_distill_prints_its_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distill = load("distill")
    # Without the start of four processes.
    monkeypatch.setattr(distill, "memory_elsewhere", lambda *_: 1.0)
    distill.main(["--shapes", "tiny", "--steps", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[:2] for row in rows[1:]] == [
        [f"| {documents}", way]
        for documents in ("half a row", "full rows")
        for way in ("plain", "boomerang")
    ]


def test_both_ways_train_on_the_same_documents() -> None:
    distill = load("distill")
    shape = distill.SHAPES["tiny"]
    for fill in (0.5, 1.0):
        batches = [distill.documents(shape, fill, packed=packed) for packed in (True, False)]
        real = [batch["input_ids"].flatten() for batch in batches]
        real[1] = real[1][batches[1]["attention_mask"].flatten().bool()]
        assert torch.equal(*real)


def test_on_full_rows_both_ways_have_the_same_loss() -> None:
    distill = load("distill")
    shape = distill.SHAPES["tiny"]
    losses = []
    for way, loss in (("plain", distill.plain_loss), ("boomerang", distill.our_loss)):
        torch.manual_seed(0)
        _, module = distill.set_up(shape, way, 1.0, "cpu")
        # Only the plain way compares the last position of a row, which predicts nothing.
        module.loss = module.loss.model_copy(update={"kl": 0.0})
        losses.append(loss(module, distill.documents(shape, 1.0, packed=way == "boomerang")))
    torch.testing.assert_close(*losses)


def test_evaluate_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    # It stops by itself where one pass and the harness give other metrics.
    load("evaluate").main(["--tiny", "--order", "last-to-first"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[2] for row in rows[1:]] == ["choices", "sentences", "rolling"]


def test_real_says_where_the_time_goes(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("real").main([str(stories), "--rows", "1", "--length", "16", "--steps", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[:2] for row in rows[1:]] == [
        ["| distillation, bfloat16", "16"],
        ["| distillation, float32", "16"],
        ["| measuring, float32", "30"],
    ]
    assert all("products of the layers" in row for row in rows[1:])
