"""The acceptance rules give exactly the target's distribution, whatever the head drafts and however long drafts are.

A small Markov chain is the target, so that the distribution of a text is known exactly; acceptance_check.cpp runs the
library's own rules over it. tests/native/test_distribution.py does the same end to end, with the embedded pair.
"""

import shutil
import subprocess
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from support.sampling import uniform
from support.statistics import g_test, warped

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
N_VOCAB = 6
LENGTH = 4
SAMPLES = 20000
WARPS = {
    "temperature": {"temperature": 1.0},
    "top_p": {"temperature": 0.8, "top_p": 0.7},
    "penalties": {"temperature": 1.0, "top_k": 5, "min_p": 0.02},
    "masked": {"temperature": 1.0},
}


def probabilities(warp: str, previous: int, generated: tuple[int, ...]) -> np.ndarray:
    """The target's distribution of the next token, float64 [N_VOCAB], from the definitions."""
    logits = np.array([4 * uniform(1, previous * 100 + token) for token in range(N_VOCAB)])
    if warp == "penalties":
        logits[3] += 1.0
        for token in {0, *generated}:  # 0: the prompt
            logits[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
        for token, count in Counter(generated).items():
            logits[token] -= 0.7 + 0.4 * count
    if warp == "masked":
        logits[[(previous + 2 * token) % 3 == 0 for token in range(N_VOCAB)]] = -np.inf
    return warped(logits, **WARPS[warp])


def joint(warp: str) -> np.ndarray:
    """The distribution of the first LENGTH tokens, float64 [N_VOCAB ** LENGTH]."""
    p = np.ones(1)
    for length in range(LENGTH):
        texts = product(range(N_VOCAB), repeat=length)
        p = np.concatenate([q * probabilities(warp, [0, *text][-1], text) for q, text in zip(p, texts, strict=True)])
    return p


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[Counter, float]]:
    """(rule, head, warp, length) -> (how often each beginning was generated, accepted drafts over drafted ones)."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("acceptance") / "check"
    names = ("acceptance", "distribution", "grammar", "logits", "logprobs", "sampler")
    sources = [CSRC / "sampling" / f"{name}.cpp" for name in names]
    command = [compiler, "-std=c++17", "-O2", "-I", CSRC, HERE / "acceptance_check.cpp", *sources, "-o", program]
    subprocess.run(command, check=True)
    lines = subprocess.run([program, str(SAMPLES)], capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[tuple[str, ...], tuple[Counter, float]] = {}
    for line in lines:
        if line.startswith("case"):
            *case, accepted, drafted = line.split()[1:]
            found[tuple(case)] = Counter(), int(accepted) / max(1, int(drafted))
        else:
            *text, count = map(int, line.split())
            found[tuple(case)][0][int(np.ravel_multi_index(text, [N_VOCAB] * LENGTH))] += count
    return found


def test_every_rule_gives_the_targets_distribution(cases):
    expected = {warp: joint(warp) for warp in WARPS}
    scores = {case: g_test(counts, expected[case[2]]) for case, (counts, _) in cases.items()}
    assert len(scores) == 4 * 5 * 4 * 2
    assert all(sum(counts.values()) == SAMPLES for counts, _ in cases.values())
    assert max(scores.values()) < 4.5, max(scores, key=scores.get)
    assert all((expected[warp] > 0).sum() >= 30 for warp in WARPS)  # with a few texts only there would be little to see
    texts = {(case[2], frozenset(counts.items())): scores[case] for case, (counts, _) in cases.items()}
    assert len(texts) >= 60  # coupled ones are equal, and count once
    assert abs(np.mean(list(texts.values()))) < 0.5  # of standard normal numbers
    for warp in WARPS:
        assert abs(np.mean([score for (own, _), score in texts.items() if own == warp])) < 1


def test_coupled_text_does_not_depend_on_the_head_nor_on_the_length(cases):
    for warp in WARPS:
        texts = [counts for (rule, _, w, _), (counts, _) in cases.items() if rule == "coupled" and w == warp]
        assert len(texts) == 5 * 2 and all(t == texts[0] for t in texts)


def test_acceptance_is_what_the_theory_says(cases):
    """A right head is accepted always (sampled drafts), a better rule accepts more, and no rule accepts what cannot be
    generated."""

    def rate(rule: str, head: str, warp: str = "temperature") -> float:
        return cases[rule, head, warp, "fixed"][1]

    for rule in ("coupled", "rejection", "block"):
        assert rate(rule, "right") == 1.0
        assert rate(rule, "right", "top_p") == 1.0
    for rule in ("coupled", "rejection", "rejection_greedy", "block"):
        assert rate(rule, "noisy", "masked") > 0.1  # a grammar cuts drafts, and does not end them
    for head in ("wrong", "noisy"):
        assert rate("block", head) >= rate("rejection", head) - 0.01  # Sun et al., theorem 2
        assert rate("rejection", head) >= rate("coupled", head) - 0.02  # 1 - TV against (1 - TV) / (1 + TV)
    assert rate("rejection", "right") > rate("rejection_greedy", "right") + 0.1
