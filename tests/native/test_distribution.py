"""Sampled tokens have exactly the target's warped distribution, with drafting on: G-tests over fixed seeds."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from support.gguf_edit import edit_tensor
from support.statistics import g_test, warped

PROMPT = "import os\nimport "
SAMPLES = 3000


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
    check_first_tokens(demo_model, warp, num_speculative_tokens=2)


@pytest.mark.parametrize("k", [2, "auto"])
@pytest.mark.parametrize("acceptance", ["rejection", "rejection_greedy", "block"])
def test_every_rule_gives_the_targets_distribution(demo_model: Model, acceptance: str, k: int | str):
    warp = {"temperature": 1.0} if k == 2 else {"temperature": 0.7, "top_p": 0.9}
    check_first_tokens(demo_model, warp, num_speculative_tokens=k, acceptance=acceptance)


@pytest.mark.parametrize("acceptance", ["coupled", "rejection", "block"])
def test_a_head_that_knows_nothing_changes_nothing(demo, tmp_path: Path, acceptance: str):
    """Its final norm negated, the head drafts what it believes least."""
    head = tmp_path / "wrong.gguf"
    edit_tensor(demo.head, head, "output_norm.weight", np.negative)
    with Model(demo.target, mtp_head=head, n_ctx=256, n_threads=1, sampling_defaults="vllm") as model:
        rate = check_first_tokens(model, {"temperature": 1.0}, num_speculative_tokens=2, acceptance=acceptance)
    assert rate < 0.05


def check_first_tokens(model: Model, warp: dict, **options) -> float:
    """Generates three tokens SAMPLES times and tests each one's distribution. Returns the acceptance rate."""
    prompt = model.tokenize(PROMPT)
    completions = []
    drafted = accepted = 0
    for seed in range(SAMPLES):
        stream = model.generate(prompt, max_tokens=3, seed=seed, ignore_eos=True, **warp, **options)
        stream.text()
        completions.append(tuple(stream.token_ids))
        drafted += stream.stats.drafted
        accepted += stream.stats.accepted
    prefix: tuple[int, ...] = ()
    for position in range(3):
        counts = Counter(c[position] for c in completions if c[:position] == prefix)
        assert sum(counts.values()) >= 100
        logits = model.logits([*prompt, *prefix], n_batch=1)[-1]
        p = warped(logits, **warp)
        assert position > 0 or np.count_nonzero(p) > 3
        assert abs(g_test(counts, p)) < 4
        prefix += (counts.most_common(1)[0][0],)
    return accepted / max(1, drafted)


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
    assert abs(g_test(second, warped(logits, temperature=1.0))) < 4


def test_coupled_drafts_are_accepted_more_often_than_greedy_ones(demo_model: Model):
    """At temperature 1, against comparing a greedy draft with a sample: p of the head's most probable token, which is
    what rejection_greedy accepts with."""
    rate = {}
    for acceptance in ("coupled", "rejection_greedy"):
        drafted = accepted = 0
        for seed in range(60):
            prompt = demo_model.tokenize(("import os\n", "class Stack:\n", "def main():\n")[seed % 3])
            stream = demo_model.generate(
                prompt, max_tokens=200, seed=seed, num_speculative_tokens=3, acceptance=acceptance
            )
            stream.text()
            drafted += stream.stats.drafted
            accepted += stream.stats.accepted
        rate[acceptance] = accepted / drafted
    assert rate["coupled"] >= 1.4 * rate["rejection_greedy"], rate
