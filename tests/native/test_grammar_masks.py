"""What greedy completions leave out: masks of places where what the model would say anyway is allowed."""

import random
from typing import Any

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp._library import ffi, lib
from pyllama_mtp._matcher import BEFORE_ALL, IN_TEXT, IN_THOUGHT, Matcher, Thoughts
from pyllama_mtp.chat.formats import output_format
from pyllama_mtp.grammar.build import calls_of, content_of, either
from pyllama_mtp.grammar.options import GrammarOptions

PROMPT = "import os\n\n\ndef read(path):\n"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "n": {"type": "number", "minimum": -3}, "a": {}},
    "required": ["n"],
}
TOOLS = [{"function": {"name": "f", "parameters": {"properties": {"x": {"type": "string"}, "y": {}}}}}]
REQUESTS: dict[str, dict[str, Any]] = {
    "any": {"regex": "(?s:.)*"},
    "lines": {"regex": r"(    [a-z_ =().]+\n)+"},
    "digits": {"regex": r"\d{2,5}!"},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "lark": {"grammar": 'start: "(" item ("," item)* ")"\nitem: /[a-z ]{1,6}/ | start'},
}


class Places:
    """A matcher that goes through a random text of its grammar."""

    def __init__(self, model: Model, grammar: bytes, thoughts: Thoughts):
        self.n_vocab = model.info.n_vocab
        self.matcher = Matcher(model._constraints._tables(), grammar, thoughts)
        self.words = np.zeros((self.n_vocab + 31) // 32, np.uint32)

    def mask(self) -> np.ndarray:
        self.words[:] = 0
        words = ffi.from_buffer("uint32_t *", self.words)
        assert lib.pmtp_matcher_masks(self.matcher._struct, ffi.NULL, 0, words) == 0
        return np.unpackbits(self.words.view(np.uint8), bitorder="little")[: self.n_vocab].astype(bool)

    def allowed(self, *tokens: int) -> bool:
        return bool(lib.pmtp_matcher_allows(self.matcher._struct, list(tokens), len(tokens)))

    def go(self, token: int) -> None:
        assert lib.pmtp_matcher_commit(self.matcher._struct, [token], 1) == 0


@pytest.mark.parametrize("name", [*REQUESTS, "calls", "thought", "before", "text"])
def test_what_is_told_without_masks_is_what_masks_tell(demo_model: Model, name: str):
    """Of every token at every place. Of an end, masks may know more."""
    marks = output_format(demo_model._loop.native)
    ends = set(demo_model._loop.native.end_tokens())
    if name in REQUESTS:
        grammar = either(content_of(GrammarOptions(**REQUESTS[name])), None)
    else:
        grammar = either(None, calls_of(TOOLS, None, True, marks))
    phase = {"thought": IN_THOUGHT, "before": BEFORE_ALL, "text": IN_TEXT}.get(name)
    thoughts = (
        Thoughts() if phase is None else Thoughts(marks.thought_begin, marks.thought_end, phase, marks.call_begin)
    )
    rng = random.Random(name)
    for _ in range(2):
        places = Places(demo_model, grammar, thoughts)
        for _ in range(12):
            mask = places.mask()
            for token in range(places.n_vocab):
                assert places.allowed(token) == mask[token] or (token in ends and mask[token]), token
            going_on = sorted(set(np.flatnonzero(mask).tolist()) - ends)
            if not going_on:
                break
            if phase is not None and rng.random() < 0.5:
                going_on = sorted(set(going_on) & {marks.thought_end, marks.call_begin}) or going_on
            places.go(rng.choice(going_on))


@pytest.mark.parametrize("name", REQUESTS)
def test_greedy_texts_are_those_of_masks(demo_model: Model, name: str, monkeypatch: pytest.MonkeyPatch):
    def told(k: int | str) -> tuple[Any, ...]:
        options = {"temperature": 0, "max_tokens": 60, "num_speculative_tokens": k, "presence_penalty": 0.3}
        stream = demo_model.generate(PROMPT, **options, **REQUESTS[name])
        return stream.text(), stream.token_ids, stream.finish_reason, stream.stats.drafted, stream.stats.accepted

    drafts = (0, 1, 3, 8)
    without = [told(k) for k in drafts]
    apply_to = Matcher.apply_to

    def apply_with_masks(self: Matcher, params: Any) -> None:
        apply_to(self, params)
        params.grammar.allows = ffi.NULL

    monkeypatch.setattr(Matcher, "apply_to", apply_with_masks)
    assert [told(k) for k in drafts] == without
    assert len({text for text, *_ in without}) == 1


def test_no_mask_is_made_where_all_is_allowed(demo_model: Model, monkeypatch: pytest.MonkeyPatch):
    """Masks cost a greedy completion 7 %, though they changed nothing."""
    made = []

    @ffi.callback("int32_t(void *, uint32_t *, size_t)")
    def make(_matcher: Any, _mask: Any, _n_bytes: int) -> int:
        made.append(True)
        return -1

    apply_to = Matcher.apply_to

    def apply_without_masks(self: Matcher, params: Any) -> None:
        apply_to(self, params)
        self._struct.compute_mask = make

    monkeypatch.setattr(Matcher, "apply_to", apply_without_masks)
    options = {"temperature": 0, "max_tokens": 40, "num_speculative_tokens": 3}
    free = demo_model.generate(PROMPT, regex=REQUESTS["any"]["regex"], **options)
    assert free.text() == demo_model.generate(PROMPT, **options).text() and not made
    with pytest.raises(Exception, match="masks"):
        demo_model.generate(PROMPT, regex="[0-9]{9}", **options).text()
    assert made
