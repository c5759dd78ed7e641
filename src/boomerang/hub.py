"""Uploading what was built."""

from __future__ import annotations

from pathlib import Path

from .errors import OutputError


def push(directory: Path, repository: str) -> None:
    """Upload a built member to the hub, into a repository that is made if it is not there.

    Raises:
        OutputError: The hub does not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=directory)
    except Exception as error:  # also whatever the HTTP client of the day raises when offline
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OutputError(
            f"could not be uploaded ({reason})",
            where=repository,
            fix=f"it is complete in {directory}; log in with `hf auth login` and try again",
        ) from None
