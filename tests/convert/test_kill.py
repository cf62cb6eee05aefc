"""convert-assistant's destination when the command is killed, or cannot be written: nothing but whole files."""

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.checkpoints import config_json, random_tensors, write_checkpoint

KILLS = int(os.environ.get("PMTP_KILLS", "6"))
SEED = 0
PREVIOUS = b"the previous file"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path / "assistant", config, random_tensors(config))


def command(checkpoint: Path, out: Path, outtype: str = "f16") -> list[str]:
    return [sys.executable, "-P", "-m", "pyllama_mtp.convert.cli", str(checkpoint), str(out), "--outtype", outtype]


def remains(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".part"))


def wait_for_part(process: subprocess.Popen, folder: Path) -> None:
    """Returns once this process has begun to write, or has ended."""
    while process.poll() is None and not any(f".{process.pid}." in name for name in remains(folder)):
        time.sleep(0.0002)


@pytest.mark.parametrize("outtype", ["f16", "q4_k_m"])
def test_a_killed_conversion_leaves_the_previous_file_or_the_whole_new_one(
    checkpoint: Path, tmp_path: Path, outtype: str
):
    """Half of the kills fall anywhere in the run, most of which is imports; the other half where it writes."""
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "assistant.gguf"
    begin = time.monotonic()
    process = subprocess.Popen(command(checkpoint, out, outtype), stdout=subprocess.DEVNULL)
    wait_for_part(process, folder)
    begin_writing = time.monotonic()
    while process.poll() is None and remains(folder):
        time.sleep(0.0002)
    writing = time.monotonic() - begin_writing
    assert process.wait(timeout=60) == 0
    whole_run = time.monotonic() - begin
    whole = out.read_bytes()
    delays = random.Random(SEED)
    seen = {"absent": 0, "previous": 0, "new": 0, "remains": 0}
    for kill in range(KILLS):
        before = None if kill // 2 % 2 else PREVIOUS
        out.unlink(missing_ok=True)
        if before is not None:
            out.write_bytes(before)
        process = subprocess.Popen(
            command(checkpoint, out, outtype), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if kill % 2:
            wait_for_part(process, folder)
        time.sleep(delays.uniform(0, writing if kill % 2 else whole_run))
        process.kill()
        process.wait(timeout=60)
        after = out.read_bytes() if out.exists() else None
        assert after in (before, whole), f"kill {kill}"
        seen["new" if after == whole else "absent" if after is None else "previous"] += 1
        left = remains(folder)
        seen["remains"] += any(f".{process.pid}." in name for name in left)
        assert sorted(os.listdir(folder)) == sorted(left + [out.name] * (after is not None))
    print(f"{KILLS} kills in a run of {whole_run:.2f} s, {writing:.3f} s of it writing: {seen}")
    (folder / f".{out.name}.00000000.{process.pid}.part").write_bytes(b"GGUF")  # should no kill have come in time
    assert subprocess.run(command(checkpoint, out, outtype), stdout=subprocess.DEVNULL, timeout=60).returncode == 0
    assert os.listdir(folder) == [out.name]
    assert out.read_bytes() == whole


def refuse(checkpoint: Path, out: Path, tmp_path: Path, message: str, outtype: str = "f16", **options: object) -> None:
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    done = subprocess.run(command(checkpoint, out, outtype), capture_output=True, text=True, timeout=60, **options)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(
        f"convert-assistant: error: cannot write {out}"
    )
    assert message in done.stderr
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("outtype", ["f16", "q4_k_m"])
@pytest.mark.parametrize("size", [0, 100, 20_000, 200_000])
def test_a_full_disk_is_told_in_one_line(checkpoint: Path, tmp_path: Path, size: int, outtype: str):
    """A limit on the size of files ends the writing where a full disk would: in the header, in the tensors."""
    out = tmp_path / "out.gguf"
    out.write_bytes(PREVIOUS)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    refuse(checkpoint, out, tmp_path, "room for it", outtype, preexec_fn=limit, env=environment)
    assert out.read_bytes() == PREVIOUS


def test_a_folder_that_cannot_be_written_is_told_in_one_line(checkpoint: Path, tmp_path: Path):
    (tmp_path / "file").write_bytes(PREVIOUS)
    refuse(checkpoint, tmp_path / "file" / "out.gguf", tmp_path, "Not a directory")
    refuse(checkpoint, tmp_path / "none" / "out.gguf", tmp_path, "No such file or directory")
    refuse(checkpoint, Path("/proc/out.gguf"), tmp_path, "existing, writable folder")
    (tmp_path / "closed").mkdir(mode=0o555)
    if not os.access(tmp_path / "closed", os.W_OK):  # root may write anywhere
        refuse(checkpoint, tmp_path / "closed" / "out.gguf", tmp_path, "Permission denied")


def test_a_destination_that_is_a_folder_is_told_in_one_line(checkpoint: Path, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    refuse(checkpoint, tmp_path / "folder", tmp_path, "it is a folder")
