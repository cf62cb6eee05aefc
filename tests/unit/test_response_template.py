"""A response_template means here what it means in transformers; an older response_schema what its publishers say."""

import copy
import random

import pytest

from pyllama_mtp import InvalidRequestError
from pyllama_mtp.chat import fields
from pyllama_mtp.chat.response_schema import check_schema
from pyllama_mtp.chat.response_template import read_template
from pyllama_mtp.chat.schema_reader import SchemaReader
from pyllama_mtp.chat.template_reader import TemplateReader
from pyllama_mtp.options import Request
from pyllama_mtp.text import Shown, TextAssembler

Q = '<|"|>'
CALL = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
GEMMA4 = {
    "defaults": {"role": "assistant"},
    "start_anchor": ["<|turn>model\n", "<tool_response|>"],
    "fields": {
        "reasoning_content": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [[Q, Q]]},
            "transform": CALL,
        },
        "content": {"close": ["<turn|>", "<|tool_response>", "<eos>"], "content": "text"},
    },
}
IM = "<|im_start|>assistant\n"
QWEN = {
    "start_anchor": IM,
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
    },
}
QWEN_XML = copy.deepcopy(QWEN)
QWEN_XML["fields"]["tool_calls"] = {
    "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
    "close_pattern": r"</function>\s*</tool_call>",
    "repeats": True,
    "content": "xml-inline",
    "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
    "transform": CALL,
}
LINES = {
    "start_anchor_pattern": "A(?:I|ssistant):",
    "fields": {
        "content": {"open": ["<answer>", "<answer>>"], "close": "</answer>", "content_args": {"strip": False}},
        "tool_calls": {
            "open": "[", "close": "]", "content": "kv-lines", "content_args": {"line_sep": ";", "kv_sep": "="},
            "transform": {"name": "{content.name}", "arguments": "{content}"},
        },
    },
}  # fmt: skip
MANY = {
    "start_anchor": ">",
    "fields": {
        "tool_calls": {
            "open": "CALLS", "close": "END", "content": "json", "transform": {"name": "{n}", "arguments": "{a}"},
            "transform_each": True,
        },
        "content": {},
    },
}  # fmt: skip

TEXTS = [
    (GEMMA4, "<|turn>model\n", "Hello <b>there</b>.<turn|>"),
    (GEMMA4, "<|turn>user\nx<turn|>\n<|turn>model\n", "<|channel>thought\nLet me see.\n<channel|>  Hi \n<turn|>"),
    (GEMMA4, "<|turn>model\n<|channel>thought\n", "Open.<channel|>Hi"),
    (GEMMA4, "<|turn>model\n<|channel>thought\n<channel|>", "Hi"),
    (GEMMA4, "<|turn>model\n", f"<|tool_call>call:f{{a:{Q}x{Q},b:[1,{{c:2}}]}}<tool_call|><|tool_response>"),
    (GEMMA4, "<|turn>model\n", f"No<|tool_call>call:f{{a:{Q}\"x\"{Q}}}<tool_call|><|tool_call>call:g{{}}<tool_call|>"),
    (GEMMA4, "x<tool_response|>", "It is 3 degrees.<turn|>"),
    (GEMMA4, "<|turn>model\n", "<|channel>thought\ncut off"),
    (GEMMA4, "<|turn>model\n", "<|channel>thou"),
    (QWEN, "<|im_start|>assistant\n<think>\n", 'Hm.\n</think>\n\nHi <|im_end|>\n<|endoftext|>'),
    (QWEN, IM, 'Ok.\n<tool_call>\n{"name": "f", "arguments": {"a": [null]}}\n</tool_call><|im_end|>'),
    (QWEN_XML, IM, "<tool_call>\n<function=f>\n<parameter=x>\n 1 \n</parameter>\n</function>\n</tool_call>"),
    (LINES, "AI: no. Assistant:", "drop<answer> kept  </answer>drop[name=f;b = 2 ;;c]drop"),
    (LINES, "Assistant:", "<answer>>two</answer>"),
    (MANY, "", 'text CALLS[{"n": "f", "a": {}}, {"n": "g", "a": {"x": 1}}]END'),
]  # fmt: skip


