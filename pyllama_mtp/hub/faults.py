"""What goes wrong between this machine and the hub, as errors of the package that say what to do."""

import errno
import os
from types import ModuleType

from pyllama_mtp.errors import DownloadError, shown

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NotThere(DownloadError):
    """There is no such repository, or it cannot be reached and nothing of it is in the cache."""


class CallersError(Exception):
    """Carries what a caller's function for the progress raised through huggingface_hub."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


def library() -> ModuleType:
    """huggingface_hub, whose import takes half a second. Raises DownloadError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError as error:
        raise DownloadError(
            f"downloads need the package huggingface_hub ({error}): pip install 'pyllama-mtp[hub]', or give the path "
            "of a file that is there"
        ) from error
    return huggingface_hub


def is_unreachable(error: BaseException) -> bool:
    """Whether the hub gave no answer, or none that says anything of what was asked."""
    import httpx2

    hub = library()
    if isinstance(error, hub.errors.HfHubHTTPError):
        return bool(error.response.status_code >= 500)
    return isinstance(error, httpx2.TransportError | hub.errors.OfflineModeIsEnabled)


def fault(error: BaseException, repository: str, what: str) -> DownloadError:
    """The error of the package for one of huggingface_hub's, of its HTTP library or of the system. what: was asked for,
    as in "the file x.gguf of owner/repo".
    """
    hub = library()
    errors = hub.errors
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return fault(error.__cause__, repository, what)
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{repository} is gated: accept its conditions at {hub.constants.ENDPOINT}/{repository} with your account, "
            f"then come back with a token of it; {_token()}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(f"{repository} has not the revision that was asked for, with {what}: check its name")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return DownloadError(f"{what} is not there any more: list the repository's files again")
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotThere(
            f"{hub.constants.ENDPOINT} has no model repository {repository}, or only for others' eyes: check the name; "
            f"{_token()}"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return DownloadError(f"cannot get {what}: {_status(error.response.status_code)}")
    if is_unreachable(error):
        return DownloadError(
            f"cannot get {what}: the connection to the hub failed ({_told(error)}); check the network and run it again"
        )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return DownloadError(
            f"cannot write {what} to {hub.constants.HF_HUB_CACHE}: {error.strerror}; make room there, or name another "
            "folder by HF_HUB_CACHE"
        )
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return DownloadError(f"{what} came with another size than the hub announced: run it again")
    return DownloadError(f"cannot get {what}: {_told(error)}")


def _status(status: int) -> str:
    if status == 401:
        return f"the hub does not accept the token (401); {_token()}"
    if status == 403:
        return f"the hub refuses access (403); {_token()}"
    if status == 429:
        return "the hub asks for a pause (429): try again in some minutes, or log in with `hf auth login`"
    return f"the hub answered with status {status}"


def _told(error: BaseException) -> str:
    text = str(error).strip()
    return shown(f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__)


def _token() -> str:
    """Which token was sent, without showing it."""
    hub = library()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return f"the token of the environment variable {name} was sent"
    if hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or not os.path.isfile(hub.constants.HF_TOKEN_PATH):
        return "no token was sent: `hf auth login` stores one, or set HF_TOKEN"
    return f"the token stored in {hub.constants.HF_TOKEN_PATH} was sent"
