"""Names of repositories, revisions and files: as callers write them, and as listings that nobody trusts have them."""

import re
from dataclasses import dataclass

from pyllama_mtp.errors import DownloadError, shown

MAX_NAME_BYTES = 255  # of one part of a path, as file systems have it

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """pattern: a quantisation or a file's pattern; None: the usual ones."""

    repository: str
    pattern: str | None


def is_repository(text: str) -> bool:
    """Whether it has the form owner/repo that the hub's names have."""
    return _REPOSITORY.fullmatch(text) is not None and "--" not in text and ".." not in text


def wanted(text: str) -> Wanted:
    """Of "owner/repo[:pattern]". Raises DownloadError."""
    repository, colon, pattern = text.partition(":")
    if not is_repository(repository) or (colon and not pattern):
        raise DownloadError(
            f"{shown(repr(text))} names no repository of the hub, expected owner/repo or owner/repo:QUANT, such as "
            "unsloth/gemma-4-E2B-it-GGUF:Q4_0"
        )
    return Wanted(repository, pattern or None)


def checked_revision(revision: str | None) -> str:
    """A branch, a tag or a commit; "main" where none is given. Raises DownloadError."""
    if revision is None:
        return "main"
    if _REVISION.fullmatch(revision) is None or ".." in revision or "//" in revision or revision.endswith("/"):
        raise DownloadError(
            f"the revision is {shown(repr(revision))}, expected the name of a branch, a tag or a commit"
        )
    return revision


def check_file_name(repository: str, name: str) -> None:
    """Raises DownloadError unless the name, joined to a folder, stays in it and is one that people can read."""
    parts = name.split("/")
    odd = any(
        not part or part in (".", "..") or len(part.encode("utf-8", "replace")) > MAX_NAME_BYTES for part in parts
    )
    if odd or "\\" in name or not name.isprintable() or len(parts) > 16:
        raise DownloadError(f"{repository} has a file named {shown(repr(name))}, which is no name of a file: not taken")
