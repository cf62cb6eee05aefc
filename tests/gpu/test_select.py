"""The project's CUDA kernels against plain loops, also under compute-sanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(device, tmp_path_factory) -> Path:
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc to build the check")
    out = tmp_path_factory.mktemp("select") / "select_check"
    sources = [ROOT / "csrc" / "cuda" / "select.cu", Path(__file__).parent / "select_check.cu"]
    subprocess.run(
        ["nvcc", "-std=c++17", "-O3", "-arch=native", f"-I{ROOT / 'csrc' / 'cuda'}", *sources, "-o", out], check=True
    )
    return out


def test_kernels_choose_what_plain_loops_choose(program):
    result = subprocess.run([program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "ok\n")


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_kernels_are_clean_under_compute_sanitizer(program, tool):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("needs compute-sanitizer")
    command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", program]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
