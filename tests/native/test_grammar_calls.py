"""Calls in Gemma 4's syntax, held to the tools' schemas."""

from typing import Any

import numpy as np
import pytest

from pyllama_mtp import InvalidRequestError, Model
from pyllama_mtp._library import ffi
from pyllama_mtp._matcher import IN_TEXT, Matcher, Thoughts
from pyllama_mtp.chat.calls import MAX_DEPTH, parse_call
from pyllama_mtp.chat.formats import PLAIN, OutputFormat, output_format
from pyllama_mtp.grammar.build import calls_of, either
from pyllama_mtp.grammar.constraints import Constraints
from pyllama_mtp.grammar.options import GrammarOptions

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["c", "f"]},
        "where": {
            "type": "object",
            "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
            "required": ["lat", "lon"],
        },
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
        "flag": {"type": ["boolean", "null"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}$"},
        "tree": {"$ref": "#/$defs/tree"},
        "either": {"anyOf": [{"type": "integer"}, {"const": "x"}]},
        "any": {},
    },
    "required": ["city", "unit"],
    "$defs": {"tree": {"type": "object", "properties": {"v": {"type": "integer"}, "l": {"$ref": "#/$defs/tree"}}}},
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "?", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "stop"}},
]


def written(body: str) -> str:
    """A call, with ' for the quote token."""
    return f"<|tool_call>call:{body}<tool_call|>".replace("'", '<|"|>')


