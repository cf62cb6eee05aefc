"""TurboQuant caches at Gemma 4's head sizes, 256 and 512, with keys that are hard to quantise."""

from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from support import statistics
from support.difficult_heads import write_difficult_target

N_TOKENS = 1024
IDS = np.random.default_rng(9).integers(264, 512, N_TOKENS).tolist()
TYPES = [("q4_0", "q4_0"), ("turbo4", "turbo4"), ("turbo4", "turbo3"), ("turbo3", "turbo3")]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_difficult_target(tmp_path_factory.mktemp("difficult") / "target.gguf")


def load(target: Path, k: str, v: str) -> Model:
    return Model(target, n_ctx=N_TOKENS, n_threads=1, cache_type_k=k, cache_type_v=v)


@pytest.fixture(scope="module")
def divergence(target: Path) -> dict[tuple[str, str], float]:
    """Mean KL divergence of the next-token distribution from the f16 cache's."""

    def log_p(k: str, v: str) -> np.ndarray:
        with load(target, k, v) as model:
            return statistics.log_probabilities(model.logits(IDS))

    reference = log_p("f16", "f16")
    return {t: statistics.divergence(reference, log_p(*t)) for t in TYPES}


def test_turbo4_diverges_a_quarter_less_than_q4_0(divergence):
    """At 4.25 bits against 4.5. Without its signs the rotation gathers the offset of the keys in a few values."""
    assert 0 < divergence["turbo4", "turbo4"] < 0.75 * divergence["q4_0", "q4_0"]


def test_three_bit_values_cost_less_than_three_bit_keys_too(divergence):
    four, mixed, three = (divergence[pair] for pair in TYPES[1:])
    assert four < mixed < three < 5.5 * four
    assert mixed < 2 * divergence["q4_0", "q4_0"]


@pytest.mark.parametrize("k, v", [("turbo4", "turbo3"), ("turbo2", "turbo2")])
def test_batches_agree(target: Path, k: str, v: str):
    """One-token and four-token evaluations, in contexts shorter and longer than the window."""
    with load(target, k, v) as model:
        for n in (60, 600):
            one, four = (model.logits(IDS[:n], n_batch=size)[-4:] for size in (1, 4))
            assert np.abs(one - four).max() < 0.02 * one.std(), n
