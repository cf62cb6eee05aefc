"""Constrained output with the embedded pair: what a grammar allows comes out, whatever is drafted."""

import json
import re
import threading

import numpy as np
import pytest

from pyllama_mtp import GrammarError, InvalidRequestError, Model
from pyllama_mtp._matcher import BEFORE_ALL, BEGUN, IN_THOUGHT
from pyllama_mtp.grammar.constraints import thoughts_of
from support.constrained import run_all

PROMPT = "import os\n\n\ndef read(path):\n"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
REGEX = r"(\d{2,5}|def|[a-f]+_)( is \w{1,8})?;"
CHOICE = ["import sys", "import json", "return", "élan vital"]
LARK = 'start: "(" item ("," item)* ")"\nitem: /[a-z]{1,6}/ | start'
REQUESTS = {
    "schema": {"response_format": FORMAT},
    "object": {"response_format": {"type": "json_object"}},
    "regex": {"regex": REGEX},
    "choice": {"choice": CHOICE},
    "lark": {"grammar": LARK},
}
DRAFTS = [0, 1, 2, 3, 4, 5, 6, 7, 8, "auto"]


def check(name: str, text: str) -> None:
    match name:
        case "schema":
            value = json.loads(text)
            assert list(value) == ["name", "age", "tags"] and 0 <= value["age"] <= 150 and len(value["name"]) <= 12
        case "object":
            assert isinstance(json.loads(text), dict)
        case "lark":
            while (shorter := re.sub(r"\((x|[a-z]{1,6})(,(x|[a-z]{1,6}))*\)", "x", text)) != text:
                text = shorter
            assert text == "x"
        case "choice":
            assert text in CHOICE
        case _:
            assert re.fullmatch(REGEX, text)


@pytest.mark.parametrize("temperature", [0, 0.9])
@pytest.mark.parametrize("name", REQUESTS)
def test_the_text_is_the_grammars_and_does_not_depend_on_drafts(demo_model: Model, name: str, temperature: float):
    common = {"temperature": temperature, "max_tokens": 60, "presence_penalty": 0.5}
    ended, texts = 0, set()
    for seed in (1, 2, 3):
        alone = [
            demo_model.generate(PROMPT, seed=seed, num_speculative_tokens=k, **common, **REQUESTS[name]) for k in DRAFTS
        ]
        for stream in alone:  # up to four of them together
            text = stream.text()
            texts.add((seed, text, tuple(stream.token_ids)))
            if stream.finish_reason == "stop":
                ended += 1
                check(name, text)
    assert len(texts) == 3
    assert ended > 0 or temperature == 0


def test_every_text_that_ends_by_itself_is_valid(demo_model: Model):
    """60 runs over 40 schemas; tests/support/constrained.py makes more of them."""
    counts = run_all(demo_model, iter(range(60)))
    assert counts["stop"] >= 40 and counts["stop"] + counts["length"] == 60
    assert counts["accepted"] > 100


def test_drafts_are_made_and_accepted_beside_a_grammar(demo_model: Model):
    options = {"seed": 1, "temperature": 0, "max_tokens": 60, "num_speculative_tokens": 3, "trace": True}
    stream = demo_model.generate(PROMPT, regex=r"(    [a-z_ =().]+\n)+", **options)
    stream.text()
    assert stream.stats.drafted > 0 and stream.stats.accepted > 0
    cut = 0
    for made in stream.rounds:
        assert made.emitted[: made.accepted] == made.drafted[: made.accepted]
        assert len(made.emitted) <= made.accepted + 1 <= len(made.drafted) + 1
        cut += 0 < len(made.drafted) < 3
    assert cut > 0


def test_a_grammar_that_allows_everything_changes_nothing(demo_model: Model):
    options = {"seed": 3, "temperature": 0.8, "max_tokens": 80, "num_speculative_tokens": 3}
    plain, free = (demo_model.generate(PROMPT, **options, **o) for o in ({}, {"regex": "(?s:.)*"}))
    assert plain.text() == free.text() and plain.stats.accepted == free.stats.accepted > 0


@pytest.mark.parametrize("acceptance", ["rejection", "rejection_greedy", "block"])
def test_other_rules_keep_the_grammar(demo_model: Model, acceptance: str):
    for seed in range(12):
        stream = demo_model.generate(PROMPT, seed=seed, acceptance=acceptance, num_speculative_tokens=4, regex=REGEX)
        check("regex", stream.text())
        assert stream.finish_reason == "stop" and stream.stats.acceptance == acceptance


def ids_of(model: Model, text: str) -> list[int]:
    return model.tokenize(text, add_special=False)


