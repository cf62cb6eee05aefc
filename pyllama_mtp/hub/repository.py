"""One commit of a repository of the hub: what files it has, and getting them into huggingface_hub's cache.

The names and sizes of a listing, and the digests that it gives, are what every later answer is held to.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyllama_mtp.errors import DownloadError, shown
from pyllama_mtp.hub.faults import CallersError, NotThere, fault, is_unreachable, library
from pyllama_mtp.hub.names import COMMIT, check_file_name, checked_revision, is_repository
from pyllama_mtp.part_files import replacing
from pyllama_mtp.progress import Progress

SECONDS = 10  # for an answer without content
MOST_FILES = 100_000
MOST_BYTES = 1 << 44  # of a file
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's, of a small file, or sha256
_TAG = re.compile(r"[0-9A-Za-z_-]{8,128}")  # becomes the name of a file

logger = logging.getLogger("pyllama_mtp")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """size: bytes. digest: sha256, or git's sha1 of a small file; None where it is in the cache already."""

    name: str
    size: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """base_models: those that its card names. online: whether the hub was asked."""

    name: str
    revision: str
    commit: str
    files: dict[str, RemoteFile]
    base_models: tuple[str, ...]
    online: bool

    @property
    def where(self) -> str:
        """For messages about what it lacks."""
        return self.name if self.online else f"{self.name}, as it is in the cache,"

    def get(self, names: Sequence[str], progress: bool | Progress = False) -> list[Path]:
        """Where the files lie, downloaded if they are not there yet. Raises DownloadError."""
        files = [self._file(name) for name in names]
        missing = [file for file in files if self._cached(file) is None]
        if missing:
            _require_room(sum(file.size for file in missing), self.name)
        for file in missing:
            self._download(file, progress)
        self._remember()
        paths = [self._cached(file) for file in files]
        if lost := [file.name for file, path in zip(files, paths, strict=True) if path is None]:
            raise DownloadError(f"{shown(lost[0])} of {self.name} is gone from the cache: run it again")
        return [path for path in paths if path is not None]

    def _file(self, name: str) -> RemoteFile:
        check_file_name(self.name, name)
        if name not in self.files:
            raise DownloadError(f"{self.name} has no file {shown(name)}")
        return self.files[name]

    def _cached(self, file: RemoteFile) -> Path | None:
        """One of another size is not it: something else has damaged the cache."""
        found = library().try_to_load_from_cache(self.name, file.name, revision=self.commit)
        if not isinstance(found, str) or not os.path.isfile(found) or os.path.getsize(found) != file.size:
            return None
        return Path(found)

    def _download(self, file: RemoteFile, progress: bool | Progress) -> None:
        from pyllama_mtp.hub.bars import bar_class

        hub = library()
        what = f"the file {file.name} of {self.name}"
        if not self.online:
            raise DownloadError(f"{what} is not in the cache, and the hub was not asked")
        try:
            url = hub.hf_hub_url(self.name, file.name, revision=self.commit)
            announced = hub.get_hf_file_metadata(url, timeout=SECONDS)
            self._require_same(file, announced, url)
            whole = None if announced.xet_file_data is not None else file.size
            path = hub.hf_hub_download(
                self.name,
                file.name,
                revision=self.commit,
                force_download=os.path.lexists(self._pointer(file)),
                tqdm_class=bar_class(file.name, file.size, whole, progress),
            )
        except DownloadError:
            raise
        except CallersError as stopped:
            raise stopped.error from None
        except Exception as error:  # whatever the hub's library and those below it raise
            raise fault(error, self.name, what) from error
        self._require_whole(file, Path(path))

    def _pointer(self, file: RemoteFile) -> Path:
        return _storage(self.name) / "snapshots" / self.commit / file.name

    def _require_same(self, file: RemoteFile, announced: Any, url: str) -> None:
        """What a file's own answer says must be what the listing said."""
        digest, size, commit = announced.etag, announced.size, announced.commit_hash
        if commit != self.commit or size not in (file.size, None) or (file.digest and digest != file.digest):
            raise DownloadError(
                f"the file {file.name} of {self.name} changed while it was asked for (from {file.size} bytes, "
                f"{file.digest}, to {shown(size)} bytes, {shown(digest)}): run it again"
            )
        if not isinstance(digest, str) or _TAG.fullmatch(digest) is None:
            raise DownloadError(f"{self.name} gives {file.name} the tag {shown(repr(digest))}, expected a digest")
        if urlsplit(url).scheme == "https" != urlsplit(str(announced.location)).scheme:
            raise DownloadError(f"{self.name} sends {file.name} over a connection without encryption: not taken")

    def _require_whole(self, file: RemoteFile, path: Path) -> None:
        """Removes what is not the file that was announced."""
        try:
            size = path.stat().st_size
            same = size == file.size and (file.digest is None or _digest(path, len(file.digest)) == file.digest)
        except OSError as error:
            raise fault(error, self.name, f"the file {file.name} of {self.name}") from error
        if same:
            return
        for damaged in (Path(os.path.realpath(path)), path):
            with contextlib.suppress(OSError):
                damaged.unlink()
        raise DownloadError(
            f"the file {file.name} of {self.name} came with another content than the hub announced ({size} bytes of "
            f"{file.size}, or another digest), and was removed: run it again"
        )

    def _remember(self) -> None:
        """For later without a network: which commit the revision was."""
        if self.online and self.revision != self.commit:
            reference = _storage(self.name) / "refs" / self.revision
            with contextlib.suppress(OSError):
                if reference.is_file() and reference.read_text() == self.commit:
                    return
                reference.parent.mkdir(parents=True, exist_ok=True)
                with replacing(reference) as file:
                    file.write(self.commit.encode())


