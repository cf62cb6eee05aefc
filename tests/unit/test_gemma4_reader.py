"""What Gemma 4 writes is split into text, thoughts and calls, and no byte is lost or told twice."""

import random
from typing import NamedTuple

import pytest

from pyllama_mtp.chat.calls import parse_call
from pyllama_mtp.chat.formats import OutputFormat, output_format
from pyllama_mtp.chat.gemma4 import Gemma4Reader
from pyllama_mtp.chat.reader import Piece
from pyllama_mtp.text import Shown, TextAssembler

MARKS = ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>', "<|tool_response>", "<turn|>"]
FORM = OutputFormat("gemma4", *range(1000, 1007))
IDS = {mark: 1000 + index for index, mark in enumerate(MARKS)}
Q = '<|"|>'
CALL = f"<|tool_call>call:get_weather{{city:{Q}Oslo{Q},days:3}}<tool_call|>"
THOUGHT = "<|channel>thought\nLet me see.\n<channel|>"


class Token(NamedTuple):
    id: int
    data: bytes


def token_bytes(token: int) -> bytes:
    return MARKS[token - 1000].encode()


def tokens_of(text: str, rng: random.Random | None = None) -> list[Token]:
    """Marks are tokens of their own; what is between them is cut anywhere, within characters too (rng), or whole."""
    tokens: list[Token] = []
    while text:
        at, mark = min(((text.find(m), m) for m in MARKS if m in text), default=(len(text), ""))
        data = text[:at].encode()
        while data:
            n = len(data) if rng is None else rng.randint(1, 5)
            tokens.append(Token(7, data[:n]))
            data = data[n:]
        if mark:
            tokens.append(Token(IDS[mark], mark.encode()))
        text = text[at + len(mark) :]
    return tokens


class Read(NamedTuple):
    text: str
    reasoning: str
    calls: list[tuple[str, dict]]
    malformed: bool


def read(written: str, rng: random.Random | None = None, opening: str = "", **options) -> Read:
    reader = Gemma4Reader(FORM, token_bytes)
    for token in tokens_of(opening):
        reader.feed(*token, 0)
    assembler, shown = TextAssembler(reader=reader, **options), Shown()
    for token in tokens_of(written, rng):
        assembler.feed(*token, shown)
        if assembler.stopped:
            break
    assembler.finish(shown)
    return Read(shown.text, shown.reasoning, [(c.name, c.arguments) for c in shown.calls], shown.malformed)


WEATHER = ("get_weather", {"city": "Oslo", "days": 3})

