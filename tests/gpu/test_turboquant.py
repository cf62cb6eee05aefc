"""TurboQuant caches on a CUDA device against the CPU: what the model says, greedy text, acceptance of drafts."""

import numpy as np
import pytest

import pyllama_mtp
from pyllama_mtp import Model

PROMPTS = [
    "def main():\n    import sys\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\n\n\ndef walk(path):\n",
    'def parse(text):\n    """Parse',
    "for i in range(10):\n    print(",
    "try:\n    import json\nexcept ImportError:\n",
]
SOME, ALL = 3, -1  # layers on the device, of 5 and the output


def types(k: str, v: str, k_swa: str | None = None, v_swa: str | None = None) -> dict[str, str | None]:
    return {"cache_type_k": k, "cache_type_v": v, "cache_type_k_swa": k_swa, "cache_type_v_swa": v_swa}


def log_probabilities(model: Model, n_batch: int) -> np.ndarray:
    """float64 [512, n_vocab], over text that is no prompt of these tests."""
    ids = model.tokenize(open(pyllama_mtp.__file__).read() + open(np.__file__).read())[:512]
    x = model.logits(ids, n_batch=n_batch).astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.mark.parametrize(
    "cache",
    [
        types("turbo4", "turbo4"),
        types("turbo3", "turbo3"),
        types("turbo2", "turbo2"),
        types("turbo4", "turbo3", "q8_0", "q8_0"),
        types("q8_0", "turbo4", "f16", "turbo3"),
    ],
    ids=lambda cache: "-".join(str(t) for t in cache.values()),
)
def test_the_device_says_what_the_cpu_says(load, cache):
    """To a part of what the types cost: a value near an edge between two levels falls to either side. Another rotation,
    scale or order of bits costs as much again as the types do, or ruins everything."""
    exact, cpu = (log_probabilities(load(n_gpu_layers=0, **c), 4) for c in ({}, cache))
    cost = divergence(exact, cpu)
    for n_gpu_layers in (SOME, ALL):
        device = load(n_gpu_layers=n_gpu_layers, **cache)
        found = {n: divergence(cpu, log_probabilities(device, n)) for n in (1, 4, 32)}
        assert max(found.values()) < 0.4 * cost, (n_gpu_layers, found, cost)


def test_keys_may_be_turbo_without_flash_attention(load):
    """The products of queries and keys are then left to the CPU."""
    cache = types("turbo4", "f16") | {"flash_attention": False}
    exact, cpu = (log_probabilities(load(n_gpu_layers=0, **c), 4) for c in ({}, cache))
    assert divergence(cpu, log_probabilities(load(**cache), 4)) < 0.4 * divergence(exact, cpu)


def near_tie(cpu: Model, device: Model, ids: list[int], a: int, b: int) -> bool:
    """Whether the gap between tokens a and b after ids is below twice the difference between the two, which must be
    small itself."""
    here = cpu.logits(ids, n_batch=1)[-1]
    difference = max(np.abs(here - device.logits(ids, n_batch=n)[-1]).max() for n in (1, 4))
    return difference < here.std() and abs(here[a] - here[b]) < 2 * difference


def drafted_and_accepted(stream: pyllama_mtp.Stream, n: int) -> np.ndarray:
    """Of the rounds within the first n tokens."""
    total, at = np.zeros(2, int), 1
    for one in stream.rounds:
        at += len(one.emitted)
        if at <= n:
            total += [len(one.drafted), one.accepted]
    return total


@pytest.mark.parametrize("n_gpu_layers", [SOME, ALL])
@pytest.mark.parametrize(
    "cache",
    [types("turbo4", "turbo4"), types("turbo4", "turbo3", "q8_0", "q8_0"), types("turbo3", "turbo4")],
    ids=lambda cache: "-".join(str(t) for t in cache.values()),
)
def test_greedy_text_and_acceptance_are_the_cpus(load, cache, n_gpu_layers):
    """Text up to a near tie; acceptance, over the text that both have written, within 1 point."""
    cpu, device = (load(n_gpu_layers=n, **cache) for n in (0, n_gpu_layers))
    totals = np.zeros((2, 2), int)
    for prompt in PROMPTS:
        streams = []
        for model in (cpu, device):
            stream = model.generate(
                prompt, max_tokens=160, temperature=0, ignore_eos=True, num_speculative_tokens=3, trace=True
            )
            stream.text()
            streams.append(stream)
        a, b = (stream.token_ids for stream in streams)
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
        if same < len(a):
            assert near_tie(cpu, device, cpu.tokenize(prompt) + a[:same], a[same], b[same]), f"{prompt!r}: {a} and {b}"
        totals += [drafted_and_accepted(stream, same) for stream in streams]
    rates = totals[:, 1] / totals[:, 0]
    assert totals[:, 0].min() > 200, "too little equal text to compare"
    assert rates[1] == pytest.approx(rates[0], abs=0.01)


def test_a_prompt_gives_the_same_text_after_others(load):
    """A quantised cache on the device, rolled back and with its prefix reused."""
    model = load(**types("turbo4", "turbo3"))

    def complete(text: str) -> list[int]:
        stream = model.generate(text, max_tokens=60, temperature=0.8, seed=3, num_speculative_tokens=3)
        stream.text()
        return stream.token_ids

    first = complete(PROMPTS[1])
    complete(PROMPTS[1] + "        self.items = []\n")
    complete(PROMPTS[0])
    assert complete(PROMPTS[1]) == first


def test_the_cache_has_the_cpus_size_and_lies_on_the_device(load, device):
    ours, theirs = load(n_gpu_layers=0, **types("turbo4", "turbo3")), load(**types("turbo4", "turbo3"))
    padding = theirs.info.cache_bytes - ours.info.cache_bytes
    assert 0 <= padding < 4096  # ggml-cuda rounds rows of quantised tensors up to 512 values
    part = next(p for p in theirs.info.placement.split("; ") if p.startswith(f"{device}:"))
    assert "KV cache 0.0" not in part
