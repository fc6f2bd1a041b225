"""`sweep export --push`: what was exported, as a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.errors import ExportError
from trials.foreign_text import harmless, in_a_line

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN, to one of https://hf.co/settings/tokens."


def check_hub(repo: str) -> None:
    """Refuse what the hub would refuse, before a model is merged for it.

    Raises:
        ExportError: With the mend; never with the token.
    """
    from huggingface_hub import HfApi, constants, get_token

    if not _is_valid(repo):
        raise ExportError(
            f"--push {repo}: must be ORG/NAME, of letters, digits, `-`, `_` and `.`, such as "
            f"my-team/my-adapter."
        )
    if constants.HF_HUB_OFFLINE:
        raise ExportError(
            f"--push {repo}: the hub must be reachable, but HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE "
            f"is set. Unset it."
        )
    if get_token() is None:
        raise ExportError(f"--push {repo}: needs a token that may write; none is there. {_LOG_IN}")
    with _in_words(repo):
        role = HfApi().whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ExportError(
            f"--push {repo}: needs a token that may write, but this one may read alone. {_LOG_IN}"
        )


def push(folder: Path, repo: str, title: str) -> str:
    """Upload a folder, to a new private repository where there is none; return what was done.

    Raises:
        ExportError: With the mend; never with the token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    hub, seen_by = HfApi(), "private"
    with _in_words(repo):
        try:
            hub.create_repo(repo, private=True)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            seen_by = "it was there: who may see it stays as it was"
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=title)
    return f"Pushed to {hub.endpoint}/{repo} ({seen_by})."


def _is_valid(repo: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return "/" in repo


@contextmanager
def _in_words(repo: str) -> Iterator[None]:
    import httpx
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = f"the hub has answered {status}, {error.server_message or in_a_line(error)}"
        mends = {
            401: f"It does not know this token. {_LOG_IN}",
            403: "Take a token that may write there, or another ORG.",
            404: "Name an organisation or a user that there is.",
        }
        words = f"{said.rstrip('.')}. {mends.get(status, 'Try again later.')}"
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        words = f"the hub cannot be used: {in_a_line(cause)} Look at the network, and try again."
    else:
        return
    # A token that cannot be sent stands in what httpx says of it.
    shown = harmless(words).replace(get_token() or "\0", "…")
    raise ExportError(f"--push {repo}: {shown}")