CASES = {
    "text": ("Hello.", Read("Hello.", "", [], False)),
    "thought": (THOUGHT + "Hello.", Read("Hello.", "Let me see.", [], False)),
    "empty thought": ("<|channel>thought\n<channel|>Hello.", Read("Hello.", "", [], False)),
    "call": (CALL, Read("", "", [WEATHER], False)),
    "thought and call": (THOUGHT + CALL, Read("", "Let me see.", [WEATHER], False)),
    "content and a call in one turn": ("Wait.\n" + CALL, Read("Wait.\n", "", [WEATHER], False)),
    "two calls": (CALL + CALL, Read("", "", [WEATHER, WEATHER], False)),
    "text after a call": (CALL + "Done.", Read("Done.", "", [WEATHER], False)),
    "a call and what ends the turn": (CALL + "<|tool_response>", Read("", "", [WEATHER], False)),
    # llama.cpp #21760
    "stray end of a thought": ("I will ...<channel|>" + CALL, Read("I will ...", "", [WEATHER], False)),
    "stray end first": ("<channel|>Hello.", Read("Hello.", "", [], False)),
    "repeated begin": ("<|channel><|channel>thought\nHm.\n<channel|>Hi", Read("Hi", "Hm.", [], False)),
    "begin within a thought": ("<|channel>thought\nA<|channel>thought\nB<channel|>Hi", Read("Hi", "AB", [], False)),
    "an empty thought without its begin": ("thought\n<channel|>Hi", Read("Hi", "", [], False)),
    # vLLM #54256
    "a call without its mark": (
        THOUGHT + f"call:bash{{command:{Q}ls{Q}}}",
        Read("", "Let me see.", [("bash", {"command": "ls"})], False),
    ),
    "the same with its end": (THOUGHT + CALL.removeprefix("<|tool_call>"), Read("", "Let me see.", [WEATHER], False)),
    "call: that is none": (THOUGHT + "call: a friend", Read("call: a friend", "Let me see.", [], False)),
    "call: where no thought was": ("call:f{}", Read("call:f{}", "", [], False)),
    # mlx-vlm #899
    "a thought without its title": ("<|channel>\nWhat?\n<channel|>4", Read("4", "What?", [], False)),
    "a channel of another name": ("<|channel>final\nX<channel|>4", Read("4", "final\nX", [], False)),
    # llama.cpp #25100
    "a begin at the end": ("Hi<|channel>", Read("Hi", "", [], False)),
    "a thought that does not end": ("<|channel>thought\nHm\n", Read("", "Hm\n", [], False)),
    "a title that was cut off": ("<|channel>thou", Read("", "", [], False)),
    # llama.cpp #22371
    "a mark in the text": ("The <|tool_call> token", Read("The <|tool_call> token", "", [], True)),
    # ollama #18275
    "another syntax": ("<|tool_call>call:ls:\nBEGIN_ARG", Read("<|tool_call>call:ls:\nBEGIN_ARG", "", [], True)),
    "a call cut off": ("<|tool_call>call:f{a:1", Read("<|tool_call>call:f{a:1", "", [], True)),
    "a call whose end is missing": ("<|tool_call>call:f{a:1}<turn|>", Read("", "", [("f", {"a": 1})], False)),
    "a call begun twice": ("<|tool_call>call:f{<|tool_call>call:f{}<tool_call|>", None),
    "a call within a thought": ("<|channel>thought\nSo:\n" + CALL, Read("", "So:\n", [WEATHER], False)),
    "quotes outside calls": (f"say {Q}hi{Q}", Read(f"say {Q}hi{Q}", "", [], False)),
    "a stray end of a call": ("a<tool_call|>b", Read("ab", "", [], False)),
    "marks within a string": (
        f"<|tool_call>call:f{{a:{Q}<|tool_call><channel|>{Q}}}<tool_call|>",
        Read("", "", [("f", {"a": "<|tool_call><channel|>"})], False),
    ),
}
CASES["a call begun twice"] = (CASES["a call begun twice"][0], Read("<|tool_call>call:f{", "", [("f", {})], True))


@pytest.mark.parametrize("case", CASES)
def test_what_models_were_seen_to_write(case: str):
    written, expected = CASES[case]
    assert read(written) == expected
    for seed in range(30):
        assert read(written, random.Random(seed)) == expected


@pytest.mark.parametrize(
    ("opening", "written", "expected"),
    [
        ("<turn|><|channel>thought\n", "Hm.\n<channel|>Hi", Read("Hi", "Hm.", [], False)),
        ("<|channel>", "thought\nHm.<channel|>Hi", Read("Hi", "Hm.", [], False)),
        ("<|channel>thought\n<channel|>", "Hi", Read("Hi", "", [], False)),
        ("<|channel>thought\n<channel|>", "<channel|>Hi", Read("Hi", "", [], False)),
        ("<|channel>thought\n<channel|>", "call:f{}", Read("", "", [("f", {})], False)),
        ("<|channel>thought\n<channel|>call:", "f{}", Read("", "", [("f", {})], False)),
        ("<|channel>thought\n<channel|>call:", " me", Read(" me", "", [], False)),
        ("<|tool_call>call:f{a:", "1}<tool_call|>", Read("", "", [("f", {"a": 1})], False)),
    ],
)
def test_the_prompt_says_where_the_model_begins(opening: str, written: str, expected: Read):
    assert read(written, opening=opening) == expected


