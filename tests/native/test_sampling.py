"""Sampled text is what the rule says, token by token, and the rule's noise samples the distribution that it is
given.
"""

from dataclasses import asdict

import numpy as np
import pytest

from pyllama_mtp import Model
from support.sampling import Sampling, gumbel

PROMPTS = ("def read_lines(path):\n", "class Stack:\n    def __init__(self):\n", "import os\n")
NEAR_TIE = 0.05  # of log p + noise: the reference has the logits of another batch
N_TOKENS = 80


@pytest.mark.parametrize("k", [0, 3, "auto"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(seed=2**64 - 1, temperature=0.6),
        Sampling(seed=3, top_k=20),
        Sampling(seed=4, top_p=0.9),
        Sampling(seed=5, temperature=1.5, min_p=0.05),
        Sampling(seed=6, temperature=0.9, top_p=0.8, top_k=40, min_p=0.01),
        Sampling(seed=7, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.3),
        Sampling(seed=8, repetition_penalty=1.5, logit_bias={300: 4.0, 400: -100.0}, top_p=0.95),
    ],
    ids=lambda s: "-".join(name for name, value in asdict(s).items() if value != getattr(Sampling(seed=s.seed), name)),
)
def test_sampled_text_is_what_the_rule_says(demo_model: Model, sampling: Sampling, k):
    compared = near_ties = 0
    for text in PROMPTS:
        prompt = demo_model.tokenize(text)[:9]  # as many rows as the kernels of one-token steps take: equal logits
        demo_model.logits(prompt[:1])  # forgets K/V of longer prefills
        stream = demo_model.generate(
            prompt, max_tokens=N_TOKENS, num_speculative_tokens=k, ignore_eos=True, **asdict(sampling)
        )
        stream.text()
        ids = stream.token_ids
        rows = demo_model.logits(prompt + ids, n_batch=1)[len(prompt) - 1 : -1]
        for i, row in enumerate(rows):
            scores = sampling.scores(row, prompt, ids[:i])
            expected = int(scores.argmax())
            compared += 1
            if expected != ids[i]:
                assert scores[expected] - scores[ids[i]] < NEAR_TIE, (text, i, expected, ids[i])
                near_ties += 1
    assert compared == len(PROMPTS) * N_TOKENS
    assert near_ties <= 1


def test_the_noise_samples_the_distribution_independently():
    """Chi-square of single tokens and of pairs at neighbouring positions, over seeds that follow each other."""
    p = np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02])
    n = 20_000
    draws = np.array(
        [[int((np.log(p) + gumbel(seed, position, len(p))).argmax()) for position in (9, 10)] for seed in range(n)]
    )
    for column in draws.T:
        assert chi_square(np.bincount(column, minlength=len(p)), p * n) < 22.5  # 6 degrees of freedom, p = 0.001
    pairs = np.bincount(draws[:, 0] * len(p) + draws[:, 1], minlength=len(p) ** 2)
    assert chi_square(pairs, np.outer(p, p).ravel() * n) < 84.0  # 48 degrees of freedom, p = 0.001


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())
