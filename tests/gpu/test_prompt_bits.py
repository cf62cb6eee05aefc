"""On a CUDA device a row of a prompt has the bits that it has alone, whatever the pieces in which the prompt is
evaluated."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.mixtures import MIXTURES
from pyllama_mtp.gguf.random_weights import write_target
from support.batch_bits import EXPERTS, ODD, OF_FLOATS, SERVED, WIDE, tokens
from support.drafted_texts import SHAPE

CASES = [
    *((weights, SHAPE, "f16") for weights in (*SERVED, *MIXTURES)),
    *((weights, EXPERTS, "f16") for weights in SERVED if weights not in OF_FLOATS),
    *((weights, ODD, "f16") for weights in ("q8_0", "q4_0", "f16", "bf16", "f32")),
    *((weights, WIDE, "f16") for weights in ("f16", "bf16")),
    *(("q4_0", SHAPE, cache) for cache in ("bf16", "q8_0", "q4_0", "turbo4", "turbo3", "turbo2")),
]
PIECES = (32, 64, 100, 512)  # tokens


def name_of(case) -> str:
    weights, shape, cache = case
    kind = {id(EXPERTS): "-experts", id(ODD): "-odd", id(WIDE): "-wide"}.get(id(shape), "")
    return f"{weights}{kind}-{cache}"


def followed(model: Model, ids: list[int]) -> list:
    """What follows the prompt, with the logarithms of its likeliest tokens' probabilities: in all their bits."""
    stream = model.generate(ids, max_tokens=4, temperature=0, num_speculative_tokens=0, ignore_eos=True, logprobs=8)
    return [piece.logprobs for piece in stream]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_prompts_have_the_same_bits_in_pieces_of_any_size(device, tmp_path: Path, case):
    """Above 64 rows products were llama.cpp's, with weights of floats longer than others; above 16 attention was."""
    weights, shape, cache = case
    shape = dataclasses.replace(shape, context_length=1024)
    target = write_target(tmp_path / "target.gguf", shape, weights=weights)
    ids = tokens(shape, 700)
    found = {}
    for n_batch in PIECES:
        options = {"n_ctx": 1024, "n_threads": 2, "cache_type_k": cache, "cache_type_v": cache}
        with Model(target, n_batch=n_batch, **options) as model:
            found[n_batch] = followed(model, ids)
            info = model.info
            if n_batch == PIECES[-1]:  # behind a prefix that is there already
                followed(model, [*ids[:333], *reversed(ids[333:500])])
                assert followed(model, ids) == found[n_batch]
    assert np.isfinite([best.logprob for piece in found[32] for token in piece for best in token]).all()
    assert info.batch_invariant, info.batch_dependence
    assert not [n for n in PIECES if found[n] != found[32]]
