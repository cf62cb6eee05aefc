"""Encoding and decoding of ggml's types: the gguf package against llama.cpp and against our reader's table."""

import ctypes
import importlib.util
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest

from pyllama_mtp.convert.assistant import PLAIN_OUTTYPES
from pyllama_mtp.convert.quants import DECODED_TYPES, VALUES_AT_ONCE, decode, decode_parts, encode, ggml_type
from pyllama_mtp.gguf.format import TENSOR_TYPES

HALVES = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "q4_1": (0, 2)}
HALVES |= {"q5_1": (0, 2), "tq1_0": (52,), "tq2_0": (64,)}  # where a block keeps its f16 numbers; of the others: first


def test_both_packages_know_the_same_blocks():
    for name in DECODED_TYPES:
        number, values, size = TENSOR_TYPES[name]
        assert ggml_type(name) == number and gguf.GGML_QUANT_SIZES[ggml_type(name)] == (values, size)


@pytest.mark.parametrize("type_name", PLAIN_OUTTYPES)
def test_decoding_gives_back_what_was_encoded(type_name: str):
    values = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    data = np.ascontiguousarray(encode(values, type_name)).view(np.uint8).ravel()
    error = np.abs(decode(data, type_name).reshape(8, 64) - values)
    step = np.abs(values).reshape(8, 2, 32).max(axis=2).repeat(32, axis=1)  # each block's largest value
    assert (error <= step * {"f32": 0, "f16": 1e-3, "bf16": 4e-3, "q8_0": 0.5 / 126, "q4_0": 1.01 / 8}[type_name]).all()


@pytest.mark.parametrize("type_name", [name for name in DECODED_TYPES if "_" in name])
def test_decoding_equals_llama_cpps(type_name: str):
    """Of random bytes, with f16 numbers in their places."""
    folder = Path(importlib.util.find_spec("xllamacpp").origin).parent
    library = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    function = getattr(library, f"dequantize_row_{type_name.replace('_k', '_K')}")
    _, per_block, size = TENSOR_TYPES[type_name]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (50, size), np.uint8)
    for at in HALVES.get(type_name, (0,)):
        blocks[:, at : at + 2] = random.standard_normal((50, 1)).astype("<f2").view(np.uint8)
    expected = np.zeros(50 * per_block, np.float32)
    pointer = ctypes.c_void_p
    function(pointer(blocks.ctypes.data), pointer(expected.ctypes.data), ctypes.c_int64(expected.size))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(decode(blocks.ravel(), type_name), expected, rtol=1e-5, atol=1e-4)


def test_bf16_is_rounded_as_ml_dtypes_does():
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.abs(values) < 3.3e38]
    assert np.array_equal(encode(values, "bf16"), values.astype(ml_dtypes.bfloat16).view(np.uint8))
    assert np.array_equal(decode(encode(values, "bf16"), "bf16"), values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.filterwarnings("error")  # numpy prints them beside the command's lines
@pytest.mark.parametrize("type_name", ["q8_0", "q4_0"])
@pytest.mark.parametrize("magnitude", [1e-8, 1e-36, 1e-38, 1e-41])
def test_blocks_whose_scale_is_nothing_become_zeros(type_name: str, magnitude: float):
    """1 / scale was infinite, and codes were casts of infinity."""
    values = np.random.default_rng(0).standard_normal(256).astype(np.float32) * np.float32(magnitude)
    assert np.abs(decode(encode(values, type_name), type_name)).max() <= 6e-8 * 127


@pytest.mark.parametrize("type_name", ["f16", "q4_0", "q6_k", "q3_k"])
def test_parts_make_the_whole(type_name: str):
    _, values, size = TENSOR_TYPES[type_name]
    data = np.random.default_rng(0).integers(0, 60, (VALUES_AT_ONCE + 512) // values * size).astype(np.uint8)
    parts = [*decode_parts(data, type_name)]
    assert [len(part) for part in parts] == [VALUES_AT_ONCE, 512]
    assert np.array_equal(np.concatenate(parts), decode(data, type_name), equal_nan=True)
