"""Completions that are cut far back: the next one goes on from tokens whose window the cache may have lost."""

from collections.abc import Iterator

import pytest

from pyllama_mtp import Model
from support.near_ties import TieCounter

PROMPT = "def read_lines(path):\n    with open(path) as file:\n"
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def models(demo) -> Iterator[tuple[Model, Model]]:
    """Two models whose sliding caches have little slack: one is cut, the other evaluates everything anew."""
    options = {"mtp_head": demo.head, "n_ctx": 1024, "n_batch": 32, "n_threads": 1}
    with Model(demo.target, **options) as cut, Model(demo.target, **options) as fresh:
        yield cut, fresh


@pytest.mark.parametrize("kept", [1, 3, 30, 64, 100, 250, 330, 390])
@pytest.mark.parametrize("k", [0, 4])
def test_what_follows_a_stop_string_sees_its_whole_window(models: tuple[Model, Model], kept: int, k: int):
    """A prompt that went on where a cut completion ended was evaluated against a sliding window with holes: whether it
    is intact was asked only of prompts that leave the cached tokens before their end.
    """
    cut, fresh = models
    first = fresh.generate(PROMPT, max_tokens=400, **GREEDY)
    text = first.text()
    begin = len(fresh.detokenize(first.token_ids[:kept]))
    stream = cut.generate(PROMPT, max_tokens=400, stop=[text[begin:]], num_speculative_tokens=k, **GREEDY)
    stream.text()
    assert stream.finish_reason == "stop"

    prompt = fresh.tokenize(PROMPT) + stream.token_ids + fresh.tokenize("\n\nimport os\n", add_special=False)
    expected = fresh.generate(prompt, max_tokens=40, num_speculative_tokens=k, **GREEDY)
    expected.text()
    went_on = cut.generate(prompt, max_tokens=40, num_speculative_tokens=k, **GREEDY)
    went_on.text()
    ties = TieCounter(fresh)
    ties.compare(prompt, expected.token_ids, went_on.token_ids, 32)
    ties.check()
