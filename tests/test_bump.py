"""Moving to another llama.cpp: what the script writes, and that it changes nothing when a step before that fails."""

import io
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from support.cmake import LOCK, PROJECT, SOURCE_SCRIPT

sys.path.insert(0, str(SOURCE_SCRIPT.parent))
import bump_llama_cpp as bump  # noqa: E402  (a script, beside the one that it imports)

VERSION = "2027.1.12000"
HEADER = b"// one\n// two\n"
PATCH = "--- a/src/hook.cpp\n+++ b/src/hook.cpp\n@@ -2 +2 @@\n-// two\n+// hooked\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with this one's lock and files that name versions, one patch, and one header that it includes."""
    for name in (*bump.NAMING, "csrc/llama/llama.cpp.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((PROJECT / name).read_text())
    (tmp_path / "csrc" / "internal.h").write_text('#include "llama-ext.h"\n')
    patches = tmp_path / "csrc" / "llama" / "patches"
    patches.mkdir()
    (patches / "series").write_text("hook.patch\n")
    (patches / "hook.patch").write_text(PATCH)
    monkeypatch.setattr(bump, "PROJECT", tmp_path)
    monkeypatch.setattr(bump, "LOCK", tmp_path / "csrc" / "llama" / "llama.cpp.lock")
    monkeypatch.setattr(bump, "PATCHES", patches)
    monkeypatch.setattr(bump, "download", lambda folder, lock: archive(tmp_path, lock["version"]))
    return tmp_path


def archive(folder: Path, version: str, hook: bytes = HEADER) -> Path:
    path = folder / f"{LOCK['package']}-{version}.tar.gz"
    tree = {"CMakeLists.txt": b"", "LICENSE": b"MIT", "src/hook.cpp": hook, "src/llama-ext.h": version.encode()}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in tree.items():
            member = tarfile.TarInfo(f"{LOCK['folder'].replace(LOCK['version'], version)}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bump", *arguments, "--skip-tests"])
    bump.main()


def contents(project: Path) -> dict[str, str]:
    return {name: (project / name).read_text() for name in (*bump.NAMING, "csrc/llama/llama.cpp.lock")}


def test_a_bump_writes_lock_and_names_and_says_what_to_review(project, monkeypatch, capsys):
    before = contents(project)
    run(monkeypatch, VERSION)
    lock = tomllib.loads((project / "csrc" / "llama" / "llama.cpp.lock").read_text())
    assert lock["version"] == VERSION and lock["build"] == 12000 and lock["folder"].startswith(f"xllamacpp-{VERSION}/")
    assert lock["sha256"] == bump.checksum(project / f"xllamacpp-{VERSION}.tar.gz")
    assert f'"xllamacpp=={VERSION}"' in (project / "pyproject.toml").read_text()
    for name, text in contents(project).items():
        assert LOCK["version"] not in text and f"b{LOCK['build']}" not in text, name
        assert text.count("\n") == before[name].count("\n")
    output = capsys.readouterr().out
    assert "review: src/llama-ext.h differs" in output and "LICENSE" not in output


def test_every_place_that_pins_the_version_is_known():
    """Otherwise a bump would leave the old one somewhere. Records of measurements may name what they measured."""
    folders = ("docs", "csrc", "cmake", "pyllama_mtp", "convert")
    files = [path for folder in folders for path in (PROJECT / folder).rglob("*") if path.is_file()]
    files += [path for path in PROJECT.iterdir() if path.suffix in (".md", ".txt", ".toml")]
    naming = {path.relative_to(PROJECT).as_posix() for path in files if LOCK["version"].encode() in path.read_bytes()}
    assert naming <= {*bump.NAMING, "csrc/llama/llama.cpp.lock"}


@pytest.mark.parametrize("version, hook, reason", [(VERSION, b"// one\n", "hook.patch"), ("12000", HEADER, "12000")])
def test_a_step_that_fails_changes_nothing(project, monkeypatch, version, hook, reason):
    before = contents(project)
    with pytest.raises(SystemExit, match=rf"(?s)\Abump: .*{reason}"):
        run(monkeypatch, version, "--archive", str(archive(project, version, hook)))
    assert contents(project) == before


def test_a_bump_moves_the_hunks(project, monkeypatch, capsys):
    run(monkeypatch, VERSION, "--archive", str(archive(project, VERSION, b"// new\n" * 2 + HEADER)))
    assert "every hunk fits" in (output := capsys.readouterr().out) and "1 at another line" in output
    assert (project / "csrc" / "llama" / "patches" / "hook.patch").read_text() == PATCH.replace("-2 +2", "-4 +4")


@pytest.mark.parametrize(
    "source, line, header",
    [
        ("drafters/x.cpp", '#include "llama-ext.h"', "src/llama-ext.h"),
        ("turboquant/ggml_cpu.c", '  # include "ggml.h"', "ggml/include/ggml.h"),
        ("kernels/cuda/fusion.cu", '#include "ggml-impl.h"', "ggml/src/ggml-impl.h"),
        ("kernels/cuda/launch.cuh", '#include "common.cuh"', "ggml/src/ggml-cuda/common.cuh"),
        ("turboquant/types.inc", '#include "quants.h"', "ggml/src/ggml-cpu/quants.h"),
    ],
)
def test_every_file_that_includes_a_header_of_llama_cpp_is_looked_at(tmp_path, source, line, header):
    """Of C and CUDA sources the review saw nothing."""
    trees = [tmp_path / "old", tmp_path / "new"]
    for tree in trees:
        for name in (header, "ggml/include/not-included.h", "LICENSE"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(tree.name if name != "LICENSE" else "MIT")
    (tmp_path / "csrc" / source).parent.mkdir(parents=True)
    (tmp_path / "csrc" / source).write_text(f"// ours\n{line}\n")
    assert bump.differences(*trees, tmp_path / "csrc") == [header]


def test_another_file_under_the_same_version_is_refused(project, monkeypatch):
    before = contents(project)
    with pytest.raises(SystemExit, match="sha256"):
        run(monkeypatch, LOCK["version"])
    assert contents(project) == before