def read(reader, written: str, rng: random.Random | None = None) -> tuple[str, str, list, bool]:
    assembler, shown = TextAssembler(reader=reader), Shown()
    data = written.encode()
    while data:
        n = len(data) if rng is None else rng.randint(1, 9)
        assembler.feed(0, data[:n], shown)
        data = data[n:]
    assembler.finish(shown)
    return shown.text, shown.reasoning, [(call.name, call.arguments) for call in shown.calls], shown.malformed


@pytest.mark.parametrize("index", range(len(TEXTS)))
def test_complete_outputs_are_read_as_transformers_reads_them(index: int):
    from transformers.utils.chat_parsing import parse_response

    template, prompt, written = TEXTS[index]
    theirs = parse_response(written, template, prefix=prompt)
    calls = theirs.get("tool_calls") or []
    functions = [call.get("function", call) for call in ([calls] if isinstance(calls, dict) else calls)]
    thought = theirs.get("reasoning_content", theirs.get("thinking", ""))
    expected = (theirs.get("content", ""), thought, [(f["name"], f["arguments"]) for f in functions], False)
    assert read(TemplateReader(read_template(template), prompt), written) == expected
    for seed in range(20):
        assert read(TemplateReader(read_template(template), prompt), written, random.Random(seed)) == expected


def test_text_comes_before_its_region_ends():
    reader = TemplateReader(read_template(GEMMA4), "<|turn>model\n")
    told = [[(p.kind, p.data) for p in reader.feed(0, data, n)] for n, data in enumerate((b"a", b" b", b"<", b"x"), 1)]
    assert told == [[("text", b"a")], [("text", b" b")], [], [("text", b"<"), ("text", b"x")]]


def test_nothing_is_lost_or_told_twice():
    rng = random.Random(1)
    fragments = [
        "<|channel>thought\n",
        "<channel|>",
        "<|tool_call>call:f",
        "<tool_call|>",
        "{}",
        "{a:1}",
        "\u20ac",
        " ",
    ]
    fragments += ["<turn|>", "<|chan", "thought", "\n", "x", "<", "\U0001f600", "\n\n"]
    for _ in range(1000):
        written = "".join(rng.choice(fragments) for _ in range(rng.randint(1, 12)))
        reader, pieces, data, n = TemplateReader(read_template(GEMMA4), ""), [], written.encode(), 0
        fed = b""
        while data and rng.random() > 0.02:
            size = rng.randint(1, 7)
            pieces += reader.feed(0, data[:size], n := n + 1)
            fed, data = fed + data[:size], data[size:]
        pieces += reader.finish()
        assert b"".join(piece.data for piece in pieces).decode() == fed.decode("utf-8", "replace")
        assert all(a.last <= b.first for a, b in zip(pieces, pieces[1:], strict=False))


def test_calls_that_are_none_are_text():
    for body in ("{a:}", "{", "[1]", "{}{}"):
        written = f"Hi<|tool_call>call:f{body}<tool_call|>"
        assert read(TemplateReader(read_template(GEMMA4), ""), written) == (written, "", [], True)


def test_states_are_restored():
    for template, prompt, written in TEXTS:
        reader = TemplateReader(read_template(template), prompt)
        for n, byte in enumerate(written.encode()):
            saved = reader.save()
            first = reader.feed(0, bytes([byte]), n)
            reader.restore(saved)
            assert [p[:4] for p in reader.feed(0, bytes([byte]), n)] == [p[:4] for p in first]


