"""A row's bits do not depend on its batch: logits, whole texts with drafting on and off, and what Model.info says."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.mixtures import MIXTURES
from pyllama_mtp.gguf.random_weights import write_assistant, write_target
from support.drafted_texts import CACHE_TYPES, EMBEDDED, RANDOM_WEIGHTS, SHAPE, SOURCES, cases, differing, pair

VERIFIED = (2, 4, 9, 10, 17, 18, 32)  # rows
CHUNKS = (32, 33, 64, 100, 128, 512)  # rows of a prompt at once
WEIGHTS = (
    *("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_k"),
    *("f16", "bf16", "f32", *MIXTURES),
)
CHUNKED = ("q8_0", "q6_k", "q4_k", "q4_0", "iq4_xs", "f16", "f32")
PAIRS = [*((name, name) for name in CACHE_TYPES), ("q8_0", "turbo4"), ("turbo3", "f16"), ("f32", "bf16")]
EXPERTS = dataclasses.replace(
    SHAPE, n_ple=0, n_shared=0, v_is_k=True, n_centroids=0, n_expert=8, n_expert_used=3, n_ff_expert=256
)
SHAPES = {"dense": SHAPE, "experts": EXPERTS}
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
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_logits_of_every_weight_type_served_do_not_depend_on_the_batch(tmp_path: Path, weights: str, shape: str):
    target = write_target(tmp_path / "target.gguf", SHAPES[shape], weights=weights)
    with Model(target, n_ctx=256, n_threads=2) as model:
        assert model.info.batch_invariant
        ids = [2, *np.random.default_rng(0).integers(264, SHAPE.n_vocab, 119).tolist()]
        single = model.logits(ids, n_batch=1)
        for n_batch in VERIFIED:
            assert np.array_equal(model.logits(ids, n_batch=n_batch), single), n_batch


@dataclass(frozen=True, slots=True)
class Completion:
    tokens: list[int]
    logprobs: list[list[tuple[int, float]]]
    reused: int


def complete(model: Model, ids: list[int], **options) -> Completion:
    stream = model.generate(ids, max_tokens=12, ignore_eos=True, logprobs=5, **options)
    rows = [[(entry.token_id, entry.logprob) for entry in row] for chunk in stream for row in chunk.logprobs]
    return Completion(stream.token_ids, rows, stream.stats.cached_prompt_tokens)


@needs_kernels
@pytest.mark.parametrize("weights", CHUNKED)
def test_what_follows_a_prompt_does_not_depend_on_the_chunks_it_is_evaluated_in(tmp_path: Path, weights: str):
    """From 18 rows on llama.cpp's products used to run, with other bits. Prompts of several lengths, odd numbers of
    threads, warm prefixes that leave any number of rows to evaluate. The window covers the context: else the size of
    the ring, and with it the cell of a position, would depend on n_batch.
    """
    target = write_target(tmp_path / "target.gguf", dataclasses.replace(SHAPE, window=512), weights=weights)
    all_ids = [2, *np.random.default_rng(0).integers(264, SHAPE.n_vocab, 399).tolist()]
    expected: dict[int, Completion] = {}
    for n_batch, n_threads in zip(CHUNKS, (2, 1, 3, 2, 1, 2), strict=True):
        with Model(target, n_ctx=512, n_batch=n_batch, n_threads=n_threads) as model:
            assert model.info.batch_invariant
            for n, n_kept in ((400, 0), (30, 30), (211, 30), (400, 211), (97, 97), (130, 97)):
                found = complete(model, all_ids[:n], temperature=1.0, seed=n)
                assert found.reused <= n_kept
                first = expected.setdefault(n, found)
                assert (found.tokens, found.logprobs) == (first.tokens, first.logprobs), (n_batch, n, found.reused)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_texts_of_every_weight_type_served_are_the_same_with_drafting_on_and_off(
    tmp_path: Path, weights: str, shape: str
):
    target = write_target(tmp_path / "target.gguf", SHAPES[shape], weights=weights)
    head = write_assistant(tmp_path / "head.gguf", SHAPES[shape], weights=weights)
    texts = []
    with Model(target, mtp_head=head, n_ctx=256, n_threads=2) as model:
        for drafts in (0, 3, 8):
            for options in ({"temperature": 0.0}, {"temperature": 0.7, "seed": 3}):
                stream = model.generate([2, 300], max_tokens=40, num_speculative_tokens=drafts, **options)
                stream.text()
                texts.append(stream.token_ids)
    assert texts == 3 * texts[:2]


def test_info_names_weights_that_are_not_served(tmp_path: Path):
    """The head of 500 rows is no multiple of 8, so ggml does not repack it."""
    target = write_target(tmp_path / "target.gguf", dataclasses.replace(SHAPE, n_vocab=500), weights="q4_0")
    with Model(target, n_ctx=256, n_threads=1) as model:
        assert not model.info.batch_invariant
        assert model.info.batch_dependence.endswith("1 matrices of type q4_0")


def test_info_names_experts_that_are_not_served(tmp_path: Path):
    """Rows of 36 values, which are f16 then: no whole number of records."""
    shape = dataclasses.replace(EXPERTS, n_ff_expert=36)
    with Model(write_target(tmp_path / "target.gguf", shape, weights="q4_0"), n_ctx=256, n_threads=1) as model:
        assert not model.info.batch_invariant
        assert model.info.batch_dependence.endswith("matrices of type f16")


def test_info_names_attention_without_the_kernel(demo):
    with Model(demo.target, n_ctx=256, n_threads=1, flash_attention=False) as model:
        assert not model.info.batch_invariant
        assert model.info.batch_dependence.endswith("flash attention is off")


@needs_kernels
def test_40_texts_are_the_same_with_drafting_on_and_off(tmp_path: Path):
    """Every cache type, greedy and seeded, by default options; all of them: support/drafted_texts.py."""
    chosen = list(cases())[1::12]
    assert {case.cache_type for case in chosen} == set(CACHE_TYPES) and len(chosen) == 40
    assert {case.drafts for case in chosen} >= {1, 3, 5, 7, "auto"} and {c.n_threads for c in chosen} == {1, 2, 3, 4}
    assert differing(pair(EMBEDDED, tmp_path), chosen) == []


@needs_kernels
@pytest.mark.parametrize("weights", RANDOM_WEIGHTS)
def test_texts_of_random_pairs_are_the_same_with_drafting_on_and_off(tmp_path: Path, weights: str):
    """Five texts, a cache type each; all of them: support/drafted_texts.py."""
    first = RANDOM_WEIGHTS.index(weights)
    chosen = list(cases(CACHE_TYPES[first::2], threads=(2,)))[2 + first :: 11][:5]
    assert len({case.cache_type for case in chosen}) == len(chosen) == 5
    assert differing(pair(weights, tmp_path), chosen) == []


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
