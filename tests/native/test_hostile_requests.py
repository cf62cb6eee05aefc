"""Whatever a caller passes as messages, tools or schemas: it is taken, or an error of the package says why not."""

import random
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from pyllama_mtp import InvalidRequestError, Model, PyllamaMtpError
from pyllama_mtp.chat.response_template import read_template
from pyllama_mtp.chat.schema_reader import SchemaReader
from pyllama_mtp.chat.template_reader import TemplateReader
from pyllama_mtp.output_options import ResponseSchema
from support.real_chat import GEMMA4_31B, templates, with_template

MESSAGES = [{"role": "user", "content": "Hi"}]
ODD: list[Any] = [
    None, True, 0, -1, 10**9, 2**70, 1.5, float("nan"), float("inf"), "", "a", "\ud800", "\x00", "a/b\\/c\\\\/", "^$",
    "(", "#/$defs/x", "string", "object", b"bytes", [], [[]], [{}], {}, {"a": {}}, {1: 2}, {"type": []}, {"$ref": []},
    np.float32("nan"), np.int64(3), np.array([1, 2]), {1, 2}, object(), MappingProxyType({"type": "integer"}), len,
]  # fmt: skip
KEYWORDS = (
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum", "const", "anyOf",
    "oneOf", "allOf", "$ref", "$defs", "pattern", "minLength", "maxLength", "minimum", "maximum", "multipleOf",
    "format", "nullable", "x-guidance", "patternProperties", "minProperties", "title",
)  # fmt: skip
PATTERNS = ("x-regex", "x-regex-iterator", "x-regex-key-value", "x-parser", "const", "default", *KEYWORDS[:5])
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


