"""Puts the pinned, patched llama.cpp into a folder: obtain, verify, unpack, patch.

    python llama_cpp_source.py DESTINATION [--archive FILE | --source-dir DIR]

With neither, the source distribution that csrc/llama/llama.cpp.lock names is downloaded by `unearth`. Only what the
build needs is taken. A file whose content is already right is not touched, so a changed patch rebuilds only what it
changes. Failures end with exit status 1 and a message that names the command which fixes them.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCK = PROJECT / "csrc" / "llama" / "llama.cpp.lock"
PATCHES = PROJECT / "csrc" / "llama" / "patches"
TEST = "tests/test-backend-ops.cpp"  # built by tests alone
TAKEN = ("CMakeLists.txt", "LICENSE", "cmake", "ggml", "include", "licenses", "src", "vendor", TEST)
# Python has filters since 3.11.4; with what came before, such as Debian 12's, the archive's checksum has to do.
FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}

sys.path.insert(0, str(PATCHES))
from apply import PatchError, apply_series  # noqa: E402  (the applier lies beside the series it applies)


class SourceError(Exception):
    """The pinned source cannot be had; says what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("destination", type=Path)
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--archive", type=Path)
    origin.add_argument("--source-dir", type=Path)
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--patches", type=Path, default=PATCHES)
    args = parser.parse_args()
    try:
        prepare(args.destination, args.archive, args.source_dir, tomllib.loads(args.lock.read_text()), args.patches)
    except (SourceError, PatchError) as error:
        sys.exit(f"llama.cpp source: {error}")


def prepare(destination: Path, archive: Path | None, source_dir: Path | None, lock: dict, patches: Path) -> None:
    """Makes `destination` the taken part of the pinned source with the series applied."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix="llama.cpp-") as scratch:
        if source_dir is None:
            if archive is None:
                archive = download(destination.parent / "download", lock)
            verify(archive, lock)
            source_dir = unpack(archive, Path(scratch), lock)
        elif not (source_dir / "include" / "llama.h").is_file():
            raise SourceError(f"LLAMA_CPP_SOURCE_DIR={source_dir} is no llama.cpp tree: include/llama.h is missing")
        mirror(source_dir, apply_series(source_dir, patches), destination)


def requirement(lock: dict) -> str:
    return f"{lock['package']}=={lock['version']}"


def fetch_advice(lock: dict) -> str:
    """How to get the archive by hand and build from it with no network."""
    name = f"{lock['package']}-{lock['version']}.tar.gz"
    return (
        f"On a machine with network run\n"
        f"    pip install unearth && unearth '{requirement(lock)}' --no-binary --download .\n"
        f"copy {name} here and run\n"
        f"    pip install . -C cmake.define.LLAMA_CPP_ARCHIVE=/path/to/{name}"
    )


def download(folder: Path, lock: dict) -> Path:
    """The source distribution in `folder`, downloaded unless a file with the right checksum is there already."""
    archive = folder / f"{lock['package']}-{lock['version']}.tar.gz"
    if archive.is_file() and checksum(archive) == lock["sha256"]:
        return archive
    command = [sys.executable, "-m", "unearth", requirement(lock), "--no-binary", "--download", str(folder)]
    if index := os.environ.get("PIP_INDEX_URL"):  # unearth does not read pip's settings
        command += ["--index-url", index]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0 or not archive.is_file():
        closing = result.stdout.strip().splitlines()[-1:] or ["no output"]
        raise SourceError(f"could not download {requirement(lock)} ({closing[0]}). {fetch_advice(lock)}")
    return archive


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(archive: Path, lock: dict) -> None:
    if not archive.is_file():
        raise SourceError(f"LLAMA_CPP_ARCHIVE={archive} does not exist. {fetch_advice(lock)}")
    if (seen := checksum(archive)) != lock["sha256"]:
        raise SourceError(
            f"{archive} has sha256 {seen}, expected {lock['sha256']}: it is damaged or another version. "
            f"{fetch_advice(lock)}"
        )


def unpack(archive: Path, folder: Path, lock: dict) -> Path:
    """Unpacks the taken part of the archive below `folder`; returns the llama.cpp folder."""
    prefixes = tuple(f"{lock['folder']}/{name}" for name in TAKEN)
    with tarfile.open(archive) as tar:
        members = (m for m in tar if m.name in prefixes or m.name.startswith(tuple(p + "/" for p in prefixes)))
        tar.extractall(folder, members=members, **FILTER)
    if not (folder / lock["folder"] / "CMakeLists.txt").is_file():
        raise SourceError(f"{archive} holds no {lock['folder']}/CMakeLists.txt: correct csrc/llama/llama.cpp.lock")
    return folder / lock["folder"]


def mirror(source: Path, changed: dict[str, bytes], destination: Path) -> None:
    """Makes `destination` hold the taken files of `source`, `changed` ones with their new content, and no others."""
    wanted = {path.relative_to(source).as_posix() for name in TAKEN for path in _files(source / name)} | changed.keys()
    for name in sorted(wanted):
        content = changed[name] if name in changed else (source / name).read_bytes()
        target = destination / name
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for path in list(_files(destination)):
        if path.relative_to(destination).as_posix() not in wanted:
            path.unlink()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


if __name__ == "__main__":
    main()