CALLS = {
    "call:f{}": {},
    "call:f{ }": {},
    f"call:f{{a:{Q}{Q}}}": {"a": ""},
    f'call:f{{a:{Q}say "hi", {{x}}: [1]{Q}}}': {"a": 'say "hi", {x}: [1]'},
    f"call:f{{a:{Q}line\nline\\n{Q}}}": {"a": "line\nline\\n"},
    "call:f{a:1,b:-2.5e3,c:true,d:false,e:null,f:None}": {
        "a": 1, "b": -2500.0, "c": True, "d": False, "e": None, "f": None
    },
    f"call:f{{a:[1,[{Q}x{Q}],{{{Q}k{Q}:{{}}}}],b:[]}}": {"a": [1, ["x"], {"k": {}}], "b": []},
    f"call:f {{ first name : {Q}A{Q} , b : [ 1 , 2 ] }} ": {"first name": "A", "b": [1, 2]},
    'call:f{"a":"b\\n\\u00e9","c":1}': {"a": "b\n\u00e9", "c": 1},
    "call:f{a:1,a:2}": {"a": 2},
    "call:f{a:" + "[" * 60 + "]" * 60 + "}": None,
}  # fmt: skip


@pytest.mark.parametrize("written", CALLS)
def test_arguments(written: str):
    expected = CALLS[written]
    got = read(f"<|tool_call>{written}<tool_call|>")
    assert not got.malformed and got.text == "" and got.calls[0][0] == "f"
    assert expected is None or got.calls[0][1] == expected


@pytest.mark.parametrize(
    "written",
    [
        "", "call", "call:", "call:f", "f{}", "call:f{a}", "call:f{a:}", "call:f{a:1", "call:f{a:1,}", "call:f{,}",
        "call:f{a:b}", "call:f{a:01}", "call:f{a:1e999}", "call:f{a:NaN}", f"call:f{{a:{Q}x}}", "call:f{a:1}}",
        "call:f{}call:g{}", "call:f{a:1}x", "call:{}", "call:f[1]", 'call:f{a:"\\x"}', "call:f{a:" + "[" * 500_000,
        "call:f{a:" + "{a:" * 5000 + "1" + "}" * 5001, "call:f{a:" + "9" * 5000 + "}", "CALL:f{}",
    ],
)  # fmt: skip
def test_a_malformed_call_is_text_with_a_flag(written: str):
    whole = f"<|tool_call>{written}<tool_call|>"
    shown, text = read(whole), read("Hi" + whole)
    assert shown == Read(whole, "", [], True) and text == Read("Hi" + whole, "", [], True)


def test_letters_of_a_mark_that_other_tokens_wrote_are_text():
    reader, shown = Gemma4Reader(FORM, token_bytes), Shown()
    assembler = TextAssembler(reader=reader)
    written = [Token(IDS["<|tool_call>"], b"<|tool_call>"), Token(7, b"call:f{a:"), Token(IDS[Q], Q.encode())]
    written += [Token(7, Q.encode()), Token(7, b"<tool_call|>"), Token(IDS[Q], Q.encode()), Token(7, b"}")]
    for token in [Token(7, b"<|channel>"), *written, Token(IDS["<tool_call|>"], b"<tool_call|>")]:
        assembler.feed(*token, shown)
    assembler.finish(shown)
    assert shown.text == "<|channel>" and shown.calls[0].arguments == {"a": Q + "<tool_call|>"}
    assert parse_call("call:f{a:1}", [], Q) is not None


FRAGMENTS = [
    *MARKS,
    *MARKS[:5],
    "thought\n",
    "thought",
    "\n",
    "call:f",
    "call:",
    "{",
    "}",
    "a:",
    "1",
    ",",
    "[",
    "]",
    "x",
]
FRAGMENTS += ["\u00e9", "\u20ac", "\U0001f600", " ", '"', "true", CALL, THOUGHT, "STOP", "ST", "OP", "\n\n"]


def random_output(rng: random.Random) -> str:
    return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 14)))


def pieces_of(tokens: list[Token], opening: str = "") -> list[Piece]:
    reader = Gemma4Reader(FORM, token_bytes)
    for token in tokens_of(opening):
        reader.feed(*token, 0)
    pieces = [piece for number, token in enumerate(tokens, 1) for piece in reader.feed(*token, number)]
    return [*pieces, *reader.finish()]


