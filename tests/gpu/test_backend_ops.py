"""Every case that the pinned source's test-backend-ops has of the operations that patches touch.

Without a graph's own node a product has no sources: a hook that read them ended the process at the first mixture of
experts in f16.
"""

import os
from pathlib import Path

import pytest

from support.backend_ops import build_program, run_program

OPERATIONS = [
    "MUL_MAT,MUL_MAT_ID,MUL_MAT_ID_FUSION,MUL_MAT_VEC_FUSION",
    "FLASH_ATTN_EXT",
    "SET_ROWS,GET_ROWS,CPY,CONT,DUP",
    "ROPE,RMS_NORM,NORM,RMS_NORM_MUL_ADD,RMS_NORM_MUL_ROPE,ARGMAX,TOP_K",
    "TANH,GELU,GELU_QUICK,GELU_ERF,SILU,GEGLU,SWIGLU,ADD,MUL",
]
WORKERS = 8


@pytest.fixture(scope="module")
def program(device) -> Path:
    if not (build := os.environ.get("PMTP_BUILD")):
        pytest.skip("needs PMTP_BUILD, a build folder of this tree with GGML_CUDA=ON")
    return build_program(Path(build))


@pytest.mark.parametrize("operations", OPERATIONS)
def test_operations_are_those_of_the_reference(program: Path, device: str, operations: str):
    assert run_program(program, device, operations, workers=WORKERS) >= 100
