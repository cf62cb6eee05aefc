"""Sampled tokens have exactly the target's warped distribution, with drafting on: G-tests over fixed seeds."""

from collections import Counter

import numpy as np
import pytest

from pyllama_mtp import Model

PROMPT = "import os\nimport "
SAMPLES = 3000
POOLED = 8  # expected counts below this share one bin


def warped(
    logits: np.ndarray, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Probabilities after temperature, min_p, top_k and top_p, in float64: the reference."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    p[p < min_p] = 0
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return p / p.sum()


def z_score(counts: Counter, p: np.ndarray) -> float:
    """The G statistic as a standard normal number (Wilson and Hilferty's cube root of chi squared)."""
    n = sum(counts.values())
    assert all(p[token] > 0 for token in counts), "a token outside the distribution was sampled"
    large = np.flatnonzero(p * n >= POOLED)
    observed = [counts[int(t)] for t in large]
    expected = list(p[large] * n)
    if (rest := n - sum(expected)) > 1e-6:
        observed.append(n - sum(observed))
        expected.append(rest)
    g = 2 * sum(o * np.log(o / e) for o, e in zip(observed, expected, strict=True) if o)
    df = len(expected) - 1
    if df == 0:
        return 0.0  # one token only, and no other was seen
    return float(((g / df) ** (1 / 3) - (1 - 2 / (9 * df))) / np.sqrt(2 / (9 * df)))


@pytest.mark.parametrize(
    "warp",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.3, "top_k": 12},
        {"temperature": 1.0, "min_p": 0.03, "top_p": 0.95},
    ],
    ids=lambda w: "-".join(w),
)
def test_the_first_three_tokens_have_the_targets_distribution(demo_model: Model, warp: dict):
    prompt = demo_model.tokenize(PROMPT)
    completions = []
    for seed in range(SAMPLES):
        stream = demo_model.generate(prompt, max_tokens=3, seed=seed, num_speculative_tokens=2, ignore_eos=True, **warp)
        stream.text()
        completions.append(tuple(stream.token_ids))
    prefix: tuple[int, ...] = ()
    for position in range(3):
        counts = Counter(c[position] for c in completions if c[:position] == prefix)
        assert sum(counts.values()) >= 100
        logits = demo_model.logits([*prompt, *prefix], n_batch=1)[-1]
        p = warped(logits, **warp)
        assert position > 0 or np.count_nonzero(p) > 3
        assert abs(z_score(counts, p)) < 4
        prefix += (counts.most_common(1)[0][0],)


def test_penalties_and_bias_change_the_distribution_as_defined(demo_model: Model):
    """vLLM's definitions: repetition over prompt and completion, presence and frequency over the completion."""
    prompt = demo_model.tokenize(PROMPT)
    options = {"temperature": 1.0, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2}
    bias = {int(prompt[-1]): 1.5, 300: -np.inf}
    second = Counter()
    first = None
    for seed in range(SAMPLES):
        stream = demo_model.generate(
            prompt, max_tokens=2, seed=seed, num_speculative_tokens=2, ignore_eos=True, logit_bias=bias, **options
        )
        stream.text()
        a, b = stream.token_ids
        if first is None:
            first = a
        if a == first:
            second[b] += 1
    assert sum(second.values()) > 30
    logits = demo_model.logits([*prompt, first], n_batch=1)[-1].astype(np.float64)
    for token, value in bias.items():
        logits[token] += value
    for token in {*prompt, first}:
        logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3
    logits[first] -= 0.2 + 0.4
    assert abs(z_score(second, warped(logits, temperature=1.0))) < 4