def test_a_pattern_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """Patterns come with files: (a+)+$ on a long text would not end in a lifetime."""
    monkeypatch.setattr("pyllama_mtp.chat.template_reader.SEARCH_SECONDS", 0.1)
    slow = {"start_anchor": ">", "fields": {"content": {"close_pattern": r"(?:(?:a|aa)+)+!"}}}
    text = "a" * 60 + "b"
    assert read(TemplateReader(read_template(slow), ""), text)[0] == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 1"),
        ({"more": 1}, "more"),
        ({"start_anchor": None}, "start_anchor"),
        ({"start_anchor": []}, "start_anchor"),
        ({"fields": {"audio": {}}}, "audio"),
        ({"fields": {"content": 3}}, "content has 3"),
        ({"fields": {"content": {"opens": "x"}}}, "opens"),
        ({"fields": {"content": {}, "thinking": {}}}, "no open"),
        ({"fields": {"tool_calls": {}}}, "no open"),
        ({"fields": {"content": {"content": "json"}}}, "'json'"),
        ({"fields": {"content": {"open": "a", "open_pattern": "b"}}}, "both"),
        ({"fields": {"content": {"open_pattern": "("}}}, "no pattern"),
        ({"fields": {"content": {"open_pattern": "x" * 20_000}}}, "16384"),
        ({"fields": {"content": {"join": 3, "repeats": True}}}, "join"),
    ],
)
def test_templates_that_are_none(change: dict, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        Request("x", response_schema=GEMMA4 | change)


# As published in tokenizer_config.json.
PUBLISHED = {
    "type": "object",
    "properties": {
        "role": {"const": "assistant"},
        "thinking": {"type": "string"},
        "content": {"type": "string"},
        "tool_calls": {
            "x-regex-iterator": r"<\|tool_call>(.*?)<tool_call\|>",
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "x-regex": r"call\:(?P<name>\w+)(?P<arguments>\{.*\})",
                        "properties": {
                            "name": {"type": "string"},
                            "arguments": {
                                "type": "object",
                                "x-parser": "gemma4-tool-call",
                                "additionalProperties": {},
                            },
                        },
                    },
                },
            },
        },
    },
    "x-regex": r"(\<\|channel\>thought\n(?P<thinking>.*?)\<channel\|\>)?"
    r"(?P<tool_calls>\<\|tool_call\>.*\<tool_call\|\>)?(?P<content>(?:(?!\<turn\|\>)(?!\<\|tool_response\>).)+)?(?:\<turn\|\>|\<\|tool_response\>)?",
}


def test_the_published_schema():
    call = f"<|tool_call>call:f{{a:{Q}x{Q},b:1}}<tool_call|>"
    cases = {
        "Hi.<turn|>": ("Hi.", "", [], False),
        "<|channel>thought\nHm.<channel|>Hi.<turn|>": ("Hi.", "Hm.", [], False),
        f"<|channel>thought\nHm.<channel|>{call}<|tool_response>": ("", "Hm.", [("f", {"a": "x", "b": 1})], False),
        call + call: ("", "", [("f", {"a": "x", "b": 1})] * 2, False),
        "<|tool_call>call:f{a:}<tool_call|>": ("<|tool_call>call:f{a:}<tool_call|>", "", [], True),
        "": ("", "", [], False),
    }
    for written, expected in cases.items():
        assert read(SchemaReader(PUBLISHED), written) == expected
        assert read(SchemaReader(PUBLISHED), written, random.Random(1)) == expected


def test_values_of_a_schema():
    schema = {
        "type": "object",
        "properties": {
            "content": {"type": "string", "x-regex": "<a>(.*?)</a>"},
            "tool_calls": {
                "type": "array",
                "x-regex-iterator": "<f=(?P<name>\\w+)>(?P<arguments>.*?)</f>",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "arguments": {
                            "type": "object",
                            "x-regex-key-value": "(?P<key>\\w+)=(?P<value>\\w+)",
                            "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
                            "additionalProperties": {"type": "string"},
                        },
                    },
                },
            },
        },
    }
    got = read(SchemaReader(schema), "<a>Hi</a><f=g>n=3 ok=true s=x</f>")
    assert got == ("Hi", "", [("g", {"n": 3, "ok": True, "s": "x"})], False)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "x-mapping": {}},
        {"x-parser": "python_type"},
        {"x-regex": "("},
        {"x-regex": 3},
        {"type": "null"},
        {"type": ["string"]},
        {"properties": []},
        {"properties": {"a": 3}},
    ],
)
def test_schemas_that_are_refused(schema: dict):
    with pytest.raises(InvalidRequestError, match="response_schema"):
        check_schema(schema)
    with pytest.raises(InvalidRequestError, match="response_schema"):
        Request("x", response_schema=schema)


def test_fields_that_are_malformed_say_so():
    for item in (None, 3, {}, {"name": 1}, {"name": "f", "arguments": 3}, {"name": "f", "arguments": "{"}):
        with pytest.raises(fields.FieldError):
            fields.name_and_arguments(item)
    assert fields.name_and_arguments({"name": "f", "arguments": '{"a": 1}'}) == ("f", {"a": 1})
