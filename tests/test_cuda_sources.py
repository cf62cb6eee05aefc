"""The project's CUDA sources compile against the patched llama.cpp, without a build of ggml-cuda."""

import shutil
import subprocess
from pathlib import Path

import pytest

from support.cmake import PROJECT

SOURCES = sorted((PROJECT / "csrc").rglob("*.cu"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_cuda_source_compiles(portable_build: Path, tmp_path: Path, source: Path):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, of the CUDA toolkit")
    ggml = portable_build / "llama.cpp" / "ggml"
    csrc = PROJECT / "csrc"
    include = [f"-I{folder}" for folder in (ggml / "include", ggml / "src", csrc)]
    options = ["-std=c++17", "-arch=sm_80", "-use_fast_math", "-Werror=all-warnings"]
    command = ["nvcc", *options, *include, "-c", source, "-o", tmp_path / "out.o"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_cuda_source_is_in_the_build():
    lists = "".join(path.read_text() for path in (PROJECT / "csrc").rglob("CMakeLists.txt"))
    assert SOURCES and [path.name for path in SOURCES if f"/{path.name}" not in lists] == []