def open_repository(name: str, revision: str | None = None) -> Repository:
    """As the hub lists it; as it is in the cache where the hub cannot be reached or must not be asked.

    Raises NotThere, or DownloadError for other failures.
    """
    revision = checked_revision(revision)
    hub = library()
    if hub.constants.is_offline_mode():
        return _from_cache(name, revision, "HF_HUB_OFFLINE is set, so the hub is not asked")
    what = f"the list of files of {name}"
    try:
        info = hub.HfApi().model_info(name, revision=revision, files_metadata=True, timeout=SECONDS)
        return _listed(name, revision, info)
    except DownloadError:
        raise
    except Exception as error:  # whatever the hub's library raises, of answers that are not what it expects too
        problem = fault(error, name, what)
        if not is_unreachable(error):
            raise problem from error
        found = _from_cache(name, revision, str(problem))
        logger.warning("%s: %s as of commit %s from the cache is used", problem, name, found.commit[:12])
        return found


def _listed(name: str, revision: str, info: Any) -> Repository:
    commit, siblings = info.sha, info.siblings or []
    if not isinstance(commit, str) or COMMIT.fullmatch(commit) is None or len(siblings) > MOST_FILES:
        raise DownloadError(f"the hub lists {name} at the commit {shown(repr(commit))}, expected 40 hexadecimal digits")
    files = {}
    for sibling in siblings:
        lfs = sibling.lfs
        size, digest = (sibling.size, sibling.blob_id) if lfs is None else (lfs.size, lfs.sha256)
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MOST_BYTES:
            raise DownloadError(f"the hub gives {shown(sibling.rfilename)} of {name} {shown(repr(size))} bytes")
        if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
            raise DownloadError(f"the hub gives {shown(sibling.rfilename)} of {name} the digest {shown(repr(digest))}")
        files[str(sibling.rfilename)] = RemoteFile(str(sibling.rfilename), size, digest)
    return Repository(name, revision, commit, files, _base_models(info.card_data), online=True)


def _base_models(card: Any) -> tuple[str, ...]:
    named = getattr(card, "base_model", None)
    return tuple(text for text in (named if isinstance(named, list) else [named]) if isinstance(text, str))


def _from_cache(name: str, revision: str, reason: str) -> Repository:
    storage = _storage(name)
    commit = revision
    if COMMIT.fullmatch(revision) is None:
        try:
            with open(storage / "refs" / revision, "rb") as file:
                commit = file.read(64).decode("ascii", "replace").strip()
        except OSError:
            commit = ""
    snapshot = storage / "snapshots" / commit
    if COMMIT.fullmatch(commit) is None or not snapshot.is_dir():
        raise NotThere(f"{name} is not in the cache ({storage}): {reason}")
    names = [path.relative_to(snapshot).as_posix() for path in sorted(snapshot.rglob("*")) if path.is_file()]
    files = {n: RemoteFile(n, (snapshot / n).stat().st_size, None) for n in names}
    return Repository(name, revision, commit, files, (), online=False)


def _storage(name: str) -> Path:
    if not is_repository(name):
        raise DownloadError(f"{shown(repr(name))} names no repository, expected owner/repo")
    return Path(library().constants.HF_HUB_CACHE).expanduser() / f"models--{name.replace('/', '--')}"


def _require_room(n_bytes: int, name: str) -> None:
    """Before a download of gigabytes begins."""
    folder = Path(library().constants.HF_HUB_CACHE).expanduser()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DownloadError(
            f"the files of {name} take {n_bytes:,} bytes, and {folder} has {free:,} free: make room there, or name "
            "another folder by HF_HUB_CACHE"
        )


def _digest(path: Path, length: int) -> str:
    with open(path, "rb") as file:
        if length == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        sha1 = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while block := file.read(1 << 20):
            sha1.update(block)
        return sha1.hexdigest()
