"""Stopping by signal. Real signals need processes of their own, which take seconds to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import boomerang
from boomerang.distill.checkpoints import last_checkpoint
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss, Recipe
from boomerang.distill.signals import StopOnSignal
from boomerang.distill.trainer import DistillTrainer
from test_distill_checkpoints import assert_equal, weights
from test_distill_training import rows_of
from tiny_models import tiny_pair

STEPS = 40


@pytest.fixture(scope="module")
def content(stories: Path, stories_text: Path) -> dict[str, Any]:
    return {
        "teacher": str(stories),
        "keep": [0, 2, 4],
        "data": {"files": [str(stories_text)], "sequence_length": 64},
        "training": {
            "max_steps": STEPS,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "logging_steps": 1,
            "use_cpu": True,
        },
    }


@pytest.fixture(scope="module")
def straight(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without interruption."""
    out = tmp_path_factory.mktemp("straight") / "out"
    return boomerang.distill(Recipe.parse(content | {"out": str(out)}))


def wait_for(found: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not found():
        assert child.poll() is None and time.monotonic() < until, child.communicate()
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_is_stopped_and_goes_on_as_if_nothing_had_happened(
    content: dict[str, Any], straight: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, file = tmp_path / "out", tmp_path / "recipe.yaml"
    # A worker that loads data gets the signal too, as from a terminal or a scheduler.
    recipe = Recipe.parse(content | {"out": str(out)}, ["training.dataloader_num_workers=1"])
    recipe.save(file)
    with subprocess.Popen(
        [sys.executable, "-m", "boomerang", "distill", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        log = out / "log.jsonl"
        wait_for(lambda: log.exists() and '"step": 2' in log.read_text(), child)
        os.killpg(child.pid, number)
        printed, said = child.communicate(timeout=120)
    assert child.returncode == 128 + number, said
    assert printed == "" and "Traceback" not in said
    assert f"{number.name}: stopping after this step" in said
    assert f"Stopped by {number.name} after step" in said and "to go on" in said
    checkpoint = last_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    assert 2 <= int(checkpoint.name.removeprefix("checkpoint-")) < STEPS
    assert not (out / "config.json").exists()

    boomerang.distill(recipe)
    assert (out / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    rows = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (straight, out)
    ]
    assert [(row["step"], row.get("loss")) for row in rows[0]] == [
        (row["step"], row.get("loss")) for row in rows[1]
    ]


_HANGING = """
import sys, time
from boomerang.cli import main
from boomerang.distill.module import DistillModule
def forward(self, *args, **kwargs):
    print("in a step", flush=True)
    time.sleep(120)
DistillModule.forward = forward
sys.argv = ["boomerang", "distill", "{recipe}"]
main()
"""


def test_a_second_signal_kills_at_once(content: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    Recipe.parse(content | {"out": str(tmp_path / "out")}).save(file)
    with subprocess.Popen(
        [sys.executable, "-c", _HANGING.format(recipe=file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == "in a step\n"
        child.send_signal(signal.SIGTERM)
        while "stopping after this step" not in child.stderr.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=20)
    assert child.returncode == -signal.SIGTERM


class SignalAt(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def run(out: Path, stop: StopOnSignal, signal_at: int = -1, resume: Path | None = None) -> Any:
    """A student with dropout, evaluated at every step."""
    torch.manual_seed(0)
    teacher, student, layers = tiny_pair("gpt2")
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    args = TrainingArguments(
        output_dir=str(out),
        max_steps=5,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        ddp_find_unused_parameters=True,
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    module = DistillModule(teacher, student, layers, Loss(), switch=0.3)
    callbacks = [SignalAt(signal_at), stop]
    trainer = DistillTrainer(module, args, rows_of(), rows_of(), callbacks=callbacks)
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    finally:
        stop.restore()
    return trainer


def test_random_numbers_go_on_too_and_the_handlers_come_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    straight = run(tmp_path, StopOnSignal())
    stop = StopOnSignal()
    stopped = run(tmp_path, stop, signal_at=2)
    assert (stop.signal, stopped.state.global_step) == (signal.SIGTERM, 3)
    evaluated = [row["step"] for row in stopped.state.log_history if "eval_loss" in row]
    # There may be little time: the step's own evaluation is left out, its log is not.
    assert evaluated == [1, 2]
    again = StopOnSignal()
    resumed = run(tmp_path, again, resume=last_checkpoint(tmp_path))
    assert again.signal is None
    assert_equal(weights(resumed), weights(straight))
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path) -> None:
    stop = StopOnSignal()
    assert run(tmp_path, stop, signal_at=4).state.global_step == 5
    assert stop.signal is None and last_checkpoint(tmp_path) is None


_IN_TWO_PROCESSES = """
import os
from pathlib import Path
import torch
from test_distill_signals import run
from boomerang.distill.signals import StopOnSignal
torch.set_num_threads(1)
stop = StopOnSignal()
trainer = run(Path("{out}"), stop, signal_at=1 if os.environ["RANK"] == "1" else -1)
assert (stop.signal, trainer.state.global_step) == (15, 2), (stop.signal, trainer.state.global_step)
torch.distributed.destroy_process_group()
"""


def test_all_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    """Though only one of them got the signal; and the run goes on with one process."""
    script = tmp_path / "stop.py"
    out = tmp_path / "out"
    script.write_text(_IN_TWO_PROCESSES.format(out=out))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*launch, script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        check=True,
        timeout=300,
    )
    assert [path.name for path in out.iterdir()] == ["checkpoint-2"]
    names = {path.name for path in (out / "checkpoint-2").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= names
    assert run(out, StopOnSignal(), resume=out / "checkpoint-2").state.global_step == 5
