"""The rule of coupled sampling in numpy, from its definition (docs/exactness.md): no shortcuts, float64."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, modulo 2^64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def gumbel(seed: int, position: int, n_vocab: int) -> np.ndarray:
    """Standard Gumbel noise of every token at a position of the text, float64 [n_vocab]."""
    key = _mix(_mix(np.array([seed], np.uint64) + _GOLDEN) + np.uint64(position))
    bits = _mix(key + (np.arange(n_vocab, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return -np.log(-np.log(uniform))


def uniform(seed: int, counter: int) -> float:
    """A keyed uniform number: that of token 0."""
    return float(np.exp(-np.exp(-gumbel(seed, counter, 1)[0])))


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of Model.generate, by the same names."""

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def scores(self, logits: np.ndarray, prompt: Sequence[int], generated: Sequence[int]) -> np.ndarray:
        """float64 [n_vocab], whose arg-max is the next token: log p + noise, -inf outside the warped support."""
        x = logits.astype(np.float64)
        for token, bias in self.logit_bias.items():
            x[token] += bias
        seen = np.unique([*prompt, *generated])
        x[seen] = np.where(x[seen] > 0, x[seen] / self.repetition_penalty, x[seen] * self.repetition_penalty)
        for token, count in Counter(generated).items():
            x[token] -= count * self.frequency_penalty + self.presence_penalty
        x /= self.temperature
        if self.min_p > 0:
            x[x < x.max() + math.log(self.min_p)] = -np.inf
        order = np.argsort(-x, kind="stable")
        if self.top_k > 0:
            x[order[self.top_k :]] = -np.inf
        p = np.exp(x[order] - x.max())
        p /= p.sum()
        x[order[p.cumsum() - p >= self.top_p]] = -np.inf  # what more probable tokens cover already
        return x + gumbel(self.seed, len(prompt) + len(generated), len(x))
