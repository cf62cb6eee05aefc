"""The product kernels: right, independent of the number of rows, and in use."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.random_weights import write_target
from support.random_pairs import KINDS

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
NO_KERNEL = 77
# Vectors of 64 bytes and of 32, without VNNI too, and what the CPU must have.
TARGETS = {"native": "avx2", "skylake-avx512": "avx512dq", "x86-64-v3": "avx2"}


@pytest.mark.parametrize("target", TARGETS)
def test_products_equal_float64_and_do_not_depend_on_the_batch(tmp_path: Path, target: str):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    if TARGETS[target] not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this CPU has no {TARGETS[target]}")
    program = tmp_path / "check"
    sources = [
        HERE / "products_check.cpp",
        *sorted((CSRC / "kernels" / "products" / "cpu").glob("*.cpp")),
    ]
    subprocess.run(
        [compiler, "-std=c++17", "-O2", f"-march={target}", "-w", "-I", CSRC, *sources, "-o", program], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True)
    if done.returncode == NO_KERNEL:
        pytest.skip("built without AVX2: llama.cpp's own kernels are used")
    assert done.returncode == 0, done.stdout[-200:]
    cases = [line.split() for line in done.stdout.splitlines()]
    # Types of 32 and of 256 values, repacked and not.
    assert len(cases) == 2 * 5 * 3 + 1 * 3 * 3 + (5 + 3) * 5 * 4 + 4 * 3 * 4 + 15 * 9
    for *case, error, scale in cases:
        assert float(error) <= 4e-6 * float(scale), case


@pytest.mark.parametrize("kernel", ["q6_K", "q5_0", "q5_K"])
def test_weights_are_prefetched(kernel: str):
    """GCC took a function that only prefetches for one without effects and dropped its calls: four rows of Q8_0 took
    a third longer."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no avx2")
    source = CSRC / "kernels" / "products" / "cpu" / f"{kernel}.cpp"
    command = [compiler, "-std=c++17", "-O2", "-march=x86-64-v3", "-w", "-I", CSRC, "-S", source, "-o", "-"]
    assert "prefetch" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def row_check(folder: Path, target: str, operation: str) -> list[str]:
    """What the check of an operation of kernels/rows prints, built for this target."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    if TARGETS[target] not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this CPU has no {TARGETS[target]}")
    program = folder / "check"
    sources = [HERE / f"{operation}_check.cpp", CSRC / "kernels" / "rows" / "cpu" / f"{operation}.cpp"]
    subprocess.run(
        [compiler, "-std=c++17", "-O2", f"-march={target}", "-w", "-I", CSRC, *sources, "-o", program], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True)
    if done.returncode == NO_KERNEL:
        pytest.skip("built without AVX2: llama.cpp's own kernels are used")
    return done.stdout.split()


@pytest.mark.parametrize("target", TARGETS)
def test_tanh_equals_float64_at_every_magnitude(tmp_path: Path, target: str):
    error, specials, same = row_check(tmp_path, target, "tanh")
    assert float(error) <= 2e-7
    assert (specials, same) == ("1", "1")


@pytest.mark.parametrize("target", TARGETS)
def test_gated_gelu_has_the_bits_of_ggml(tmp_path: Path, target: str):
    assert row_check(tmp_path, target, "gelu") == ["1", "1"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_target(tmp_path_factory.mktemp("q4_0") / "target.gguf", KINDS["dense"], weights="q4_0")


def test_logits_do_not_depend_on_the_batch(target: Path):
    """With one-token and (k + 1)-token products equal bit for bit, greedy text cannot change by rounding in them. An
    f32 cache without flash attention leaves no other difference in a short context."""
    ids = np.random.default_rng(0).integers(264, 512, 27).tolist()
    with Model(target, n_ctx=256, n_threads=1, cache_type_k="f32", cache_type_v="f32", flash_attention=False) as model:
        expected = model.logits(ids, n_batch=1)
        for n_batch in (2, 3, 4, 9):
            assert np.abs(model.logits(ids, n_batch=n_batch) - expected).max() <= 1e-4 * expected.std()


ONE_TOKEN = """
import sys
import numpy as np
from pyllama_mtp import Model
with Model(sys.argv[1], n_ctx=256, n_threads=1) as model:
    np.save(sys.argv[2], model.logits([300]))
"""


@pytest.mark.parametrize("kind, weights", [("dense", "q4_0"), ("moe", "q4_0"), ("moe", "q8_0")])
def test_the_kernels_are_used_and_agree_with_those_of_llama_cpp(tmp_path: Path, monkeypatch, kind: str, weights: str):
    target = write_target(tmp_path / "target.gguf", KINDS[kind], weights=weights)
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX2: llama.cpp's own kernels are used")
    logits = {}
    for switch in ("0", "1"):
        monkeypatch.setenv("PYLLAMA_MTP_PRODUCTS", switch)
        file = tmp_path / f"{switch}.npy"
        subprocess.run([sys.executable, "-c", ONE_TOKEN, target, file], check=True, cwd=tmp_path)
        logits[switch] = np.load(file)
    difference = np.abs(logits["0"] - logits["1"]).max()
    assert 0 < difference < 1e-3 * logits["0"].std()
