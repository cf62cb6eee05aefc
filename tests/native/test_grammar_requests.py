"""What cannot be asked for: it is refused by name, within limits of size and time, before anything is generated."""

import json
import re
import time
from typing import Any

import pytest

from pyllama_mtp import GrammarError, InvalidRequestError, Model
from pyllama_mtp._matcher import tokenizer_of, vocabulary_of
from support.cmake import PROJECT

PROMPT = "import os\n"


def schema(value: object) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": value}}}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        value = {"type": "array", "items": value}
    return value


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"response_format": "json"}, "response_format is 'json'"),
        ({"response_format": {"type": "xml"}}, "response_format is"),
        ({"response_format": {"type": "json_schema"}}, "json_schema None, expected"),
        (schema([1]), "expected .'schema'"),
        (schema({"type": "object", "properties": {"a": {1, 2}}}), "not of JSON's types"),
        (schema({"not": {"type": "string"}}), 'Unimplemented keys: ."not"'),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"type": "array", "contains": {}}), "contains"),
        (schema({"if": {"type": "integer"}}), '"if"'),
        (schema({"type": "object", "dependentRequired": {"a": ["b"]}}), "dependentRequired"),
        (schema({"type": "object", "propertyNames": {"pattern": "a"}}), "propertyNames"),
        (schema({"type": "object", "unevaluatedProperties": False}), "unevaluatedProperties"),
        (schema({"type": "object", "minProperties": 3}), "minProperties of 3"),
        (schema({"type": "string", "format": "color"}), "color"),
        (schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (schema({"type": "string", "pattern": "a(?=b)"}), "look"),
        (schema({"$ref": "http://example.com/x"}), "example.com"),
        (schema({"$ref": "#/$defs/none"}), "/.defs/none"),
        (schema({"$ref": "#"}), "refused"),
        (schema({"type": "thing"}), "thing"),
        (schema({"x-guidance": {"lenient": True}}), "lenient"),
        (schema({"allOf": [{"type": "integer"}, {"type": "string"}]}), "Unsatisfiable"),
        (schema({"type": "string", "minLength": 5, "maxLength": 3}), "Unsatisfiable"),
        (schema({"type": "integer", "minimum": 5, "maximum": 3}), "Unsatisfiable"),
        (schema({"enum": []}), "Unsatisfiable"),
        (schema({"type": "object", "properties": {"a": False}, "required": ["a"]}), "Unsatisfiable"),
        (schema({"enum": ["x" * 1000] * 2000}), "expected at most 1048576"),
        (schema(nested(101)), "deeper than 100"),
        ({"regex": "("}, "unclosed group"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"regex": ""}, "regex is ''"),
        ({"regex": "a" * (1 << 20) + "a"}, "expected at most 1048576"),
        ({"choice": []}, "choice is empty"),
        ({"choice": ["a", ""]}, "choice holds ''"),
        ({"grammar": "start: foo"}, "unknown name"),
        ({"grammar": "start "}, "refused"),
        ({"logits_mask": 3}, "logits_mask is 3"),
        ({"regex": "a", "choice": ["a"]}, "regex and choice are given"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos beside a grammar"),
        ({"regex": "a", "synthetic_acceptance": [0.5]}, "synthetic_acceptance beside a grammar"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": "sometimes"}, "tool_choice is 'sometimes'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice is"),
    ],
)
def test_what_is_refused(demo_model: Model, request_: dict[str, Any], message: str):
    begin = time.monotonic()
    with pytest.raises(InvalidRequestError, match=message):
        demo_model.generate(PROMPT, **request_)
    assert time.monotonic() - begin < 20


def test_a_batch_refuses_before_it_begins(demo_model: Model):
    with pytest.raises(InvalidRequestError, match="regex and choice"):
        demo_model.generate_all([PROMPT], regex="a", choice=["a"])


def test_every_completion_of_a_batch_has_the_grammar(demo_model: Model):
    done = list(demo_model.generate_all([PROMPT] * 6, regex=r"\d{1,3}!", seed=1))
    assert all(one.finish_reason == "stop" and one.text.endswith("!") for one in done) and len(done) == 6


def test_what_grows_beyond_a_limit_amid_a_text_ends_that_completion(demo_model: Model):
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}
    other = demo_model.generate(PROMPT, seed=1, max_tokens=20)
    failing = demo_model.generate(PROMPT, seed=1, **schema(wide))
    with pytest.raises(GrammarError, match="max is 2000"):
        failing.text()
    assert other.text() == demo_model.generate(PROMPT, seed=1, max_tokens=20).text()


def test_large_schemas_that_are_within_the_limits(demo_model: Model):
    wide = {f"p{i}": {"type": "string", "maxLength": 2} for i in range(400)}
    for value, options in (
        ({"type": "object", "properties": wide, "required": list(wide)}, {"max_tokens": 40}),
        ({"enum": [f"value {i}" for i in range(20_000)]}, {}),
        (nested(99), {"max_tokens": 40}),
    ):
        stream = demo_model.generate(PROMPT, seed=2, **schema(value), **options)
        text = stream.text()
        assert stream.finish_reason == "length" or json.loads(text) is not None


def test_tables_of_a_vocabulary_are_shared_and_know_its_control_tokens(demo_model: Model):
    native = demo_model._loop.native
    vocabulary = vocabulary_of(native, [])
    assert tokenizer_of(vocabulary) is tokenizer_of(vocabulary_of(native, []))
    assert int(vocabulary.lengths.sum()) == len(vocabulary.token_bytes) and 1 in vocabulary.ends
    begin = 0
    for token, size in enumerate(vocabulary.lengths):
        data = vocabulary.token_bytes[begin : begin + size]
        begin += int(size)
        text = native.token_bytes(token, special=False)
        assert data == text != b"" or (text == b"" and data == b"\xff" + native.token_bytes(token, special=True))


def test_the_examples_of_the_document_run(demo: Any, demo_model: Model):
    text = (PROJECT / "docs" / "grammar.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"model": demo_model, "n_vocab": demo_model.info.n_vocab}
    assert len(blocks) == 2
    for block in reversed(blocks):  # the first one closes its model
        exec(block.replace("target.gguf", str(demo.target)).replace("assistant.gguf", str(demo.head)), names)
    assert names["stream"].finish_reason in ("stop", "length") and names["text"].startswith("{")
