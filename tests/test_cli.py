"""The command line as a user meets it: exit codes, one clear line, nothing written on a mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

LEFT_ALONE = ("torch", "transformers")


def run(*arguments: str | Path, check: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "boomerang", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == check, done.stderr
    return done


@pytest.fixture(scope="module")
def student(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("students") / "student"
    done = run("init", stories, out, "--every", "2", "--first", "1", "--last", "1")
    assert "3 of 5 layers, kept 0, 2, 4" in done.stdout
    return out


def test_help_is_fast() -> None:
    # Processor time, because a busy machine says nothing about us; the best of a few runs.
    best = float("inf")
    for _ in range(5):
        before = os.times()
        run("--help")
        after = os.times()
        used = after.children_user + after.children_system
        best = min(best, used - before.children_user - before.children_system)
    assert best < 0.3


def test_help_and_argument_errors_do_not_import_what_is_heavy() -> None:
    code = (
        "import sys; from boomerang.cli import app\n"
        "for arguments in (['--help'], ['build', '--help'], ['init'], ['nonsense']):\n"
        "    try: app(arguments)\n"
        "    except SystemExit: pass\n"
        f"assert not set({LEFT_ALONE}) & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_command_has_a_help_page() -> None:
    listing = run("--help").stdout
    for command in ("init", "distill", "sizes", "generate", "build", "evaluate", "demo"):
        assert command in listing
        assert "Usage" in run(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense"),
        (["init", "TEACHER"], "Missing argument"),
        (["init", "TEACHER", "OUT", "--every", "two"], "--every"),
        (["init", "TEACHER", "OUT", "--keep", "0,4-2"], "--keep: '4-2' is no range"),
        (["init", "TEACHER", "OUT", "--keep", "0,2-9"], "kept layer 9 is out of range"),
        (["init", "TEACHER", "OUT", "--keep", "0;2"], "--keep: '0;2' is no layer"),
        (["init", "TEACHER", "OUT", "--keep", "0,2", "--every", "2"], "--keep: cannot go with"),
        (["init", "TEACHER", "OUT", "--dtype", "int7"], "--dtype: 'int7' is unknown"),
        (["init", "TEACHER", "OUT", "--device", "cuda:99"], "--device: 'cuda:99' cannot be used"),
        (["init", "nowhere", "OUT"], "nowhere: is no directory"),
        (["init", "no-such-owner/model", "OUT"], "cannot be reached"),
        (["generate", "TEACHER", "STUDENT", "Once", "--patch", "7"], "patch is 7"),
        (["generate", "TEACHER", "STUDENT", ""], "the prompt is empty"),
        (["generate", "TEACHER", "TEACHER", "Once"], "student_config.json"),
        (["evaluate", "TEACHER", "STUDENT", "OUT"], "give --text FILE"),
        (["evaluate", "TEACHER", "STUDENT", "OUT", "--text", "missing.txt"], "missing.txt"),
        (["distill", "recipe.yaml"], "recipe.yaml: cannot be read"),
        (["distill", "TEACHER", "OUT"], "needs OUT and --data"),
        (["distill", "TEACHER", "OUT", "--data", "missing.txt"], "missing.txt"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(
    arguments: list[str], message: str, stories: Path, student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    places = {"TEACHER": str(stories), "STUDENT": str(student), "OUT": str(out)}
    done = run(*(places.get(argument, argument) for argument in arguments), check=2)
    lines = done.stderr.splitlines()
    assert message in lines[-1]
    assert [line.startswith("boomerang: ") for line in lines].count(True) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not out.exists()


def test_an_output_in_use_is_refused_before_anything_is_loaded(
    stories: Path, student: Path
) -> None:
    start = time.monotonic()
    done = run("init", stories, student, check=2)
    assert "not empty" in done.stderr
    assert "--overwrite" in done.stderr
    assert time.monotonic() - start < 5


def test_generate_tries_a_size(stories: Path, student: Path) -> None:
    done = run(
        "generate", stories, student, "Once upon a time", "--patch", "2", "--max-new-tokens", "8"
    )
    assert done.stdout.startswith("Once upon a time")
    assert "5 of 5 layers" in done.stderr
    assert len(done.stdout) > len("Once upon a time\n")


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizerFast

Path(r"{marker}").write_text("ran")


class Config(LlamaConfig):
    model_type = "code_of_its_own"


class Model(LlamaForCausalLM):
    config_class = Config


class Tokenizer(LlamaTokenizerFast):
    pass
"""


