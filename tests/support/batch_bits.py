"""Random targets whose rows must have the same bits in every batch."""

import dataclasses

import numpy as np

from pyllama_mtp.gguf.random_weights import WEIGHT_TYPES
from support.drafted_texts import SHAPE

EXPERTS = dataclasses.replace(
    SHAPE, n_ple=0, n_shared=0, v_is_k=True, n_centroids=0, n_expert=8, n_expert_used=3, n_ff_expert=256
)
OF_FLOATS = ("f32", "f16", "bf16")  # whose experts are llama.cpp's
SERVED = [weights for weights in WEIGHT_TYPES if weights != "q3_k"]  # whose products are llama.cpp's
# Rows that are no whole number of 64 or 128 values, which the kernels on tensor cores take at a time.
ODD = dataclasses.replace(SHAPE, n_embd=288, n_ff=352, n_ple=32)
# Wide enough for the largest blocks of a prompt's products.
WIDE = dataclasses.replace(SHAPE, n_ff=2560)


def tokens(shape, n: int = 96) -> list[int]:
    return [2, *np.random.default_rng(0).integers(264, shape.n_vocab, n - 1).tolist()]
