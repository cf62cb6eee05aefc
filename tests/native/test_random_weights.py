"""Pairs with random weights load here and in unmodified llama.cpp, and compute something."""

import math
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.format import read_header
from pyllama_mtp.gguf.gemma4 import SHAPES
from pyllama_mtp.gguf.random_weights import WEIGHT_TYPES, write_assistant, write_target
from support.llama_cpp_peer import complete
from support.random_pairs import KINDS, N_VOCAB

# As published, rounded; without the table of per-layer embeddings.
PARAMETERS = {"e2b": 2.3e9, "e4b": 4.5e9, "12b": 12e9, "26b-a4b": 25.2e9, "31b": 30.7e9}


@pytest.mark.parametrize("weights", WEIGHT_TYPES)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_random_pair_runs_here_and_in_llama_cpp(kind: str, weights: str, tmp_path: Path):
    target = write_target(tmp_path / "target.gguf", KINDS[kind], weights=weights)
    head = write_assistant(tmp_path / "head.gguf", KINDS[kind], weights=weights)
    prompt = [2, *range(300, 320)]
    with Model(target, mtp_head=head, n_ctx=128, n_threads=1) as model:
        assert model.info.head_n_centroids == KINDS[kind].n_centroids
        logits = model.logits(prompt)
        assert np.isfinite(logits).all()
        assert 1 < logits.std() < 6
        assert abs(logits.mean()) < 0.5
        assert len(set(logits.argmax(axis=1))) > len(prompt) / 2
        stream = model.generate(prompt, max_tokens=8, temperature=0, num_speculative_tokens=3, ignore_eos=True)
        stream.text()
        assert stream.stats.drafted > 0
        assert model.detokenize(model.tokenize("two words, and caf\u00e9\n")) == "two words, and caf\u00e9\n"
    peer = complete(target, head, [prompt], max_tokens=8, n_ctx=128)
    assert peer[0].drafted > 0
    # Nearly one-hot attention amplifies what the peer rounds to f16 there, so later tokens may be others; the first may
    # at a near tie.
    assert logits[-1].max() - logits[-1][peer[0].token_ids[0]] < 0.05 * logits[-1].std()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path):
    write_target(tmp_path / "a", KINDS["moe"], seed=4)
    write_target(tmp_path / "b", KINDS["moe"], seed=4)
    write_target(tmp_path / "c", KINDS["moe"], seed=5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_the_files_have_the_declared_vocabulary(tmp_path: Path):
    header = read_header(write_assistant(tmp_path / "head.gguf", KINDS["e2b"]))
    assert len(header.metadata["tokenizer.ggml.tokens"]) == N_VOCAB
    ordering = header.metadata["gemma4-assistant.masked_embedding.token_ordering"]
    assert sorted(ordering) == list(range(N_VOCAB))


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_released_shapes_have_the_published_number_of_parameters(name: str):
    tensors = [tensor for tensor in SHAPES[name].tensors() if tensor.name != "per_layer_token_embd.weight"]
    n = sum(math.prod(tensor.shape) for tensor in tensors)
    assert n == pytest.approx(PARAMETERS[name], rel=0.04)
