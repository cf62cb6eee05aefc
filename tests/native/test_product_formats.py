"""The formats of weights that the CUDA products decode, compiled for the CPU, against gguf's decoders."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
# Bytes of 256 values, and where a block's f16 numbers are: from, every.
FORMATS = {
    "q4_0": (144, range(0, 144, 18)),
    "q4_1": (160, [*range(0, 160, 20), *range(2, 160, 20)]),
    "q5_0": (176, range(0, 176, 22)),
    "q5_1": (192, [*range(0, 192, 24), *range(2, 192, 24)]),
    "q8_0": (272, range(0, 272, 34)),
    "iq4_nl": (144, range(0, 144, 18)),
    "iq4_xs": (136, [0]),
    "q4_k": (144, [0, 2]),
    "q5_k": (176, [0, 2]),
    "q6_k": (210, [208]),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    out = tmp_path_factory.mktemp("formats") / "check"
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wno-unknown-pragmas", "-Wno-parentheses", "-I", CSRC]
    subprocess.run([*command, HERE / "formats_check.cpp", "-o", out], check=True)
    return out


@pytest.mark.parametrize("name", FORMATS)
def test_values_are_those_of_gguf(program: Path, name: str):
    n_bytes, halves = FORMATS[name]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (64, n_bytes), np.uint8)
    for at in halves:
        scales = random.normal(0, 0.02, (64, 1)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8)
    expected = dequantize(blocks, GGMLQuantizationType[name.upper()])
    offsets = [0, 2] if name == "q6_k" else [0]  # the one format whose rows begin anywhere
    for offset in offsets:
        done = subprocess.run([program, name, str(offset)], input=blocks.tobytes(), capture_output=True, check=True)
        found = np.frombuffer(done.stdout, np.float32).reshape(64, 256)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
