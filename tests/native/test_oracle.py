"""The engine against transformers on random small pairs: logits, drafts, and text with drafting on and off."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pyllama_mtp import Model
from pyllama_mtp.convert import convert_assistant
from support.near_ties import TieCounter
from support.oracle import Noise, Oracle
from support.random_pairs import KINDS, N_VOCAB, WINDOW, make_pair
from support.target_gguf import write_target_gguf

PROMPT_LENGTHS = (2, 3, 20, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5, 300)
NEAR_TIE = 0.02  # logits, of a standard deviation of about 4
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attention": False, "sampling_defaults": "vllm"}


@dataclass(frozen=True, slots=True)
class Case:
    oracle: Oracle
    model: Model


@pytest.fixture(scope="module", params=sorted(KINDS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    pair = make_pair(request.param, folder)
    target = write_target_gguf(folder / "target.gguf", pair.shape, pair.target)
    head = convert_assistant(pair.assistant_dir, folder / "head.gguf", outtype="f32")
    with Model(target, mtp_head=head, n_ctx=512, n_threads=1, **EXACT) as model:
        yield Case(Oracle(pair), model)


def random_prompt(n: int) -> list[int]:
    return [2, *np.random.default_rng(n).integers(264, N_VOCAB, n - 1).tolist()]


def test_the_target_has_the_logits_of_transformers(case: Case):
    ids = random_prompt(200)
    expected = case.oracle.logits(ids)
    assert np.abs(case.model.logits(ids) - expected).max() < 0.02 * expected.std()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_greedy_drafts_are_those_of_the_oracle(case: Case, k: int):
    assert {0, 1} <= check_drafts(case, k, noise=None)


def test_sampled_drafts_are_those_of_the_oracle_also_after_partial_acceptance(case: Case):
    """At a high temperature the shared noise makes target and head agree often, so rounds end at every position."""
    accepted = check_drafts(case, 3, noise=Noise(seed=5, temperature=20.0))
    assert {0, 1, 2, 3} <= accepted


def test_drafts_are_those_of_the_oracle_after_prefix_reuse(case: Case):
    """The K/V that a draft sees come from this prompt's tokens, not from longer ones that were rolled back, also where
    the sliding window has passed them.
    """
    base = random_prompt(200)
    prompts = [base[:120], base, base[:190] + base[:5], base[:60], base[:60] + base[100:140]]
    case.model.generate(base, max_tokens=30, temperature=0, ignore_eos=True).text()
    check_drafts(case, 3, noise=None, prompts=prompts)


def check_drafts(
    case: Case, k: int, noise: Noise | None, prompts: Sequence[list[int]] = tuple(map(random_prompt, PROMPT_LENGTHS))
) -> set[int]:
    """Returns the numbers of accepted drafts that were met."""
    drafted = near_ties = 0
    accepted = set()
    for ids in prompts:
        sampling = {"temperature": 0} if noise is None else {"temperature": noise.temperature, "seed": noise.seed}
        stream = case.model.generate(
            ids, max_tokens=16, num_speculative_tokens=k, trace=True, ignore_eos=True, **sampling
        )
        stream.text()
        text = ids + stream.token_ids[:1]
        for r in stream.rounds:
            accepted.add(r.accepted)
            oracle = case.oracle.drafts(text, len(r.drafted), noise) if r.drafted else []
            for expected, got in zip(oracle, r.drafted, strict=True):
                drafted += 1
                if expected.token != got:
                    assert expected.gap < NEAR_TIE, (len(text), expected, got)
                    near_ties += 1
                    break  # later drafts continue another token
            text += r.emitted
        assert text == ids + stream.token_ids
    assert drafted >= len(prompts) * k
    assert near_ties <= drafted // 50
    return accepted


def test_greedy_text_is_that_of_the_oracle(case: Case):
    ids = random_prompt(40)
    stream = case.model.generate(ids, max_tokens=40, temperature=0, num_speculative_tokens=3, ignore_eos=True)
    stream.text()
    logits = case.oracle.logits(ids + stream.token_ids)[len(ids) - 1 : -1]
    chosen = logits[np.arange(len(logits)), stream.token_ids]
    assert (logits.max(axis=1) - chosen < NEAR_TIE).all()


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 20.0, "seed": 3}, {"temperature": 8.0, "top_p": 0.9, "seed": 4}]
)
def test_drafting_does_not_change_the_text(case: Case, sampling: dict):
    ties = TieCounter(case.model)
    for n in (3, WINDOW, 90):
        ids = random_prompt(n)
        texts = {}
        for k in (0, 1, 2, 3, 5, 8, "auto"):
            stream = case.model.generate(ids, max_tokens=40, num_speculative_tokens=k, ignore_eos=True, **sampling)
            stream.text()
            texts[k] = stream.token_ids
        for k, ids_k in texts.items():
            if sampling["temperature"] == 0:
                ties.compare(ids, texts[0], ids_k, 9)
            else:
                assert ids_k == texts[0], k
    ties.check()