def test_a_grammar_begins_behind_the_thought(demo_model: Model):
    """Behind one that the prompt has opened; and the model may think first where nothing says that it has not."""
    (begin,), (end,) = ids_of(demo_model, "<|channel>"), ids_of(demo_model, "<channel|>")
    turn = "<|turn>user\nhello<turn|>\n<|turn>model\n"
    marks = demo_model._constraints._marks
    for text, phase in (
        (PROMPT, BEGUN),
        (turn, BEFORE_ALL),
        (turn + "<|channel>thought\n<channel|>", BEGUN),
        (turn + "<|channel>thought\n", IN_THOUGHT),
    ):
        assert thoughts_of(marks, ids_of(demo_model, text)).phase == phase, text
    for opened, bias in ((True, {end: 15.0}), (False, {begin: 100.0, end: 100.0})):
        thought_lengths = set()
        for seed in range(4):
            texts = set()
            for k in (0, 3, 8, "auto"):
                options = {"seed": seed, "max_tokens": 40, "num_speculative_tokens": k, "logit_bias": bias}
                prompt = turn + ("<|channel>thought\n" if opened else "")
                stream = demo_model.generate(prompt, regex=r"\d{2,4}!", **options)
                stream.text()
                texts.add(tuple(stream.token_ids))
            (ids,) = texts
            assert opened or ids[0] == begin
            if end in ids:
                answer = ids[ids.index(end) + 1 :]
                assert re.fullmatch(r"\d{2,4}!", demo_model.detokenize(list(answer)).removesuffix("<eos>"))
                thought_lengths.add(ids.index(end))
        assert len(thought_lengths) > 1


def test_a_failing_mask_ends_its_own_stream(demo_model: Model):
    def fails(ids: list[int]) -> list[int]:
        if len(ids) > 3:
            raise KeyError("mine")
        return [300 + len(ids)]

    other = demo_model.generate(PROMPT, seed=1, max_tokens=20)
    stream = demo_model.generate(PROMPT, logits_mask=fails, num_speculative_tokens=3)
    with pytest.raises(GrammarError, match="KeyError") as raised:
        stream.text()
    assert isinstance(raised.value.__cause__, KeyError)
    assert stream.token_ids == [300, 301, 302, 303][: len(stream.token_ids)]
    assert other.text() == demo_model.generate(PROMPT, seed=1, max_tokens=20).text()


def test_masks_of_every_kind_and_what_they_are_asked(demo_model: Model):
    n_vocab = demo_model.info.n_vocab
    even = np.arange(n_vocab) % 2 == 0
    asked: list[list[int]] = []

    def mask(ids: list[int]) -> object:
        asked.append(ids)
        return even if len(ids) % 3 == 0 else None if len(ids) % 3 == 1 else {400, 401, 402}

    texts = set()
    for k in (0, 3, "auto"):
        asked.clear()
        stream = demo_model.generate(
            PROMPT, logits_mask=mask, seed=4, max_tokens=30, num_speculative_tokens=k, ignore_eos=True
        )
        stream.text()
        ids = stream.token_ids
        texts.add(tuple(ids))
        assert all(i % 2 == 0 for i in ids[::3]) and set(ids[2::3]) <= {400, 401, 402}
        assert all(prefix in asked for prefix in (ids[:n] for n in range(len(ids)))) and (k != 0 or len(asked) == 30)
    assert len(texts) == 1


@pytest.mark.parametrize("wrong", [5, "ab", [-1], [1 << 20], [1.5], np.ones(3, bool)])
def test_a_mask_of_another_kind_is_an_error_of_its_own(demo_model: Model, wrong: object):
    with pytest.raises(GrammarError, match="logits_mask failed"):
        demo_model.generate(PROMPT, logits_mask=lambda ids: wrong).text()


def test_masks_are_called_where_no_signal_handler_runs(demo_model: Model):
    threads = []
    demo_model.generate(PROMPT, logits_mask=lambda ids: threads.append(threading.current_thread()), max_tokens=3).text()
    assert threads and threading.main_thread() not in threads


def test_options_beside_a_grammar(demo_model: Model):
    def end(**options: object) -> tuple[str, str | None]:
        stream = demo_model.generate(PROMPT, seed=1, **options)
        return stream.text(), stream.finish_reason

    assert end(regex="ab", min_tokens=20, max_tokens=30) == ("ab", "stop")  # the grammar wins
    text, _ = end(regex="[ab]{1,9}", min_tokens=4, max_tokens=30)
    assert len(text) >= 3
    assert end(regex="abcdef", stop="cd") == ("ab", "stop")
    (a,) = demo_model.tokenize("a", add_special=False)[-1:]
    assert end(regex="a|b", logit_bias={a: 1000.0})[0] == "a"
    with pytest.raises(InvalidRequestError, match="every one is forbidden"):
        end(regex="a", logit_bias=dict.fromkeys(range(demo_model.info.n_vocab), -np.inf))
    stream = demo_model.generate(PROMPT, regex="a", logprobs=2, temperature=0)
    rows = [row for chunk in stream for row in chunk.logprobs]
    assert all(len(row) == 3 and row[0].logprob <= row[1].logprob + 1e-5 for row in rows)  # the model's own
