"""A row's bits do not depend on its batch: logits, whole texts with drafting on and off, and what Model.info says."""

from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from pyllama_mtp.gguf.random_weights import write_target
from support.drafted_texts import CACHE_TYPES, SOURCES, cases, differing
from support.tiny_pairs import write_tiny_pair

VERIFIED = (2, 4, 9, 10, 17)  # rows: k + 1 for k up to 16
PAIRS = [*((name, name) for name in CACHE_TYPES), ("q8_0", "turbo4"), ("turbo3", "f16"), ("f32", "bf16")]
# Rows long enough for the blocks of 256 values of K-quants.
SHAPE = Gemma4Shape(
    n_layer=4,
    full_every=2,
    n_embd=256,
    n_head=4,
    n_head_kv=1,
    n_head_kv_full=1,
    n_ff=512,
    n_ple=256,
    n_shared=2,
    window=64,
    head_size=64,
    head_size_full=128,
    n_vocab=512,
    context_length=1024,
    n_centroids=16,
    centroid_top_k=4,
    assistant_n_embd=64,
    assistant_n_ff=32,
    assistant_n_head=2,
)
needs_kernels = pytest.mark.skipif(
    "avx2" not in Path("/proc/cpuinfo").read_text(), reason="this CPU has no AVX2: llama.cpp's own kernels are used"
)


@needs_kernels
@pytest.mark.parametrize("k, v", PAIRS)
def test_logits_do_not_depend_on_batch_and_threads(demo, k: str, v: str):
    """llama.cpp splits the attention of a single row over an f16 cache past 512 cells among threads, that of several
    rows not: 8 of 24 texts differed with drafting on and off.
    """
    options = {"n_ctx": 512, "cache_type_k": k, "cache_type_v": v}
    with Model(demo.target, n_threads=1, **options) as one, Model(demo.target, n_threads=2, **options) as two:
        assert one.info.batch_invariant and one.info.batch_dependence == ""
        ids = one.tokenize(SOURCES[0])[:330]
        single = one.logits(ids, n_batch=1)
        for model, n_batch in ((one, 4), (two, 9), (two, 17), (two, 1)):
            assert np.array_equal(model.logits(ids, n_batch=n_batch), single), n_batch


@needs_kernels
@pytest.mark.parametrize("weights", ["q8_0", "q6_k", "q4_k", "q4_0"])
def test_logits_of_every_weight_type_served_do_not_depend_on_the_batch(tmp_path: Path, weights: str):
    with Model(write_target(tmp_path / "target.gguf", SHAPE, weights=weights), n_ctx=256, n_threads=2) as model:
        assert model.info.batch_invariant
        ids = [2, *np.random.default_rng(0).integers(264, SHAPE.n_vocab, 119).tolist()]
        single = model.logits(ids, n_batch=1)
        for n_batch in VERIFIED:
            assert np.array_equal(model.logits(ids, n_batch=n_batch), single), n_batch


@pytest.mark.parametrize("weights", ["f16", "f32"])
def test_info_names_weight_types_that_are_not_served(tmp_path: Path, weights: str):
    with Model(write_target(tmp_path / "target.gguf", SHAPE, weights=weights), n_ctx=256, n_threads=1) as model:
        assert not model.info.batch_invariant
        assert model.info.batch_dependence.endswith(f" matrices of type {weights}")


def test_info_names_experts_and_attention_without_the_kernel(tmp_path: Path, demo):
    with Model(write_tiny_pair("moe", tmp_path).target, n_ctx=256, n_threads=1) as model:
        assert not model.info.batch_invariant
        assert model.info.batch_dependence.startswith("experts")
    with Model(demo.target, n_ctx=256, n_threads=1, flash_attention=False) as model:
        assert not model.info.batch_invariant
        assert model.info.batch_dependence.endswith("flash attention is off")


@needs_kernels
def test_40_texts_are_the_same_with_drafting_on_and_off(demo):
    """Every cache type, greedy and seeded, by default options; all 480: support/drafted_texts.py."""
    chosen = list(cases())[1::12]
    assert {case.cache_type for case in chosen} == set(CACHE_TYPES) and len(chosen) == 40
    assert {case.drafts for case in chosen} >= {1, 3, 5, 7, "auto"} and {c.n_threads for c in chosen} == {1, 2, 3, 4}
    assert differing(demo.target, demo.head, chosen) == []


@needs_kernels
@pytest.mark.parametrize("seed, k", [(2, 3), (2, 8), (11, 3)])
def test_texts_longer_than_the_ring_of_a_sliding_window_are_the_same(demo, seed: int, k: int):
    """Drafts rejected across the ring's end left a gap there, so later rows lay in other cells than without drafting:
    these texts differed after 1138 and 1412 tokens.
    """
    texts = []
    for drafts in (0, k):
        with Model(demo.target, mtp_head=demo.head, n_ctx=2048, n_threads=1, n_batch=32) as model:
            stream = model.generate(
                f"def f{seed}(x):\n",
                max_tokens=1500,
                temperature=0.8,
                seed=seed,
                num_speculative_tokens=drafts,
                ignore_eos=True,
            )
            stream.text()
            texts.append(stream.token_ids)
    assert texts[0] == texts[1]
