"""replacing(): what is at the destination, and which temporary files go."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from pyllama_mtp import part_files
from pyllama_mtp.part_files import remove_remains, replacing

GONE = 4194305  # beyond the largest number of a process


def test_the_file_appears_when_it_is_complete(tmp_path: Path):
    out = tmp_path / "out"
    out.write_bytes(b"previous")
    with replacing(out) as file:
        file.write(b"new")
        file.flush()
        assert out.read_bytes() == b"previous"
        assert Path(file.name).parent == tmp_path and file.name.endswith(f".{os.getpid()}.part")
    assert out.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_previous_file(tmp_path: Path, error: type[BaseException]):
    out = tmp_path / "out"
    out.write_bytes(b"previous")
    with pytest.raises(error), replacing(out) as file:
        file.write(b"new")
        raise error
    assert out.read_bytes() == b"previous"
    assert os.listdir(tmp_path) == ["out"]


def test_the_disk_has_the_file_before_its_name_and_the_name_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}')).rpartition('.')[2]}")
        real_fsync(descriptor)

    def replace(source, destination) -> None:
        calls.append(f"rename {Path(source).stat().st_size}")
        real_replace(source, destination)

    monkeypatch.setattr(part_files.os, "fsync", fsync)
    monkeypatch.setattr(part_files.os, "replace", replace)
    with replacing(tmp_path / "out") as file:
        file.write(b"new")
    assert calls == ["sync part", "rename 3", f"sync {tmp_path.name}"]


def test_the_mode_is_that_of_any_new_file(tmp_path: Path):
    with replacing(tmp_path / "out"):
        pass
    (tmp_path / "other").touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_only_what_gone_writers_left_is_removed(tmp_path: Path):
    removed = [f".out.{GONE}.part", f".out.0123abcd.{GONE}.part", f".out.0123abcd.{os.getpid()}.part"]
    kept = [
        ".out.0123abcd.1.part",
        f".other.0123abcd.{GONE}.part",
        f"out.{GONE}.part",
        f".out.{GONE}.part.gguf",
        ".out.name.part",
        f".out.locked.{GONE}.part",  # of another container: its processes are not seen here
    ]
    for name in removed + kept:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f".out.folder.{GONE}.part").mkdir()
    (tmp_path / f".out.link.{GONE}.part").symlink_to("/dev/null")
    kept += [f".out.folder.{GONE}.part", f".out.link.{GONE}.part"]
    with open(tmp_path / f".out.locked.{GONE}.part") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with replacing(tmp_path / "out"):
            assert not set(removed) & set(os.listdir(tmp_path))
        assert sorted(os.listdir(tmp_path)) == sorted([*kept, "out"])
    remove_remains(tmp_path)
    assert not (tmp_path / f".out.locked.{GONE}.part").exists()
    assert not (tmp_path / f".other.0123abcd.{GONE}.part").exists()


def test_without_locks_the_number_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(part_files.fcntl, "flock", no_locks)
    for pid in (GONE, 1, os.getpid()):
        (tmp_path / f".out.0123abcd.{pid}.part").write_bytes(b"half")
    with replacing(tmp_path / "out") as file:
        file.write(b"new")
    assert sorted(os.listdir(tmp_path)) == sorted(["out", ".out.0123abcd.1.part", f".out.0123abcd.{os.getpid()}.part"])


def test_threads_that_write_the_same_file_do_not_disturb_each_other(tmp_path: Path):
    out = tmp_path / "out"
    errors: list[BaseException] = []
    seen: set[bytes] = set()

    def write(content: bytes) -> None:
        try:
            for _ in range(50):
                with replacing(out) as file:
                    file.write(content)
                seen.add(out.read_bytes())
        except BaseException as error:
            errors.append(error)

    contents = {bytes([letter]) * 5000 for letter in b"abcd"}
    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and seen <= contents
    assert os.listdir(tmp_path) == ["out"]
