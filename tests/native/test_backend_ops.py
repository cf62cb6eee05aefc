"""Every operation that patches touch, against the reference that ggml has of it, by the pinned source's own test.

test-backend-ops compares a backend with the CPU's under `use_ref`, where ggml takes its plain loops and no hook of this
project runs, so on the CPU too the two sides differ. tests/native/backend_ops/weights.cpp puts weights where a loaded
model has them. docs/development.md has the command for all cases.
"""

import os
from pathlib import Path

import pytest

from support.backend_ops import build_program, run_program

TYPES = "(f32|f16|bf16|q8_0|q4_0|q4_K|q6_K)"
PRODUCTS = "(f16|q4_0|q4_1|q5_1|q8_0|q4_K|q6_K)"
# Operations, a choice of their cases, and how many there are at least.
CASES = {
    "products": ("MUL_MAT", f"type_a={PRODUCTS},type_b=f32,m=16,n=[1-9],k=256,bs=.1,1.,nr=.1,1.", 50),
    "experts": ("MUL_MAT_ID", f"type_a={TYPES},type_b=f32,n_mats=(4|8),n_used=[12],b=0,m=512,n=[1-9],", 10),
    "attention": ("FLASH_ATTN_EXT", "hsk=(64|256|512),.*nh=4,nr23=.1,1.,kv=.*,nb=[13],.*type_K=(f16|q8_0)", 40),
    "writing rows": ("SET_ROWS", f"type_src=f32,type_dst={TYPES},", 50),
    "copies": ("CPY", f"type_src={TYPES},type_dst={TYPES},ne_src=.256,[24],[34],4.", 30),
    "reading rows": ("GET_ROWS", f"type={TYPES},n=256,m=5,", 20),
    "rotation": ("ROPE", "ne_a=.128,.*v=0", 20),
    "norms": ("RMS_NORM,NORM", ".", 50),
    "activations": ("TANH,GELU,SILU", ".", 20),
}


@pytest.fixture(scope="module")
def program(patched_build: Path) -> Path:
    return build_program(patched_build)


@pytest.mark.parametrize("case", CASES)
def test_operations_are_those_of_the_reference(program: Path, case: str):
    operations, parameters, at_least = CASES[case]
    assert run_program(program, "CPU", operations, parameters, os.cpu_count() or 1) >= at_least
