"""A model on a CUDA device against the same on the CPU."""

import numpy as np

from pyllama_mtp import Model
from support.near_ties import devices_tie
from support.prompts import PROMPTS


def run(model: Model, prompt: str, k: int, n: int = 120, **options: object) -> tuple[list[int], int, int]:
    """Token ids, drafted, accepted."""
    sampling = {"temperature": 0, "ignore_eos": True, **options}
    stream = model.generate(prompt, max_tokens=n, num_speculative_tokens=k, **sampling)
    ids = [i for chunk in stream for i in chunk.token_ids]
    return ids, stream.stats.drafted, stream.stats.accepted


def near_tie(cpu: Model, gpu: Model, prompt: str, a: list[int], b: list[int]) -> bool:
    """Whether the texts part at a near tie of the two devices."""
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return devices_tie(cpu, gpu, cpu.tokenize(prompt) + a[:at], a[at], b[at], largest=0.1)


def acceptance_over_equal_texts(cpu: Model, gpu: Model, k: int) -> tuple[float, float]:
    """Rates of both; every text that is not equal parts at a near tie. Rates of different texts cannot be compared."""
    totals = np.zeros((2, 2), int)
    equal = 0
    for prompt in PROMPTS:
        a, b = run(cpu, prompt, k), run(gpu, prompt, k)
        if a[0] == b[0]:
            equal += 1
            totals += [a[1:], b[1:]]
        else:
            assert near_tie(cpu, gpu, prompt, a[0], b[0]), f"{prompt!r}: {a[0]} and {b[0]}"
    assert equal >= 2, "too few equal texts to compare"
    return tuple(totals[:, 1] / totals[:, 0])
