"""The model hub: what is fetched from it, and its errors as sentences. Imports no torch: the workflow itself reads it."""

from __future__ import annotations

from pathlib import Path

from diffinfo.cli import UserError


def fetch(source: str, revision: str | None, patterns: list[str]) -> Path:
    """A local folder as it is, or the files of a hub repository at a revision.

    Raises:
        UserError: when it is neither, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(hub_fault(f"'{source}' (revision {revision or 'main'})", error)) from error


def hub_fault(what: str, error: Exception) -> str:
    """One sentence on what the hub's client says about a repository, with the remedy of that fault alone."""
    from huggingface_hub import constants, errors

    said = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, errors.GatedRepoError):
        remedy = "is gated on the hub: accept its licence there, and set HF_TOKEN to a token of that account."
    elif isinstance(error, errors.RevisionNotFoundError):
        remedy = "does not exist on the hub: check the revision."
    elif isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        remedy = f"is not a local folder, nor on the hub: check the name; a private one needs HF_TOKEN ({said})."
    elif constants.is_offline_mode():
        remedy = "is not a local folder, nor in the hub's cache (HF_HOME), and HF_HUB_OFFLINE is set: unset it."
    else:
        remedy = (
            f"cannot be fetched: {constants.ENDPOINT} is not reached or refuses ({said}); check the connection (HTTPS_PROXY,"
            " HF_ENDPOINT), or fill the cache elsewhere (HF_HOME) and set HF_HUB_OFFLINE=1."
        )
    return f"{what} {remedy}"
