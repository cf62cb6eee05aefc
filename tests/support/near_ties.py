"""Greedy texts that may differ at near ties only (docs/exactness.md)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

import pyllama_mtp

NEAR_TIE = 0.02  # of the standard deviation of the logits; another build of the kernels rounds otherwise


def batch_error(model: pyllama_mtp.Model, ids: Sequence[int], n_batch: int) -> float:
    """The largest difference of a logit between evaluating `ids` row by row and in batches of n_batch."""
    return float(np.abs(model.logits(ids, n_batch=1) - model.logits(ids, n_batch=n_batch)).max())


def devices_tie(
    cpu: pyllama_mtp.Model, device: pyllama_mtp.Model, ids: Sequence[int], a: int, b: int, largest: float
) -> bool:
    """Whether tokens a and b after ids have a gap below twice the difference between the CPU and the device, which must
    be small itself: below `largest` standard deviations of the logits.

    Both round activations to int8 in their own way. In batches of 32 the CPU would leave products to the device.
    """
    here = cpu.logits(ids, n_batch=1)[-1]
    difference = max(np.abs(here - device.logits(ids, n_batch=n)[-1]).max() for n in (1, 4))
    return difference < largest * here.std() and abs(here[a] - here[b]) < 2 * difference


def assert_near_tie(model: pyllama_mtp.Model, prompt: list[int], ids: list[int], expected: list[int]) -> None:
    """Asserts that two greedy completions that are not equal part at a near tie."""
    same = next(i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b)
    row = model.logits(prompt + ids[:same])[-1]
    gap = abs(row[ids[same]] - row[expected[same]])
    assert gap < NEAR_TIE * row.std(), f"token {same} after a prompt of {len(prompt)} differs, at a gap of {gap}"


@dataclass
class TieCounter:
    """Counts tokens compared and near ties met. At most one tie in 2,000 tokens is legal, and one in all for
    shorter tests.
    """

    model: pyllama_mtp.Model
    tokens: int = 0
    ties: int = 0
    errors: list[float] = field(default_factory=list)

    def compare(self, prompt: Sequence[int], expected: Sequence[int], got: Sequence[int], n_batch: int) -> None:
        """Asserts that two greedy completions are equal up to a first difference that is a near tie."""
        same = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), None)
        if same is None:
            assert len(expected) == len(got)
            self.tokens += len(expected)
            return
        self.tokens += same + 1
        self.ties += 1
        prefix = [*prompt, *expected[:same]]
        row = self.model.logits(prefix, n_batch=1)[-1]
        error = batch_error(self.model, prefix, n_batch)
        self.errors.append(error)
        gap = abs(float(row[expected[same]] - row[got[same]]))
        assert gap < 2 * error, f"token {same} differs, and its gap of {gap} is no near tie: the batch error is {error}"

    def check(self) -> None:
        assert self.ties <= max(1, self.tokens // 2000), f"{self.ties} near ties in {self.tokens} tokens"
