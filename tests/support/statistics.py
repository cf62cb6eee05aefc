"""Reference distributions, and tests of counts against them."""

from collections import Counter

import numpy as np

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


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """float64, of rows of logits."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def divergence(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """Mean over the rows of the KL divergence of q from p."""
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def g_test(counts: Counter, p: np.ndarray) -> float:
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
