"""On a CUDA device a row's bits do not depend on its batch, up to as many rows as attention of ours takes: whole logits
of small random targets, for every type of weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.mixtures import MIXTURES
from pyllama_mtp.gguf.random_weights import WEIGHT_TYPES, write_target
from support.drafted_texts import SHAPE

VERIFIED = (2, 4, 8, 9, 16)  # rows
EXPERTS = dataclasses.replace(
    SHAPE, n_ple=0, n_shared=0, v_is_k=True, n_centroids=0, n_expert=8, n_expert_used=3, n_ff_expert=256
)
OF_FLOATS = ("f32", "f16", "bf16")  # whose experts are llama.cpp's
SERVED = [weights for weights in WEIGHT_TYPES if weights != "q3_k"]  # whose products are llama.cpp's
CASES = [
    *((weights, SHAPE) for weights in (*SERVED, *MIXTURES)),
    *((weights, EXPERTS) for weights in SERVED if weights not in OF_FLOATS),
]


@pytest.mark.parametrize("weights, shape", CASES, ids=[f"{w}{'-experts' * (s is EXPERTS)}" for w, s in CASES])
def test_logits_of_every_weight_type_do_not_depend_on_the_batch(device, tmp_path: Path, weights: str, shape):
    """F16 and BF16 had kernels of ours for up to 8 rows only, Q4_1 and Q5_1 had none."""
    target = write_target(tmp_path / "target.gguf", shape, weights=weights)
    with Model(target, n_ctx=256, n_threads=2) as model:
        ids = [2, *np.random.default_rng(0).integers(264, shape.n_vocab, 95).tolist()]
        single = model.logits(ids, n_batch=1)
        different = {n for n in VERIFIED if not np.array_equal(model.logits(ids, n_batch=n), single)}
        assert not different, different