class Judge:
    """Whether the tokens of a text are allowed, one after another, and whether it may end there."""

    def __init__(self, model: Model):
        self.model = model
        self.marks = output_format(model._loop.native)
        self.tokenizer = Constraints(model._loop.native, self.marks, model.info.n_vocab)._tables()

    def allows(self, text: str, grammar: bytes) -> bool:
        matcher = Matcher(self.tokenizer, grammar, Thoughts())
        functions, handle = matcher._functions, matcher._matcher
        mask = np.zeros((self.model.info.n_vocab + 31) // 32, np.uint32)
        for token in self.model.tokenize(text, add_special=False):
            assert (
                functions.llg_matcher_compute_mask_into(handle, ffi.from_buffer("uint32_t *", mask), mask.nbytes) == 0
            )
            if not mask[token // 32] >> (token % 32) & 1:
                return False
            assert functions.llg_matcher_consume_tokens(handle, [token], 1) == 0
        return bool(functions.llg_matcher_is_accepting(handle))


@pytest.fixture(scope="module")
def judge(demo_model: Model) -> Judge:
    return Judge(demo_model)


@pytest.mark.parametrize(
    "body, allowed",
    [
        ("weather{city:'Paris',unit:'c'}", True),
        ("weather{unit:'c',days:3,city:'a \"b\" {,}:[]'}", True),  # any order, any text
        ("weather{city:'',unit:'f',where:{lon:1.5,lat:-2e3},tags:['a','bcdef'],flag:true}", True),
        ("weather{city:'x',unit:'c',any:{x:[1,null,{y:'z'}]},flag:null,code:'AB'}", True),
        ("weather{city:'x',unit:'c',tree:{l:{l:{v:1}},v:2},either:'x'}", True),
        ("weather{city:'x',unit:'c',either:12,tags:[]}", True),
        ("weather{unit:'c'}", False),  # city is required
        ("weather{city:'x',unit:'k'}", False),
        ("weather{city:'x',unit:'c',unit:'f'}", False),  # twice
        ("weather{city:'x',unit:'c',days:0}", False),
        ("weather{city:'x',unit:'c',days:15}", False),
        ("weather{city:'x',unit:'c',where:{lat:1}}", False),
        ("weather{city:'x',unit:'c',tags:['abcdef']}", False),
        ("weather{city:'x',unit:'c',tags:['a','b','c']}", False),
        ("weather{city:'x',unit:'c',code:'abc'}", False),
        ("weather{city:'x',unit:'c',either:'y'}", False),
        ("weather{city:'x',unit:'c',more:1}", False),
        ("weather{city:x,unit:'c'}", False),
        ("weather{city: 'x',unit:'c'}", False),
        ("weather{'city':'x',unit:'c'}", False),
        ("other{}", False),
        ("stop{}", True),
    ],
)
def test_a_call_is_one_of_its_schema(judge: Judge, body: str, allowed: bool):
    grammar = either(None, calls_of(TOOLS, None, True, judge.marks))
    assert judge.allows(written(body), grammar) is allowed
    assert judge.allows(written(body) + written("stop{}"), grammar) is allowed


def test_choices_of_tools(judge: Judge):
    one = either(None, calls_of(TOOLS, "stop", False, judge.marks))
    assert judge.allows(written("stop{}"), one)
    assert not judge.allows(written("stop{}") * 2, one)
    assert not judge.allows(written("weather{city:'x',unit:'c'}"), one)
    form = {"lark_grammar": 'start: "yes" | "no"'}
    both = either(form, calls_of(TOOLS, None, True, judge.marks))
    assert judge.allows("yes", both) and judge.allows(written("stop{}"), both) and not judge.allows("maybe", both)
    with pytest.raises(InvalidRequestError, match="names 'none', expected one of weather, stop"):
        calls_of(TOOLS, "none", False, judge.marks)


def tool(**parameters: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def alternatives(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(n):
        schema = {"anyOf": [schema, {"type": "null"}]}
    return schema


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"properties": {"a": {}}},
        {
            "properties": {"a": {"$ref": "#/$defs/list"}},
            "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}},
        },
        {"properties": {"a": {"type": "array", "items": {}}}},
    ],
)
@pytest.mark.parametrize("n", [1, MAX_DEPTH, MAX_DEPTH + 1])
def test_calls_nest_as_deep_as_they_are_read(judge: Judge, parameters: dict[str, Any], n: int):
    """Grammars allowed what readers then took for text."""
    text = "call:f{a:" + "[" * n + "]" * n + "}"
    is_read = parse_call(text, [], '<|"|>') is not None
    grammar = either(None, calls_of(tool(**parameters), None, True, judge.marks))
    assert judge.allows(f"<|tool_call>{text}<tool_call|>", grammar) is is_read is (n <= MAX_DEPTH)


def test_objects_nest_as_deep_as_they_are_read(judge: Judge):
    node = {"properties": {"v": {"type": "integer"}, "l": {"$ref": "#"}}}
    for parameters in (
        {},
        node,
        node | {"properties": node["properties"] | {"deep": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
    ):
        grammar = either(None, calls_of(tool(**parameters), None, True, judge.marks))
        for n in (MAX_DEPTH, MAX_DEPTH + 1):
            text = "call:f" + "{l:" * n + "{}" + "}" * n
            is_read = parse_call(text, [], '<|"|>') is not None
            assert judge.allows(f"<|tool_call>{text}<tool_call|>", grammar) is is_read is (n <= MAX_DEPTH)


def test_a_type_beside_constants_and_alternatives_counts(judge: Judge):
    """It was ignored."""
    listed = {"type": "integer", "enum": [1, "x", None]}
    either_ = {"type": "string", "anyOf": [{"const": "y"}, {"maxLength": 1}]}
    grammar = either(None, calls_of(tool(properties={"a": listed, "b": either_}), None, True, judge.marks))
    assert judge.allows(written("f{a:1,b:'z'}"), grammar) and judge.allows(written("f{b:'y'}"), grammar)
    assert not any(judge.allows(written(body), grammar) for body in ("f{a:'x'}", "f{a:null}", "f{b:1}", "f{b:'zz'}"))


@pytest.mark.parametrize(
    "tools, message",
    [
        (tool(properties={"a": {"type": "string", "format": "date"}}), "f.a uses format"),
        (tool(properties={"a": {"not": {}}}), "f.a uses not"),
        (tool(properties={"a": {"type": "array", "uniqueItems": True}}), "f.a uses uniqueItems"),
        (tool(properties={"a": {"type": "array", "prefixItems": []}}), "f.a uses prefixItems"),
        (tool(properties={"a": {"type": "thing"}}), "type 'thing'"),
        (tool(properties={"a": {"$ref": "#/nowhere"}}), "refers to '#/nowhere'"),
        (tool(properties={"a b": {}}), "property 'a b', which a bare key cannot be"),
        (tool(properties={"a": {}}, required=["b"]), "requires 'b'"),
        (tool(properties={f"p{i}": {} for i in range(65)}), "65 properties, expected at most 64"),
        (tool(properties={"a": {"enum": []}}), "enum"),
        (tool(properties={"a": False}), "expected a schema that some value meets"),
        (tool(properties={"a": {"oneOf": [{"type": "integer"}, {"type": "integer"}]}}), "oneOf"),
        (tool(properties={"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}), "oneOf"),
        (tool(properties={"a": {"oneOf": [{"type": "string"}, {"const": "x"}]}}), "oneOf"),
        (tool(properties={"a": {"oneOf": [{"const": 10**400}, {"const": 1}, {"const": 1.0}]}}), "oneOf"),
        (tool(properties={"a": {"oneOf": [{"type": "string"}, {"enum": ["x"]}]}}), "oneOf"),
        (
            tool(properties={"a": {"type": "string", "anyOf": [{"type": "integer"}]}}),
            "another type than the one beside",
        ),
        (tool(properties={"a": {"type": "string", "enum": [1, None]}}), "none of which is of its type"),
        (tool(properties={"a": {"$ref": "#"}}, required=["a"]), "nest deeper than 64"),
        (tool(properties={"a": alternatives(2000)}), "nested too deeply|not of JSON's types"),
        (
            tool(properties={"a": {"type": "array", "items": {}, "minItems": 3, "maxItems": 2}}),
            "3 as its minItems and 2 as its maxItems",
        ),
        ([{"function": {"name": "a b"}}], "a tool is"),
        ([{"function": {"name": "f", "parameters": [1]}}], "expected a JSON schema"),
        ([{"function": {"name": "f", "parameters": {"x": {1}}}}], "not of JSON's types"),
    ],
)
def test_what_calls_cannot_be_held_to_is_refused_by_name(judge: Judge, tools: list[dict[str, Any]], message: str):
    with pytest.raises(InvalidRequestError, match=message):
        calls_of(tools, None, True, judge.marks)


def test_what_a_choice_restricts(demo_model: Model, judge: Judge):
    """Not given: nothing; "auto": a call from its token on; "none": that token."""
    prompt = demo_model.tokenize("import os\n")
    constraints = Constraints(demo_model._loop.native, judge.marks, demo_model.info.n_vocab)

    def struct(choice: object, **options: object) -> Any:
        made = constraints.of(GrammarOptions(tool_choice=choice, **options), TOOLS, prompt)
        return None if made is None else made._struct

    assert struct(None) is None
    auto, none, required = struct("auto"), struct("none"), struct("required")
    assert auto.phase == none.phase == IN_TEXT and auto.opens == none.opens == judge.marks.call_begin
    assert auto.matcher != ffi.NULL and none.matcher == ffi.NULL and required.phase != IN_TEXT
    assert struct("auto", regex="a").phase != IN_TEXT and struct("none", regex="a").phase != IN_TEXT
    plain = Constraints(demo_model._loop.native, PLAIN, demo_model.info.n_vocab)
    assert plain.of(GrammarOptions(tool_choice="auto"), TOOLS, prompt) is None
    with pytest.raises(InvalidRequestError, match="Gemma 4's tokens of calls"):
        plain.of(GrammarOptions(tool_choice="required"), TOOLS, prompt)
    assert isinstance(judge.marks, OutputFormat)