def test_every_byte_is_in_one_piece_in_order():
    """Any output, any split, any truncation: the pieces are what was written, and marks are nothing but marks."""
    rng = random.Random(1)
    for _ in range(4000):
        tokens = tokens_of(random_output(rng), rng)
        tokens = tokens[: rng.randint(1, len(tokens))]
        pieces = pieces_of(tokens)
        assert b"".join(piece.data for piece in pieces) == b"".join(token.data for token in tokens)
        assert all(piece.first <= piece.last for piece in pieces)
        assert all(a.last <= b.first for a, b in zip(pieces, pieces[1:], strict=False))
        owners = [number for piece in pieces for number in range(piece.first, piece.last + 1)]
        assert sorted(set(owners)) == list(range(1, len(tokens) + 1))
        marks = b"".join(piece.data for piece in pieces if piece.kind == "mark")
        for mark in (*MARKS, "thought\n", "thought", "\n"):
            marks = marks.replace(mark.encode(), b"")
        assert b"thought\n".startswith(marks)


def test_what_is_shown_does_not_depend_on_how_it_was_cut():
    rng = random.Random(2)
    for _ in range(2000):
        written = random_output(rng)
        assert read(written, random.Random(rng.random())) == read(written)


def test_what_is_shown_is_what_the_pieces_say():
    """With stop strings: a beginning of it, that ends where the first one of a kind begins."""
    rng = random.Random(3)
    stops = [(), ("STOP",), ("x", "STOP"), ("\n\n", "ST")]
    n_stopped = 0
    for _ in range(4000):
        tokens, stop = tokens_of(random_output(rng), rng), rng.choice(stops)
        whole: dict[str, bytes] = {"text": b"", "reasoning": b""}
        for piece in pieces_of(tokens):
            if piece.kind in whole:
                whole[piece.kind] += piece.data
        assembler, shown = TextAssembler(stop, reader=Gemma4Reader(FORM, token_bytes)), Shown()
        counts = [0]
        for token in tokens:
            assembler.feed(*token, shown)
            assert not any(s in shown.text or s in shown.reasoning for s in stop)
            if assembler.stopped:
                break
            counts.append(assembler.delivered_tokens)
        assembler.finish(shown)
        assert counts == sorted(counts) and counts[-1] <= len(tokens)
        n_stopped += assembler.stopped
        for kind, data in whole.items():
            text, got = data.decode("utf-8", "replace"), getattr(shown, kind)
            first = min((text.find(s) for s in stop if s in text), default=len(text))
            if not assembler.stopped and "\ufffd" not in text + got:
                assert got == text and first == len(text)
            elif "\ufffd" not in text + got:
                assert text.startswith(got) and len(got) <= first
    assert n_stopped > 500


def test_states_are_restored():
    """What an interrupted step had fed is fed again: the same comes of it, ids of calls too."""
    rng = random.Random(4)
    for _ in range(300):
        tokens = tokens_of(random_output(rng) + CALL + random_output(rng), rng)
        assembler = TextAssembler(["STOP"], reader=Gemma4Reader(FORM, token_bytes))
        for at in range(len(tokens)):
            saved = assembler.save()
            first, again = Shown(), Shown()
            ahead = tokens[at : at + rng.randint(1, 6)]
            for token in ahead:
                if not assembler.stopped:
                    assembler.feed(*token, first)
            assembler.restore(saved)
            for token in ahead:
                if not assembler.stopped:
                    assembler.feed(*token, again)
            assert first == again
            assembler.restore(saved)
            assembler.feed(*tokens[at], Shown())
            if assembler.stopped:
                break


class Words:
    """A vocabulary of whole words."""

    def __init__(self, *words: str):
        self.words = [*'abcdefghijklmnopqrstuvwxyz<|>_"', *words]

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        word = text.decode()
        return [self.words.index(word)] if word in self.words else [self.words.index(c) for c in word]

    def token_bytes(self, token: int, special: bool) -> bytes:
        return self.words[token].encode()


def test_the_vocabulary_tells_the_format():
    assert output_format(Words()).name == "plain"
    assert output_format(Words("<|channel>")).name == "plain"
    whole = output_format(Words(*MARKS))
    assert whole.name == "gemma4" and len({getattr(whole, name) for name in list(OutputFormat.__slots__)[1:]}) == 7
    assert output_format(Words(*MARKS[2:])).thought_begin == -1