def with_code(source: Path, target: Path, marker: Path) -> Path:
    """A copy of a checkpoint that brings Python code along, which leaves a marker when it runs."""
    shutil.copytree(source, target)
    (target / "code.py").write_text(CODE.format(marker=marker))
    classes = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    changes = {
        "config.json": {"model_type": "code_of_its_own", "auto_map": classes},
        "tokenizer_config.json": {
            "tokenizer_class": "Tokenizer",
            "auto_map": {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]},
        },
    }
    for name, change in changes.items():
        content = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps(content | change))
    return target


def test_code_of_a_checkpoint_never_runs_unless_trusted_whatever_standard_input_says(
    stories: Path, student: Path, tmp_path: Path
) -> None:
    marker, out, text = tmp_path / "marker", tmp_path / "out", tmp_path / "text.txt"
    text.write_text("Once upon a time there was a boat. " * 200)
    teacher = with_code(stories, tmp_path / "teacher", marker)
    ours = with_code(student, tmp_path / "student", marker)
    built = tmp_path / "built"
    run("build", teacher, ours, built, "--patch", "1")
    alone = tmp_path / "alone"
    alone.mkdir()
    # A type that transformers knows, but not as a causal model: it would take the checkpoint's.
    config = json.loads((teacher / "config.json").read_text()) | {"model_type": "t5"}
    (alone / "config.json").write_text(json.dumps(config))
    commands = [
        ["generate", teacher, ours, "Once"],
        ["init", teacher, out],
        ["evaluate", teacher, ours, out, "--text", text],
        ["distill", teacher, out, "--data", text, "--set", "training.max_steps=1"],
        ["verify", built],
        ["sizes", alone],
        ["inspect", teacher, "--text", text],
        ["init", teacher, tmp_path / "trusted", "--trust-remote-code"],
    ]
    # One process for all, because importing torch takes longer than any of them.
    program = (
        "import sys; from pathlib import Path; from boomerang.cli import main\n"
        f"for command in {[list(map(str, each)) for each in commands]}:\n"
        "    try: main(command)\n"
        f"    except SystemExit as end: print(end.code, Path({str(marker)!r}).exists())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="y\n" * 99,
        capture_output=True,
        text=True,
        check=True,
    )
    ends = [line for line in done.stdout.splitlines() if line.endswith(("True", "False"))]
    assert ends == ["2 False"] * 7 + ["None True"], done.stderr


def test_messages_hold_nothing_that_a_terminal_obeys_and_are_short() -> None:
    hostile = "a\x1b[2J\u202e" + "x" * 5000 + "\nend"
    done = run("init", hostile, "OUT", check=2)
    assert done.stderr.count("\n") == 1 and len(done.stderr) < 1200
    assert r"a\x1b[2J\u202exxx" in done.stderr and "end: cannot be read" in done.stderr
    usage = run("build", "T", "S", "OUT", "--\x1b[31m", check=2)
    assert "\x1b" not in usage.stderr


def test_a_deleted_directory_is_told_in_a_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"import os; os.rmdir({str(gone)!r}); from boomerang.cli import main; main(['sizes'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=gone, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the current directory cannot be used" in done.stderr


def test_functions_of_the_public_face_are_modules_too() -> None:
    code = (
        "import boomerang, inspect, sys\n"
        "import boomerang.distill.recipe as recipe, boomerang.evaluate.results as results\n"
        "import boomerang.build as build\n"
        "assert recipe.Recipe is boomerang.Recipe and results.Row and build.member_directory\n"
        "assert boomerang.distill.recipe is recipe\n"
        "assert 'teacher' in inspect.signature(boomerang.evaluate).parameters\n"
        f"assert not set({LEFT_ALONE}) & set(sys.modules), 'heavy import'\n"
        "try: boomerang.distill('nowhere.yaml')\n"
        "except boomerang.BoomerangError as error: assert 'nowhere.yaml' in str(error)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_commands_that_load_models_share_their_options() -> None:
    commands = [["init"], ["distill"], ["generate"], ["verify"], ["evaluate"], ["inspect"]]
    commands += [["baseline", name] for name in ("naive", "laco", "distilled", "pretrained")]
    for command in commands:
        page = run(*command, "--help").stdout
        for option in ("--device", "--dtype", "--attn-implementation", "--trust-remote-code"):
            assert option in page, command


def test_a_device_and_a_dtype_are_trainers_own_settings() -> None:
    from boomerang.cli.distill import _training
    from boomerang.cli.options import Loading
    from boomerang.errors import BoomerangError

    assert _training(Loading()) == {}
    assert _training(Loading(device="cpu", dtype="bfloat16")) == {
        "bf16": True, "fp16": False, "use_cpu": True,
    }  # fmt: skip
    with pytest.raises(BoomerangError, match="'int8' is unknown"):
        _training(Loading(dtype="int8"))
