"""From what a user names to a directory: a path, or a model on the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..models.quantization import QUANTIZATION_FILE
from .extra_files import PATTERNS
from .weights import has_weights

# What a causal language model needs, and what comes along with a member.
_WANTED = ["*.safetensors", "*.json", "*.txt", "README.md", *PATTERNS]
# Never pickled weights, nor other copies of the same ones; code only where it is trusted.
_UNWANTED = ["consolidated*", "*/*.safetensors", "original/*", "*.bin", "*.pt", "*.pth"]
# What says how large a member is; `sizes` asks for no more.
_CONFIGS = ["config.json", "student_config.json", QUANTIZATION_FILE]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Reference:
    """A directory or a hub id, and the `@revision` of the latter."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, reference: str | Path) -> Reference:
        """Split `@revision` off; an existing directory is taken whole, whatever its name."""
        text = str(reference)
        if Path(text).exists() or "@" not in text:
            return cls(text)
        name, _, revision = text.rpartition("@")
        return cls(name, revision)


def resolve(
    reference: str | Path, *, trust_remote_code: bool = False, weights: bool = True
) -> Path:
    """The local directory of a checkpoint; one on the hub is downloaded into the hub's cache.

    Args:
        reference: A directory, or `owner/name` or `owner/name@revision` on the hub.
        trust_remote_code: Also download Python code that comes with the checkpoint.
        weights: False downloads the configs alone.

    Raises:
        CheckpointError: There is no such directory or model, or it cannot be read.
    """
    try:
        ref = Reference.parse(reference)
        if not ref.name:
            raise CheckpointError(f"{str(reference)!r} names no checkpoint")
        path = Path(ref.name)
        if path.is_dir():
            if ref.revision is not None:
                raise CheckpointError(
                    f"is a directory, which has no revision {ref.revision!r}",
                    where=path,
                    fix="leave the @ and what follows out",
                )
            # Both fail, with an OSError, where the directory may not be looked into.
            next(path.iterdir(), None)
            (path / "config.json").exists()
            # Recipes and records are UTF-8 and name it.
            str(path.resolve()).encode()
            return path
        if path.exists():
            raise CheckpointError("is a file", where=path, fix="name the checkpoint's directory")
    except UnicodeEncodeError:
        where = str(reference).encode(errors="replace").decode()
        raise CheckpointError(
            "has a path that is not UTF-8", where=where, fix="rename it"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=reference) from None
    if not _HUB_ID.fullmatch(ref.name) or ref.name.startswith("."):
        raise CheckpointError(
            "is no directory",
            where=reference,
            fix="name a checkpoint directory or a hub id (owner/name)",
        )
    if not weights:
        return _download(ref, _CONFIGS, [])
    code = ["*.py"]
    wanted, unwanted = (code, []) if trust_remote_code else ([], code)
    found = _download(ref, _WANTED + wanted, _UNWANTED + unwanted)
    if not has_weights(found):
        raise CheckpointError(
            "has no safetensors weights",
            where=reference,
            fix="pickled ones are not read: convert a local copy; or go online, if only its "
            "configs are in the hub's cache",
        )
    return found


def _download(ref: Reference, wanted: list[str], unwanted: list[str]) -> Path:
    # Imported here: the import costs more than reading a local checkpoint's header.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = ref.name if ref.revision is None else f"{ref.name}@{ref.revision}"
    try:
        return Path(
            snapshot_download(
                ref.name, revision=ref.revision, allow_patterns=wanted, ignore_patterns=unwanted
            )
        )
    except GatedRepoError:
        raise CheckpointError(
            "is gated",
            where=name,
            fix="accept its terms on the hub and log in with `hf auth login`",
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError("has no such revision on the hub", where=name) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise CheckpointError(
            "is neither a directory nor a public model on the hub",
            where=name,
            fix="check the name, or log in with `hf auth login` if it is private",
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            "is no local directory, is not whole in the hub's cache, and the hub cannot be "
            f"reached ({type(error).__name__})",
            where=name,
            fix="go online once, or name a local directory",
        ) from None
    except Exception as error:  # refusals of the hub, the transport's own errors, a full disk
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"cannot be downloaded ({type(error).__name__}: {reason:.200})",
            where=name,
            fix="try again: what is here already is kept",
        ) from None
