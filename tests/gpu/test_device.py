"""The embedded pair on a CUDA device against the CPU: text, drafts, acceptance, placement, many generations."""

import subprocess

import numpy as np
import pytest

from pyllama_mtp import ContextOverflowError, InvalidRequestError
from support.devices import acceptance_over_equal_texts, near_tie, run
from support.prompts import PROMPTS


@pytest.mark.parametrize("flash_attention", [True, False])
def test_greedy_text_is_the_cpus(load, flash_attention):
    """Or parts at a near tie."""
    cpu, gpu = (load(n_gpu_layers=n, flash_attention=flash_attention) for n in (0, -1))
    for prompt in PROMPTS:
        a, b = run(cpu, prompt, 0)[0], run(gpu, prompt, 0)[0]
        assert a == b or near_tie(cpu, gpu, prompt, a, b), f"{prompt!r}: {a} and {b}"


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{"flash_attention": True}, {"flash_attention": False}, {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}],
    ids=["flash", "no-flash", "q8_0"],
)
def test_acceptance_is_the_cpus(load, k, options):
    """Within 1 point. A kernel once read the queries of the round before in replayed graphs: acceptance fell from .86
    to .08 while the text stayed right."""
    ours, theirs = acceptance_over_equal_texts(load(n_gpu_layers=0, **options), load(**options), k)
    assert theirs == pytest.approx(ours, abs=0.01)


@pytest.mark.parametrize("n_gpu_layers", [1, 2, 3, 4, 5])
def test_any_split_between_cpu_and_device(load, n_gpu_layers):
    whole, split = acceptance_over_equal_texts(load(n_gpu_layers=0), load(n_gpu_layers=n_gpu_layers), 3)
    assert split == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.8}, {"temperature": 0.8, "top_p": 0.9}, {"temperature": 1.0, "top_k": 40}],
    ids=["plain", "top_p", "top_k"],
)
def test_a_seed_gives_the_same_text_with_drafting_on_and_off(load, options):
    """Up to near ties of the two batch sizes, which most of six short texts do not meet."""
    model = load()
    texts = [[run(model, p, k, n=48, seed=11, **options)[0] for k in (0, 3)] for p in PROMPTS]
    assert sum(plain != drafted for plain, drafted in texts) <= 2


def test_logits_are_needed_for_options_that_change_them(load):
    """min_tokens, logit_bias, penalties and logprobs need every logit on the host. Up to a near tie."""
    cpu, gpu = load(n_gpu_layers=0), load()
    token = run(cpu, PROMPTS[0], 0, n=1)[0][0]
    changed = ({"logit_bias": {token: -100.0}}, {"repetition_penalty": 1.3}, {"min_tokens": 8}, {"logprobs": 2})
    different = [o for o in changed if run(cpu, PROMPTS[0], 3, n=24, **o)[0] != run(gpu, PROMPTS[0], 3, n=24, **o)[0]]
    assert len(different) <= 1, different


WORDS = r"([a-z]{1,9}[ _.]){40,}"  # allows many tokens at some places and one at others
CHOSEN_ON_THE_DEVICE = {
    "temperature": {"temperature": 0.9},
    "top_p": {"temperature": 0.7, "top_p": 0.9},
    "top_k": {"temperature": 1.0, "top_k": 40, "top_p": 0.95},
    "min_p": {"temperature": 1.0, "min_p": 0.05},
    "too many candidates": {"temperature": 5.0, "top_p": 0.99},  # the rows are fetched after all
    "grammar": {"temperature": 0.9, "regex": WORDS, "ignore_eos": False},
    "greedy grammar": {"temperature": 0, "regex": WORDS, "ignore_eos": False},
    "truncated grammar": {"temperature": 0.9, "top_p": 0.9, "regex": WORDS, "ignore_eos": False},
}


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("options", CHOSEN_ON_THE_DEVICE.values(), ids=CHOSEN_ON_THE_DEVICE)
def test_candidates_give_the_text_that_whole_rows_give(load, options, k):
    """logprobs need whole rows, so asking for them shows what the host alone would choose."""
    model = load()
    for seed, prompt in enumerate(PROMPTS):
        run(model, prompt, 0, n=1)  # so that both reuse the same prefix, and their batches are the same
        texts = [run(model, prompt, k, n=60, seed=seed, **options, **more)[0] for more in ({}, {"logprobs": 0})]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("acceptance", ["coupled", "rejection", "block"])
@pytest.mark.parametrize("options", [{"temperature": 0.8}, {"temperature": 0.8, "top_p": 0.95}], ids=["plain", "top_p"])
def test_sampled_drafts_are_accepted_as_often_as_the_cpus(load, acceptance, options):
    """Texts differ, so the rates do by some points, as their standard error says."""
    means, errors = [], []
    for model in (load(n_gpu_layers=0), load()):
        runs = [
            run(model, p, 3, n=40, seed=s, acceptance=acceptance, **options)[1:] for p in PROMPTS for s in range(16)
        ]
        rates = [accepted / drafted for drafted, accepted in runs]
        means.append(np.mean(rates))
        errors.append(np.std(rates) / len(rates) ** 0.5)
    assert abs(means[1] - means[0]) < 3.5 * np.hypot(*errors) < 0.1


def test_info_says_what_runs_where(load, device):
    info = load().info
    part = next(p for p in info.placement.split("; ") if p.startswith(f"{device}:"))
    assert "weights 0.0" not in part and "KV cache 0.0" not in part


def memory_used() -> int:
    """MiB on the first device."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)


def test_rows_with_and_without_masks_are_chosen_together(load):
    """Greedy rows without a mask are then found among candidates too. Up to near ties of the batches."""
    model = load(max_num_seqs=4)
    kinds = [
        {"temperature": 0},
        {"temperature": 0.9},
        {"temperature": 0, "regex": WORDS},
        {"regex": WORDS, "top_p": 0.9},
    ]
    options = [{"seed": 3, "max_tokens": 40, "num_speculative_tokens": 3, **kind} for kind in kinds]
    alone = [model.generate(PROMPTS[0], **one).text() for one in options]
    together = [model.generate(PROMPTS[0], **one) for one in options]
    assert sum(a != stream.text() for a, stream in zip(alone, together, strict=True)) <= 1


def test_a_thousand_generations_with_cancels_and_errors_leak_nothing(load):
    model = load(n_ctx=256)
    used = 0
    for i in range(1000):
        match i % 5:
            case 0:
                run(model, PROMPTS[i % 6], i % 4, n=12)
            case 1:
                stream = model.generate(PROMPTS[1], max_tokens=64, num_speculative_tokens=3)
                next(iter(stream))
                stream.cancel()
                stream.close()
            case 2:
                run(model, PROMPTS[2], 2, n=8, temperature=0.7, seed=i)
            case 3:
                with pytest.raises(ContextOverflowError):
                    run(model, "x = 1\n" * 400, 3)
            case 4:
                with pytest.raises(InvalidRequestError):
                    model.generate(PROMPTS[0], temperature=-1)
        if i == 100:  # every graph has been built
            used = memory_used()
    assert memory_used() <= used + 2
