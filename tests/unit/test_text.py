"""Text out of token bytes: characters are never split, stop strings never leak."""

import itertools

import numpy as np
import pytest

from pyllama_mtp.text import Shown, TextAssembler

SAMPLE = "a\u00e4\u20ac\U0001f600z"


class Plain:
    """A TextAssembler of tokens that are all text."""

    def __init__(self, *args):
        self.assembler = TextAssembler(*args)

    def feed(self, data: bytes) -> str:
        shown = Shown()
        self.assembler.feed(0, data, shown)
        return shown.text

    def finish(self) -> str:
        shown = Shown()
        self.assembler.finish(shown)
        return shown.text

    @property
    def stopped(self) -> bool:
        return self.assembler.stopped


def splits(data: bytes):
    """Every way to cut a byte string into pieces of at least one byte."""
    for cuts in itertools.product((False, True), repeat=len(data) - 1):
        pieces, begin = [], 0
        for at, cut in enumerate(cuts, 1):
            if cut:
                pieces.append(data[begin:at])
                begin = at
        yield [*pieces, data[begin:]]


def test_characters_are_never_split():
    for pieces in splits(SAMPLE.encode()):
        assembler = Plain()
        texts = [assembler.feed(piece) for piece in pieces]
        assert "\ufffd" not in "".join(texts)
        assert "".join(texts) + assembler.finish() == SAMPLE


def test_bytes_that_are_no_utf_8_become_replacement_characters():
    assembler = Plain()
    assert assembler.feed(b"a\xff") + assembler.feed(b"b\xe2\x82") + assembler.finish() == "a\ufffdb\ufffd"


def test_stop_strings_against_a_brute_force_reference():
    """Random texts over a small alphabet, random pieces, overlapping stop strings."""
    random = np.random.default_rng(0)
    for _ in range(3000):
        text = "".join(random.choice(list("ab\u00e4"), random.integers(1, 14)))
        stops = ["".join(random.choice(list("ab\u00e4"), random.integers(1, 4))) for _ in range(random.integers(0, 3))]
        data = text.encode()
        cuts = sorted(set(random.integers(1, len(data) + 1, 6).tolist()) | {len(data)})
        pieces = [data[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        assembler = Plain(stops)
        shown, fed = "", 0
        for piece in pieces:
            shown += assembler.feed(piece)
            fed += 1
            assert not any(s in shown for s in stops)
            if assembler.stopped:
                break
        shown += assembler.finish()
        if any(s in text for s in stops):
            assert assembler.stopped
            # the first stop string that becomes complete while reading ends the text
            end = min(text.find(s) + len(s) for s in stops if s in text)
            decoded = b"".join(pieces[:fed]).decode("utf-8", "ignore")
            assert len(decoded) >= end
            assert text.startswith(shown) and not any(s in shown for s in stops)
            assert shown == text[: min(decoded.find(s) for s in stops if s in decoded)]
        else:
            assert shown == text


def test_text_that_begins_a_stop_string_is_held_back_until_decided():
    assembler = Plain(["\n\ndef"])
    assert [assembler.feed(piece) for piece in (b"x", b"\n", b"\n", b"d", b"o")] == ["x", "", "", "", "\n\ndo"]


@pytest.mark.parametrize("stop", ["abc", "c", "bc"])
def test_tokens_that_wrote_nothing_of_the_text_are_not_delivered(stop: str):
    assembler = Plain([stop])
    for piece in (b"xa", b"b", b"c", b"d"):
        assembler.feed(piece)
        if assembler.stopped:
            break
    expected = {"abc": 1, "bc": 1, "c": 2}[stop]
    assert assembler.assembler.delivered_tokens == expected