@pytest.fixture(scope="module")
def model(demo, archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The embedded pair with Gemma 4's template."""
    path = with_template(demo.target, tmp_path_factory.mktemp("hostile") / "t.gguf", templates(archive)[GEMMA4_31B])
    with Model(path, n_ctx=2048, n_threads=1) as model:
        yield model


def a_schema(draw: random.Random, keywords: tuple[str, ...], depth: int = 3) -> Any:
    """A schema that is mostly one, with something odd in many places."""
    if depth == 0 or draw.random() < 0.1:
        return draw.choice(ODD)
    schema: dict[str, Any] = {"type": draw.choice(TYPES)} if draw.random() < 0.7 else {}
    for key in draw.sample(keywords, draw.randrange(4)):
        if key in ("properties", "$defs", "patternProperties"):
            schema[key] = {name: a_schema(draw, keywords, depth - 1) for name in draw.sample(["a", "b", "c d", "x"], 2)}
        elif key in ("items", "additionalProperties"):
            schema[key] = a_schema(draw, keywords, depth - 1)
        elif key in ("anyOf", "oneOf", "allOf"):
            schema[key] = [a_schema(draw, keywords, depth - 1) for _ in range(2)]
        elif key.startswith("x-regex"):
            schema[key] = draw.choice(["(.*)", "(?P<key>\\w+)=(?P<value>\\w+)", "(a)(b)", "(?P<a>x)", *ODD])
        elif key == "x-parser":
            schema[key] = draw.choice(["json", "gemma4-tool-call", draw.choice(ODD)])
        else:
            schema[key] = draw.choice(ODD)
    return schema


def begin(model: Model, messages: Any, **options: Any) -> bool:
    """Whether it was taken; an error that is none of the package's fails the test."""
    try:
        model.generate(messages, max_tokens=1, **options).text()
    except PyllamaMtpError as error:
        assert len(str(error)) < 4000
        return False
    return True


@pytest.mark.parametrize("begins", range(4))
def test_schemas_of_tools(model: Model, begins: int):
    """Lists where a name or a reference was expected ended in a TypeError."""
    draw = random.Random(begins)
    taken = 0
    for _ in range(60):
        tools = [{"type": "function", "function": {"name": "f", "parameters": a_schema(draw, KEYWORDS)}}]
        taken += begin(model, MESSAGES, tools=tools, tool_choice=draw.choice(["required", "auto"]))
    assert 0 < taken < 60


def test_schemas_of_responses(model: Model):
    draw = random.Random(5)
    schemas = [a_schema(draw, KEYWORDS) for _ in range(200)]
    forms = [{"type": "json_schema", "json_schema": {"schema": schema}} for schema in schemas]
    taken = sum(begin(model, MESSAGES, response_format=form) for form in [*forms, *ODD])
    assert 0 < taken < 200


@pytest.mark.parametrize("option", ["regex", "grammar", "choice", "tool_choice", "logits_mask", "response_schema"])
def test_other_options(model: Model, option: str):
    for odd in [*ODD, *([odd] for odd in ODD)]:
        begin(model, MESSAGES, **{option: odd})


def test_messages_and_tools(model: Model):
    for odd in ODD:
        for message in (
            odd,
            {"role": odd, "content": "x"},
            {"role": "user", "content": odd},
            {"role": "user", "content": [odd]},
            {"role": "user", "content": [{"type": odd, "text": odd}]},
            {"role": "assistant", "content": None, "tool_calls": odd},
            {"role": "assistant", "content": None, "tool_calls": [odd]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": odd}}]},
            {"role": "assistant", "content": "x", "reasoning_content": odd},
            {"role": "tool", "tool_call_id": odd, "name": odd, "content": "x"},
        ):
            begin(model, [MESSAGES[0], message])
        begin(model, odd)
        begin(model, MESSAGES, chat_template_kwargs=odd)
        begin(model, MESSAGES, chat_template_kwargs={"enable_thinking": odd})
        for tools in (
            odd,
            [odd],
            [{"function": odd}],
            [{"function": {"name": odd}}],
            [{"function": {"name": "f", "description": odd}}],
        ):
            begin(model, MESSAGES, tools=tools, tool_choice="auto")


def test_what_reads_an_output_raises_nothing():
    """A pattern without the groups that it needs ended in an IndexError, on the thread that steps for all."""
    draw = random.Random(3)
    texts = ["", "a=b c=d", '{"a": [1, {}], "tool_calls": 3}', "\ufffd\x00", 'call:f{a:<|"|>x<|"|>}', "[1]", "9" * 5000]
    checked = 0
    for _ in range(1500):
        schema = a_schema(draw, PATTERNS)
        if isinstance(schema, dict) and draw.random() < 0.7:
            fields = {name: a_schema(draw, PATTERNS) for name in ("content", "tool_calls")}
            schema |= {"type": "object", "properties": fields}
        try:
            schema = ResponseSchema().check("response_schema", schema)
        except InvalidRequestError:
            continue
        checked += 1
        for text in texts:
            reader = SchemaReader(schema)
            reader.feed(5, text.encode(), 1)
            pieces = reader.finish()
            assert b"".join(piece.data for piece in pieces) or not text
    assert checked > 100


def test_what_reads_an_output_by_a_template_raises_nothing():
    draw = random.Random(4)
    checked = 0
    for _ in range(600):
        field = {"open": "<", "close": ">", "content": draw.choice(["json", "text", "int", "xml-inline", "kv-lines"])}
        field |= {draw.choice(["open_pattern", "transform", "content_args", "repeats", "join"]): draw.choice(ODD)}
        field |= {
            "content_args": {draw.choice(["tag_pattern", "string_delims", "value_parser", "strip"]): draw.choice(ODD)}
        }
        field |= {"content": draw.choice(ODD)} if draw.random() < 0.1 else {}
        template = {"start_anchor": "|", "fields": {"content": {}, "tool_calls": field}}
        try:
            read = read_template(ResponseSchema().check("response_schema", template))
        except InvalidRequestError:
            continue
        checked += 1
        for text in ("<1>", '<{"name": "f"}>', "<a=1>x<[{}]>", "<\n:>", "<<>>"):
            reader = TemplateReader(read, "|")
            for number, byte in enumerate(text.encode(), 1):
                reader.feed(byte, bytes([byte]), number)
            reader.finish()
    assert checked > 100


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"properties": {"a": {"$ref": []}}}, "refers to"),
        ({"properties": {"a": {"type": 5}}}, "type 5"),
        ({"properties": {"a": {}}, "required": [[]]}, "requires"),
        ({"properties": {"a": {"const": float("nan")}}}, "not of JSON's types"),
        ({"anyOf": [{"type": "string"}]}, "uses anyOf"),
        ({"type": "string"}, "expected a schema of objects"),
        ({"properties": {"a": {"type": "string", "maxLength": 10**9}}}, "expected integers in 0..100000"),
        ({"properties": {"a": {"type": "array", "items": {}, "minItems": True}}}, "True as its minItems"),
        ({"properties": {"a": {"enum": ["x"], "minLength": 2}}}, "uses minLength"),
        ({"properties": {'a"': {}}}, "which a bare key cannot be"),
    ],
)
def test_what_tools_may_not_ask_for(model: Model, parameters: dict[str, Any], message: str):
    with pytest.raises(PyllamaMtpError, match=message):
        model.generate(MESSAGES, tools=[{"function": {"name": "f", "parameters": parameters}}], tool_choice="required")


def test_many_tools(model: Model):
    tools = [
        {"function": {"name": f"f{i}", "parameters": {"properties": {"a": {"type": "integer"}}}}} for i in range(20_000)
    ]
    assert not begin(model, MESSAGES, tools=tools, tool_choice="required")
    template = "{{ messages[0].content }}"
    assert begin(model, MESSAGES, tools=tools[:300], tool_choice="required", chat_template=template)
