"""What all tests share: a quiet, offline, deterministic process and the models kept in the tree."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch, transformers or matplotlib are imported, here or in a process that a test starts.
# Tiny models run fastest on one thread, and the suite runs in several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# A time limit per example would make the suite fail on a busy machine, not on a defect.
settings.register_profile("boomerang", deadline=None)
settings.load_profile("boomerang")

TESTS = Path(__file__).parent
GOLDEN = sorted(path.parent for path in TESTS.glob("golden/*/meta.json"))


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def golden_pair(request: pytest.FixtureRequest) -> Path:
    """A directory with `teacher/`, `student/`, `meta.json` and `logits.safetensors`."""
    return request.param


@pytest.fixture(scope="session")
def stories() -> Path:
    """A real pretrained Llama: 5 layers, width 64, vocabulary 512, trained on short stories."""
    return TESTS / "models" / "stories260K"


@pytest.fixture(scope="session")
def stories_text() -> Path:
    """Text that `stories` knows well; the stories are separated by `<|endoftext|>`."""
    return TESTS / "data" / "tinystories-sample" / "stories.txt"


@pytest.fixture(scope="session")
def configs() -> Path:
    """The shapes of the paper's five teachers, one `NAME.json` each."""
    return TESTS / "configs"
