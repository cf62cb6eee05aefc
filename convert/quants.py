"""Weights in ggml's types, through the gguf package: float32 -> bytes, and back. The reader of that package is never
used, see pyllama_mtp.gguf.format.
"""

from collections.abc import Iterator

import numpy as np
from gguf import GGMLQuantizationType
from gguf import quants as gguf_quants

from pyllama_mtp.gguf.format import TENSOR_TYPES

VALUES_AT_ONCE = 1 << 20  # whole blocks of every type
_NO_SCALE = 1e-36  # below it a block's scale, which is 0 in f16, has no finite inverse in f32 to count codes with

# What gguf decodes as llama.cpp does. Of its others, iq1_m, mxfp4 and nvfp4, no head was seen.
DECODED_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k"),
    *("iq4_xs", "iq4_nl", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_s", "tq2_0", "tq1_0"),
)


def ggml_type(type_name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[type_name.upper()]


def encode(x: np.ndarray, type_name: str) -> np.ndarray:
    """float32 of any shape, in whole blocks -> uint8 [n]; f32, f16, bf16, q8_0 or q4_0."""
    x = np.ascontiguousarray(x, np.float32).ravel()
    if TENSOR_TYPES[type_name][1] > 1:
        x = np.where(np.abs(x) < _NO_SCALE, np.float32(0), x)
    return np.ascontiguousarray(gguf_quants.quantize(x, ggml_type(type_name))).view(np.uint8)


@np.errstate(all="ignore")  # of damaged data: whoever needs finite values looks for them
def decode(data: np.ndarray, type_name: str) -> np.ndarray:
    """uint8 [n] of one of DECODED_TYPES -> float32 [n]."""
    return gguf_quants.dequantize(data, ggml_type(type_name))


def decode_parts(data: np.ndarray, type_name: str) -> Iterator[np.ndarray]:
    """decode(), VALUES_AT_ONCE at a time."""
    _, values, size = TENSOR_TYPES[type_name]
    step = VALUES_AT_ONCE // values * size
    for begin in range(0, len(data), step):
        yield decode(data[begin : begin + step], type_name)
