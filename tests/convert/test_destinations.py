"""Where convert-assistant writes: only what is a file, or may become one, is ever replaced."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pyllama_mtp import ConversionError
from pyllama_mtp.convert import convert_assistant, upgrade_assistant
from pyllama_mtp.convert.cli import main
from pyllama_mtp.gguf.format import read_header
from pyllama_mtp.part_files import replacing
from support.checkpoints import config_json, random_tensors, write_checkpoint
from support.old_layouts import in_old_layout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path_factory.mktemp("destinations") / "assistant", config, random_tensors(config))


def make(kind: str, path: Path) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            folder = os.getcwd()
            os.chdir(path.parent)  # the address of a socket has 107 bytes
            try:
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(path.name)
            finally:
                os.chdir(folder)
        case "device":
            try:
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
            except PermissionError:
                pytest.skip("only root makes devices")
        case "folder":
            path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("outtype", ["f16", "q4_k_m", "upgrade"])
def test_what_is_no_file_is_refused_and_left(checkpoint: Path, tmp_path: Path, demo, kind: str, linked: bool, outtype):
    """As root, a device was replaced by the converted file: /dev/full was none any more."""
    special = tmp_path / "special"
    make(kind, special)
    before = special.lstat()
    out = tmp_path / "link" if linked else special
    if linked:
        out.symlink_to(special)
    with pytest.raises(ConversionError, match=f"cannot write {out}: it is a {kind}, expected the name of a file"):
        if outtype == "upgrade":
            (tmp_path / "old.gguf").write_bytes(in_old_layout(demo.head, "gemma4_mtp").to_bytes())
            upgrade_assistant(tmp_path / "old.gguf", out)
        else:
            convert_assistant(checkpoint, out, outtype=outtype)
    with pytest.raises(OSError, match=f"it is a {kind}"), replacing(out):
        pass
    assert (special.lstat().st_ino, special.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("name", ["/dev/full", "/dev/null", "/dev/stdout"])
def test_devices_of_the_system_are_refused(checkpoint: Path, name: str):
    before = os.stat(name)
    command = [sys.executable, "-P", "-m", "pyllama_mtp.convert.cli", str(checkpoint), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith(f"convert-assistant: error: cannot write {name}: it is a")
    assert len(done.stderr.splitlines()) == 1
    assert stat.S_IFMT(os.stat(name).st_mode) == stat.S_IFMT(before.st_mode)


@pytest.mark.parametrize("outtype", ["f16", "q4_k_m"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_written_through(checkpoint: Path, tmp_path: Path, outtype: str, depth: int, there: bool):
    """The link was replaced, and the file that it led to kept its old content."""
    (tmp_path / "disk").mkdir()
    file = tmp_path / "disk" / "head.gguf"
    if there:
        file.write_bytes(b"previous")
    out = file
    for i in range(depth):
        link = tmp_path / f"link{i}"
        link.symlink_to(os.path.relpath(out, tmp_path))
        out = link
    assert convert_assistant(checkpoint, out, outtype=outtype) == out
    assert out.is_symlink() and not file.is_symlink()
    assert read_header(file).architecture == "gemma4-assistant"
    assert os.listdir(tmp_path / "disk") == ["head.gguf"]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_links_that_lead_nowhere_are_refused(checkpoint: Path, tmp_path: Path):
    loop, far = tmp_path / "loop", tmp_path / "far"
    loop.symlink_to(loop)
    far.symlink_to(tmp_path / "no" / "such" / "file")
    for link, message in ((loop, "symbolic links"), (far, "No such file or directory")):
        with pytest.raises(ConversionError, match=f"cannot write {link}: .*{message}"):
            convert_assistant(checkpoint, link)
        assert link.is_symlink()


NAMES = [
    *("x" * 255, "ä" * 127, "a.gguf" + "b" * 249, "-o", "--outtype", "~", "*", "a b", "a\nb", "a\tb", "a\x1b[31m"),
    *("'\"", "%s", "{}", "$HOME", ".part", ".x.00000000.1.part", "\\", "..."),
    *(os.fsdecode(b"\xff"), os.fsdecode(b"\xff" * 255), os.fsdecode(b"\xc3\n\x80")),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("outtype", ["f16", "q4_k_m"])
def test_every_name_that_a_file_may_have(checkpoint: Path, tmp_path: Path, capsys, name: str, outtype: str):
    """Names of more than some 230 bytes left no room for that of the temporary file; others broke the last line."""
    for _ in range(2):  # also over itself
        assert main(["--outtype", outtype, "--", str(checkpoint), str(tmp_path / name)]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1 and out.rstrip("\n").isprintable() and len(err.splitlines()) <= 1
        assert os.listdir(tmp_path) == [name]
    assert read_header(tmp_path / name).architecture == "gemma4-assistant"


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_name_that_a_checkpoint_may_have(checkpoint: Path, tmp_path: Path, capsys, name: str):
    (tmp_path / name).symlink_to(checkpoint)
    assert main(["--", str(tmp_path / name), str(tmp_path / "out.gguf")]) == 0
    capsys.readouterr()
    (tmp_path / name).unlink()
    assert main(["--", str(tmp_path / name), str(tmp_path / "out.gguf")]) == 1
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and err.rstrip("\n").isprintable() and "is missing" in err


def test_remains_of_a_long_name_are_removed(tmp_path: Path):
    """Of another name that begins alike they are not."""
    ours, other = "x" * 250, "x" * 251
    for name in (ours, other):
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / name) as file:
            os.link(file.name, file.name.replace(f".{os.getpid()}.", ".4194305."))  # a process that is gone
            raise KeyboardInterrupt
    assert len(os.listdir(tmp_path)) == 2
    with replacing(tmp_path / ours):
        pass
    assert len(os.listdir(tmp_path)) == 2
    with replacing(tmp_path / other):
        pass
    assert sorted(os.listdir(tmp_path)) == [ours, other]


@pytest.mark.parametrize("path", [None, 5, b"bytes", ["list"]])
def test_what_is_no_path_is_refused(checkpoint: Path, tmp_path: Path, path: object):
    for call in (
        lambda: convert_assistant(path, tmp_path / "out.gguf"),
        lambda: convert_assistant(checkpoint, path),
        lambda: upgrade_assistant(path, tmp_path / "out.gguf"),
        lambda: upgrade_assistant(tmp_path / "old.gguf", path),
    ):
        with pytest.raises(ConversionError, match=r"expected str or os.PathLike\[str\]"):
            call()


@pytest.mark.parametrize("outtype", [None, 5, ["f16"], "f17", "", "x" * 5000])
def test_what_is_no_type_is_refused(checkpoint: Path, tmp_path: Path, outtype: object):
    with pytest.raises(ConversionError, match="outtype is .* expected one of") as refused:
        convert_assistant(checkpoint, tmp_path / "out.gguf", outtype=outtype)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("outtype", ["f16", "q4_k_m"])
@pytest.mark.parametrize("out", [Path("/".join(["x" * 200] * 30)), Path("x" * 5000 + "\0")], ids=["long", "NUL"])
def test_a_destination_that_is_no_name_is_told_of_in_few_characters(checkpoint: Path, out: Path, outtype: str):
    """A name that is too long was repeated in full, some thousand characters."""
    with pytest.raises(ConversionError) as error:
        convert_assistant(checkpoint, out, outtype=outtype)
    assert len(str(error.value)) < 600
