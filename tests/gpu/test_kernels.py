"""The project's CUDA kernels against plain loops, also under compute-sanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = CSRC / "kernels"
CHOICE = KERNELS / "choice" / "cuda"
TURBOQUANT = CSRC / "turboquant"
EXACT = ["-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-Xcompiler=-ffp-contract=off"]
ATTENTION = KERNELS / "attention" / "cuda"
PRODUCTS = [
    KERNELS / "products" / "cuda" / f"{name}.cu"
    for name in (
        "expert_products",
        "few_products",
        "odd_products",
        "prompt_experts",
        "prompt_floats",
        "prompt_products",
    )
    + ("tiled_products",)
]
PROGRAMS = {
    "attention_check": [ATTENTION / f"{name}.cu" for name in ("attend_64", "attend_128", "attend_256", "attend_512")]
    + [
        ATTENTION / "merge.cu",
        ATTENTION / "merge_rows.cu",
        ATTENTION.parent / "device_table.cpp",
        KERNELS / "rows" / "cuda" / "row_ops.cu",
        TURBOQUANT / "reference.c",
    ],
    "select_check": [CHOICE / "select.cu"],
    "choice_check": [CHOICE / "candidates.cu", CHOICE / "draw.cu"]
    + [CSRC / "sampling" / f"{name}.cpp" for name in ("candidates", "distribution", "logits")],
    "experts_check": [KERNELS / "products" / "cuda" / f"{name}.cu" for name in ("expert_products", "prompt_experts")],
    "float_products_check": [KERNELS / "products" / "cuda" / "float_products.cu"],
    "products_check": PRODUCTS,
    "joined_products_check": [*PRODUCTS, KERNELS / "rows" / "cuda" / "row_ops.cu"],
    "small_copies_check": [KERNELS / "cuda" / "small_copies.cu"],
    "heads_check": [KERNELS / "rows" / "cuda" / "heads.cu", TURBOQUANT / "reference.c", *EXACT],
    "row_ops_check": [KERNELS / "rows" / "cuda" / "row_ops.cu"],
    "turboquant_check": [TURBOQUANT / "cuda" / f"{name}.cu" for name in ("encode", "decode", "rotate")]
    + [TURBOQUANT / "reference.c", *EXACT],
}


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request, device, tmp_path_factory) -> Path:
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc to build the check")
    out = tmp_path_factory.mktemp("kernels") / request.param
    # as ggml-cuda is compiled
    command = ["nvcc", "-std=c++17", "-O3", "-arch=native", "-use_fast_math", "-t0", f"-I{CSRC}"]
    subprocess.run([*command, *PROGRAMS[request.param], HERE / f"{request.param}.cu", "-o", out], check=True)
    return out


def test_kernels_do_what_plain_loops_do(program):
    result = subprocess.run([program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "ok\n")


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_kernels_are_clean_under_compute_sanitizer(program, tool):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("needs compute-sanitizer")
    command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", program, "small"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
