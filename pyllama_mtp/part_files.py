"""Files that appear under their name only when they are complete, whatever ends the process that writes them."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_LONG = 200  # bytes of a name; file systems take 255, of which 23 are this module's


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends without an exception, and is removed otherwise.

    A symbolic link stays one: the file that it leads to is replaced. Until then the new one lies beside that as
    .NAME.RANDOM.PID.part. It is on the disk before it gets the name, and the name is before this returns, so that
    after a kill or a power cut `path` is what it was or complete. What killed writers of `path` left is removed first.
    Raises OSError, also if `path` is something else than a file.
    """
    path = destination(path)
    remove_remains(path.parent, path.name)
    file = _create(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)  # still open: the lock goes with it
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path`, removed when the block ends, or by replacing() after a kill. Raises OSError."""
    file = _create(destination(path))
    try:
        with file:
            yield file
    finally:
        Path(file.name).unlink(missing_ok=True)


def remove_remains(folder: Path, name: str | None = None) -> None:
    """Removes the temporary files of `name`, or of any name, whose writers are gone; best effort."""
    prefix = "." if name is None else _prefix(name)
    with contextlib.suppress(OSError):  # a folder that cannot be listed may still be written to
        for found in os.listdir(folder):
            match = re.fullmatch(r"\..+\.(\d{1,9})\.part", found, re.DOTALL)
            if match and found.startswith(prefix):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(folder / found, int(match[1]))


def destination(path: Path) -> Path:
    """Where a name leads, through symbolic links. Raises OSError if it leads to something else than a file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise OSError(errno.EINVAL, f"it is {kind}, expected the name of a file", str(path))
    return Path(os.path.realpath(path))


def _prefix(name: str) -> str:
    """Of the names of temporary files, which have no room for a name that is as long as names may be."""
    raw = os.fsencode(name)
    return f".{name}." if len(raw) <= _LONG else f".{name[:32]}~{hashlib.sha256(raw).hexdigest()[:16]}."


def _create(path: Path) -> BinaryIO:
    while True:
        temporary = path.with_name(f"{_prefix(path.name)}{secrets.token_hex(4)}.{os.getpid()}.part")
        try:
            file = open(temporary, "xb")
        except FileExistsError:
            continue
        with contextlib.suppress(OSError):  # not every file system has locks: the number remains
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():  # another thread's remove_remains() may have come before the lock
            return file
        file.close()


def _remove_if_abandoned(temporary: Path, pid: int) -> None:
    """The lock tells of writers whose number means nothing here, in another container, and of this process's threads: a
    container's only process has the same number each time, so ours may be that of a killed one.
    """
    if pid != os.getpid() and _is_alive(pid):
        return
    descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError) or pid == os.getpid():
                return
        os.unlink(temporary)  # under the lock, for which a writer that has just begun waits
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
