r"""The syntax in which Gemma 4 calls tools, as Lark rules made from the tools' JSON schemas.

    <|tool_call>call:NAME{key:<|"|>text<|"|>,n:1,list:[1,2],inner:{k:true}}<tool_call|>

Keys are bare, strings stand between two quote tokens and hold any text, values nest. Properties come in any order, each
once: a rule's parameter (llguidance's docs/parametric.md) holds a bit for each. What a schema asks for beyond the
keywords here is refused by name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyllama_mtp.chat.formats import OutputFormat
from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.grammar.schemas import MAX_DEPTH, slashes_escaped
from pyllama_mtp.ranges import as_integer, of_json_types

MAX_PROPERTIES = 64  # bits of a parameter
MAX_RULES = 20_000
MAX_REPEATS = 100_000  # characters of a text, items of a list

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_KEY = re.compile(r"[^\s\x00-\x20,:{}\[\]<>\"]{1,256}")  # as pyllama_mtp.chat.calls reads them back
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_SAID = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions",
         "deprecated", "readOnly", "writeOnly", "nullable"}  # fmt: skip
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems", "prefixItems"},
    "string": {"pattern", "minLength", "maxLength", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
_ANY = {"type", "enum", "const", "anyOf", "oneOf", "$ref"}
_TERMINALS = r"""
TEXT: /(?s:.)*/
KEY: /[^\s\x00-\x20,:{}\[\]<>"]+/
"""


class CallRules:
    """Rules of the calls of some tools: `rules`, and in `names` the rule of each."""

    def __init__(self, tools: Sequence[Mapping[str, Any]], marks: OutputFormat):
        if marks.call_begin < 0 or marks.call_end < 0 or marks.quote < 0:
            raise InvalidRequestError("tool_choice needs a model whose vocabulary has Gemma 4's tokens of calls")
        self._quote = f"<[{marks.quote}]>"
        self._lines: list[str] = []
        self._defined: dict[str, str] = {}  # references -> rules
        self.names: dict[str, str] = {}
        for tool in tools:
            name, parameters = _function(tool)
            if name in self.names:
                raise InvalidRequestError(f"two tools have the name {name}, which does not tell them apart")
            self._root = parameters
            self._defined = {}
            body = self._parameters(f"tool {name}")
            self.names[name] = self._rule(f"<[{marks.call_begin}]> {_text(f'call:{name}')} {body} <[{marks.call_end}]>")

    @property
    def rules(self) -> str:
        any_value = " | ".join(["any_object", "any_array", "any_string", "ANY_NUMBER", '"true"', '"false"', '"null"'])
        return "\n".join(
            [
                *self._lines,
                f"any_value: {any_value}",
                f"any_string: {self._quote} TEXT {self._quote}",
                'any_object: "{" (any_pair ("," any_pair)*)? "}"',
                'any_pair: KEY ":" any_value',
                'any_array: "[" (any_value ("," any_value)*)? "]"',
                "ANY_NUMBER: /-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?/",
                "ANY_INTEGER: /-?(0|[1-9][0-9]{0,18})/",
                _TERMINALS,
            ]
        )

    def _rule(self, body: str, parameter: str = "") -> str:
        if len(self._lines) >= MAX_RULES:
            raise InvalidRequestError(f"the schemas of the tools make more than {MAX_RULES} rules: simplify them")
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name}{parameter}: {body}")
        return name

    def _parameters(self, where: str) -> str:
        schema: Any = self._root
        for _ in range(MAX_DEPTH):
            if "$ref" not in schema:
                break
            self._refuse(schema.keys() - {"$ref"} - _SAID, where)
            schema = self._target(schema["$ref"], where)
        if not isinstance(schema, dict) or schema.get("type", "object") not in ("object", ["object"]):
            raise InvalidRequestError(f"{where} has the parameters {seen(schema)}, expected a schema of objects")
        self._refuse(schema.keys() & (_ANY - {"type"}), where)
        return self._object(schema, where, 0)

    def _value(self, schema: object, where: str, depth: int) -> str:
        """A rule's right side, of one symbol."""
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"{where} nests deeper than {MAX_DEPTH} schemas")
        if schema is True or schema == {}:
            return "any_value"
        if not isinstance(schema, dict):
            raise InvalidRequestError(f"{where} is {seen(schema)}, expected a schema that some value meets")
        if "$ref" in schema:
            return self._reference(schema, where, depth)
        if "const" in schema or "enum" in schema:
            return self._listed(schema, where)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._one_of(schema, key, where, depth)
        types = schema.get("type", [t for t in _TYPES if _KEYWORDS[t] & schema.keys()][:1] or list(_TYPES))
        types = types if isinstance(types, list) else [types]
        types = [t.lower() if isinstance(t, str) else t for t in types]
        types += ["null"] if schema.get("nullable") is True else []
        for name in types or [None]:
            if name not in _TYPES:
                raise InvalidRequestError(f"{where} has the type {seen(name)}, expected one of {', '.join(_TYPES)}")
        known = set().union(*(_KEYWORDS[t] for t in types)) | _ANY | _SAID
        self._refuse(schema.keys() - known, where)
        return self._rule(" | ".join(self._typed(t, schema, where, depth) for t in dict.fromkeys(types)))

    @staticmethod
    def _refuse(keywords: set[str], where: str) -> None:
        if keywords:
            raise InvalidRequestError(f"{where} uses {', '.join(sorted(keywords))}, which calls cannot be held to")

    def _typed(self, name: str, schema: dict[str, Any], where: str, depth: int) -> str:
        match name:
            case "object":
                return self._object(schema, where, depth)
            case "array":
                return self._array(schema, where, depth)
            case "string":
                return self._string(schema, where)
            case "number" | "integer":
                keep = {key: schema[key] for key in _KEYWORDS[name] if key in schema}
                if not keep:
                    return f"ANY_{name.upper()}"
                return self._rule(f"%json {json.dumps({'type': name, **keep})}")
            case "boolean":
                return '("true" | "false")'
            case _:
                return '"null"'

    def _string(self, schema: dict[str, Any], where: str) -> str:
        self._refuse({"format"} & schema.keys(), where)
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        for bound in (low, 0 if high is None else high):
            if not 0 <= _count(bound) <= MAX_REPEATS:
                raise InvalidRequestError(f"{where} has the length {seen(bound)}, expected 0..{MAX_REPEATS}")
        pattern = schema.get("pattern")
        lengths = "*" if (low, high) == (0, None) else f"{{{low},{'' if high is None else high}}}"
        text = f"/(?s:.){lengths}/"
        if pattern is not None:
            if not isinstance(pattern, str):
                raise InvalidRequestError(f"{where} has the pattern {seen(pattern)}, expected text")
            text = f"/{_pattern(pattern)}/" + ("" if lengths == "*" else f" & {text}")
        elif lengths == "*":
            return "any_string"
        name = f"T{len(self._lines)}"
        self._lines.append(f"{name}: {text}")
        return f"({self._quote} {name} {self._quote})"

    def _array(self, schema: dict[str, Any], where: str, depth: int) -> str:
        self._refuse({"prefixItems"} & schema.keys(), where)
        item = self._value(schema.get("items", True), f"{where}[]", depth + 1)
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if not 0 <= _count(low) <= (MAX_REPEATS if high is None else _count(high)) <= MAX_REPEATS:
            raise InvalidRequestError(
                f"{where} has {seen(low)} to {seen(high)} items, expected a range of integers in 0..{MAX_REPEATS}"
            )
        if high == 0:
            return '"[" "]"'
        more = f'("," {item}){{{max(0, low - 1)},{"" if high is None else high - 1}}}'
        items = f"{item} {more}"
        return f'("[" {items} "]")' if low > 0 else f'("[" ({items})? "]")'

    def _object(self, schema: dict[str, Any], where: str, depth: int) -> str:
        """Properties in any order, then others if they are allowed."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise InvalidRequestError(f"{where} has properties or required of another type than object and list")
        self._refuse(schema.keys() - _KEYWORDS["object"] - _ANY - _SAID, where)
        if len(properties) > MAX_PROPERTIES:
            raise InvalidRequestError(f"{where} has {len(properties)} properties, expected at most {MAX_PROPERTIES}")
        if missing := [key for key in required if not isinstance(key, str) or key not in properties]:
            raise InvalidRequestError(f"{where} requires {seen(missing[0])}, which is none of its properties")
        others = schema.get("additionalProperties", True)
        if not properties:
            return self._map(others, where, depth)
        if not isinstance(others, bool):
            self._refuse({"additionalProperties"}, where)
        pairs = []
        for key, value in properties.items():
            if not _KEY.fullmatch(key):
                raise InvalidRequestError(f"{where} has the property {seen(key)}, which a bare key cannot be")
            pairs.append(f"{_text(f'{key}:')} {self._value(value, f'{where}.{key}', depth + 1)}")
        needed = sum(1 << i for i, key in enumerate(properties) if key in required)
        done = [f"bit_set({i})" for i in range(len(pairs)) if needed >> i & 1]
        complete = _all_of(done)
        rest = self._rule("", "::_")  # its own name is in it
        lines = [f'"" %if {complete}' if complete else '""']
        first = ['"}"'] if not needed else []
        for i, pair in enumerate(pairs):
            one = self._rule(pair)
            lines.append(f'"," {one} {rest}::set_bit({i}) %if bit_clear({i})')
            first.append(f'{one} {rest}::{hex(1 << i)} "}}"')
        self._lines[int(rest[1:])] = f"{rest}::_: " + "\n    | ".join(lines)
        return self._rule('"{" ' + f"({' | '.join(first)})")

    def _map(self, others: object, where: str, depth: int) -> str:
        """An object of any keys."""
        if others is False:
            return '"{" "}"'
        if others is True:
            return "any_object"
        pair = self._rule(f'KEY ":" {self._value(others, f"{where}.*", depth + 1)}')
        return self._rule(f'"{{" ({pair} ("," {pair})*)? "}}"')

    def _listed(self, schema: dict[str, Any], where: str) -> str:
        self._refuse(schema.keys() - {"const", "enum", "type"} - _SAID, where)
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list) or not values:
            raise InvalidRequestError(f"{where} has the enum {seen(values)}, expected a list of one value or more")
        return self._rule(" | ".join(self._constant(value, where) for value in values))

    def _constant(self, value: object, where: str) -> str:
        if isinstance(value, str):
            return f"{self._quote} {_text(value)} {self._quote}" if value else f"{self._quote} {self._quote}"
        if isinstance(value, dict | list):
            raise InvalidRequestError(f"{where} lists {seen(value)}, expected texts, numbers, true, false or null")
        return _text(json.dumps(value))

    def _one_of(self, schema: dict[str, Any], key: str, where: str, depth: int) -> str:
        self._refuse(schema.keys() - {key} - _SAID - {"type"}, where)
        parts = schema[key]
        if not isinstance(parts, list) or not parts:
            raise InvalidRequestError(f"{where} has the {key} {seen(parts)}, expected a list of schemas")
        if key == "oneOf" and len({_kind(part) for part in parts}) < len(parts):
            raise InvalidRequestError(f"{where} uses oneOf of schemas that may overlap, use anyOf")
        return self._rule(" | ".join(self._value(part, f"{where}.{key}", depth + 1) for part in parts))

    def _reference(self, schema: dict[str, Any], where: str, depth: int) -> str:
        self._refuse(schema.keys() - {"$ref"} - _SAID, where)
        reference = schema["$ref"]
        if not isinstance(reference, str) or reference not in self._defined:
            target = self._target(reference, where)
            name = self._defined[reference] = self._rule("")
            value = self._value(target, where, depth + 1)
            self._lines[int(name[1:])] = f"{name}: {value}"
        return self._defined[reference]

    def _target(self, reference: object, where: str) -> Any:
        target: Any = self._root
        parts = str(reference).split("/")
        for part in parts[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            target = target.get(part) if isinstance(target, dict) else None
        if parts[0] != "#" or target is None:
            raise InvalidRequestError(f"{where} refers to {seen(reference)}, which its schema does not hold")
        return target


def _count(value: object) -> int:
    """-1 for what is no integer."""
    integer = as_integer(value)
    return -1 if integer is None else integer


def _kind(schema: object) -> object:
    """What no two schemas of a oneOf that cannot overlap have in common: their type or their constant."""
    if not isinstance(schema, dict):
        return None
    return json.dumps(schema["const"]) if "const" in schema else schema.get("type") if isinstance(
        schema.get("type"), str) else None  # fmt: skip


def _all_of(conditions: list[str]) -> str:
    """The conditions, joined."""
    while len(conditions) > 1:
        pairs = [conditions[i : i + 2] for i in range(0, len(conditions), 2)]
        conditions = [f"and({pair[0]}, {pair[1]})" if len(pair) == 2 else pair[0] for pair in pairs]
    return conditions[0] if conditions else ""


def _function(tool: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"a tool is {seen(tool)}, expected {{'function': {{'name': ..., 'parameters': ...}}}}"
        )
    parameters = function.get("parameters")
    if parameters is None:
        return name, {}
    try:
        plain = of_json_types(parameters)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the parameters of tool {name} are not of JSON's types: {error}") from error
    if not isinstance(plain, dict):
        raise InvalidRequestError(f"the parameters of tool {name} are {seen(parameters)}, expected a JSON schema")
    return name, plain


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _pattern(pattern: str) -> str:
    """A pattern of JSON schema, which may stand anywhere in the text unless it is anchored, for /.../."""
    begin = "" if pattern.startswith("^") else "(?s:.)*"
    end = "" if pattern.endswith("$") and not pattern.endswith("\\$") else "(?s:.)*"
    inner = pattern.removeprefix("^")
    inner = inner.removesuffix("$") if not end else inner
    return slashes_escaped(f"{begin}({inner}){end}")
