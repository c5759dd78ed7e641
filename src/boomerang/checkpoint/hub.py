"""Uploading what was built."""

from __future__ import annotations

from pathlib import Path

from ..errors import OutputError


def check_repository(repository: str) -> None:
    """Refuse an invalid repository name before anything is built.

    Raises:
        OutputError: It is not a `name` or `owner/name` that the hub allows.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise OutputError(
            "is not a valid repository name",
            where=repr(repository),
            fix="name it as owner/name, each of at most 96 letters, digits, '-', '_' and '.'",
        ) from None


def push(directory: Path, repository: str) -> None:
    """Upload a built member to the hub, into a repository that is made if it does not exist.

    Raises:
        OutputError: The upload failed.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=directory)
    except Exception as error:  # HTTP clients have errors of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OutputError(
            f"could not be uploaded ({reason})",
            where=repository,
            fix=f"it is complete in {directory}; log in with `hf auth login` and try again",
        ) from None
