"""TurboQuant caches on a CUDA device against the CPU: what the model says, greedy text, acceptance of drafts."""

import numpy as np
import pytest

import pyllama_mtp
from pyllama_mtp import Model
from pyllama_mtp.bench.kv import accepted_after
from support.devices import run
from support.near_ties import devices_tie
from support.prompts import PROMPTS
from support.repeats import check_texts_repeat
from support.statistics import divergence, log_probabilities

SOME, ALL = 3, -1  # layers on the device, of 5 and the output


def types(k: str, v: str, k_swa: str | None = None, v_swa: str | None = None) -> dict[str, str | None]:
    return {"cache_type_k": k, "cache_type_v": v, "cache_type_k_swa": k_swa, "cache_type_v_swa": v_swa}


def said(model: Model, n_batch: int) -> np.ndarray:
    """float64 [512, n_vocab], over text that is no prompt of these tests."""
    ids = model.tokenize(open(pyllama_mtp.__file__).read() + open(np.__file__).read())[:512]
    return log_probabilities(model.logits(ids, n_batch=n_batch))


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
    exact, cpu = (said(load(n_gpu_layers=0, **c), 4) for c in ({}, cache))
    cost = divergence(exact, cpu)
    for n_gpu_layers in (SOME, ALL):
        device = load(n_gpu_layers=n_gpu_layers, **cache)
        found = {n: divergence(cpu, said(device, n)) for n in (1, 4, 32)}
        assert max(found.values()) < 0.4 * cost, (n_gpu_layers, found, cost)


def test_keys_may_be_turbo_without_flash_attention(load):
    """The products of queries and keys are then left to the CPU."""
    cache = types("turbo4", "f16") | {"flash_attention": False}
    exact, cpu = (said(load(n_gpu_layers=0, **c), 4) for c in ({}, cache))
    assert divergence(cpu, said(load(**cache), 4)) < 0.4 * divergence(exact, cpu)


CACHES = [types("turbo4", "turbo4"), types("turbo4", "turbo3", "q8_0", "q8_0"), types("turbo3", "turbo4")]


@pytest.mark.parametrize("n_gpu_layers", [SOME, ALL])
@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: "-".join(str(t) for t in cache.values()))
def test_greedy_text_and_acceptance_are_the_cpus(load, cache, n_gpu_layers):
    """Text up to a near tie; acceptance, after the same tokens, within 1 point as far as 900 drafts can tell."""
    cpu, device = (load(n_gpu_layers=n, **cache) for n in (0, n_gpu_layers))
    texts = []
    for prompt in PROMPTS:
        a, b = (run(model, prompt, 3, n=200)[0] for model in (cpu, device))
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
        ids = cpu.tokenize(prompt)
        assert same == len(a) or devices_tie(cpu, device, ids + a[:same], a[same], b[same], largest=1.0), f"{a} and {b}"
        texts.append(ids + a)
    ours, theirs = (accepted_after(model, texts, 3, 4) / 3 for model in (cpu, device))
    error = np.std(theirs - ours) / len(ours) ** 0.5
    assert abs(np.mean(theirs - ours)) < 0.01 + 2 * error < 0.04


def test_a_prompt_gives_the_same_text_after_others(load):
    """A quantised cache on the device, rolled back and with its prefix reused."""
    check_texts_repeat(load(**types("turbo4", "turbo3")), PROMPTS[:2])


def test_the_cache_has_the_size_that_was_estimated_and_lies_on_the_device(load, demo, device):
    options = types("turbo4", "turbo3")
    theirs = load(**options)
    padding = (
        theirs.info.cache_bytes - Model.estimate(demo.target, mtp_head=demo.head, n_ctx=1024, **options).cache_bytes
    )
    assert 0 <= padding < 4096  # ggml-cuda rounds rows of quantised tensors up to 512 values
    part = next(p for p in theirs.info.placement.split("; ") if p.startswith(f"{device}:"))
    assert "KV cache 0.0" not in part
