"""On a CUDA device a row's bits do not depend on its batch, with up to 32 rows: whole logits of small random
targets, for every type of weights, and of the embedded one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.mixtures import MIXTURES
from pyllama_mtp.gguf.random_weights import write_target
from support.batch_bits import EXPERTS, ODD, OF_FLOATS, SERVED, tokens
from support.drafted_texts import SHAPE

VERIFIED = (2, 3, 4, 5, 6, 8, 9, 12, 16, 17, 32)  # rows
CASES = [
    *((weights, SHAPE) for weights in (*SERVED, *MIXTURES)),
    *((weights, EXPERTS) for weights in SERVED if weights not in OF_FLOATS),
]


def differing(model: Model, ids: Sequence[int], batches: Sequence[int] = VERIFIED) -> dict[int, str]:
    """The sizes of batches whose logits are not those of single rows, and how they differ."""
    first = model.logits(ids, n_batch=1)
    assert np.isfinite(first).all()
    different = {}
    for n in batches:
        error = np.abs(model.logits(ids, n_batch=n) - first)
        if error.any():
            different[n] = f"{np.count_nonzero(error.any(axis=1))} rows, by {error.max():.2g}"
    return different


@pytest.mark.parametrize("weights, shape", CASES, ids=[f"{w}{'-experts' * (s is EXPERTS)}" for w, s in CASES])
def test_logits_of_every_weight_type_do_not_depend_on_the_batch(device, tmp_path: Path, weights: str, shape):
    """F16 and BF16 had kernels of ours for up to 8 rows only, Q4_1 and Q5_1 had none. A single row's embeddings of
    layers had another kernel's norm. Experts had the sums of their activations from another kernel from 9 tokens on."""
    target = write_target(tmp_path / "target.gguf", shape, weights=weights)
    with Model(target, n_ctx=256, n_threads=2) as model:
        assert not differing(model, tokens(shape))


@pytest.mark.parametrize("weights", ["q8_0", "q4_0", "q5_1", "iq4_nl", "f16", "bf16"])
def test_odd_rows_do_not_depend_on_the_batch(device, tmp_path: Path, weights: str):
    """Products whose rows are no whole number of 64 values were llama.cpp's."""
    target = write_target(tmp_path / "target.gguf", ODD, weights=weights)
    with Model(target, n_ctx=256, n_threads=2) as model:
        assert not differing(model, tokens(ODD))


@pytest.mark.parametrize("n_batch", [32, 48, 512])
@pytest.mark.parametrize("weights, shape", [("f16", SHAPE), ("q4_0", SHAPE), ("q8_0", EXPERTS)])
def test_memory_of_larger_batches_does_not_change_the_bits(device, tmp_path: Path, weights: str, shape, n_batch: int):
    """What lies where in a graph's memory depends on the largest batch, and which chains of operations became one
    kernel on whether what they read and write overlaps, with so many rows."""
    target = write_target(tmp_path / "target.gguf", shape, weights=weights)
    with Model(target, n_ctx=256, n_threads=2, n_batch=n_batch) as model:
        assert not differing(model, tokens(shape), (2, 3, 5, 6, 7, 9, 13, 16))


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8_0", "q4_0", "turbo4", "turbo3", "turbo2"])
def test_logits_of_the_embedded_pair_do_not_depend_on_the_batch(demo, device, cache_type: str):
    """The product of its embeddings of layers, rows of 32 values, was llama.cpp's: with 9 rows another one."""
    options = {"cache_type_k": cache_type, "cache_type_v": cache_type}
    with Model(demo.target, n_ctx=512, n_threads=2, **options) as model:
        ids = [2, *np.random.default_rng(0).integers(300, 2000, 199).tolist()]
        assert not differing(model, ids)


def test_rows_behind_many_cells_do_not_depend_on_the_batch(device, tmp_path: Path):
    """Of an f16 cache with more than 8192 cells llama.cpp's attention had more than 32 columns: rows times heads."""
    shape = dataclasses.replace(SHAPE, context_length=16384)
    target = write_target(tmp_path / "target.gguf", shape, weights="q8_0")
    with Model(target, n_ctx=9216, n_threads=2) as model:
        ids = tokens(shape, 8300)
        few = model.logits(ids, n_batch=8)
        assert np.array_equal(model.logits(ids, n_batch=16), few)
        assert np.array_equal(model.logits(ids, n_batch=32), few)


@pytest.mark.parametrize("cache_types", [("f16", "f16"), ("turbo4", "turbo3")])
def test_rows_behind_many_cells_do_not_depend_on_where_their_pages_lie(device, tmp_path: Path, cache_types):
    """Behind 8192 cells several pages were a chunk as they lay in the cache, whosever they were."""
    shape = dataclasses.replace(SHAPE, context_length=16384)
    target = write_target(tmp_path / "target.gguf", shape, weights="q8_0")
    k, v = cache_types
    ids = tokens(shape, 9000)
    with Model(target, n_ctx=16384, max_num_seqs=2, n_threads=2, cache_type_k=k, cache_type_v=v) as model:
        alone = model.logits(ids)
        # Two texts side by side, whose pages alternate.
        prompts = [tokens(shape, 3000)[::-1], tokens(shape, 2500)[1:]]
        assert not any(c.error for c in model.generate_all(prompts, max_tokens=200, ignore_eos=True))
        assert np.array_equal(model.logits(ids), alone)
        few = model.logits(ids[:8500], n_batch=3)
        assert np.array_equal(few, alone[:8500])
