r"""The syntax in which Gemma 4 calls tools, as Lark rules made from the tools' JSON schemas.

    <|tool_call>call:NAME{key:<|"|>text<|"|>,n:1,list:[1,2],inner:{k:true}}<tool_call|>

Keys are bare, strings stand between two quote tokens and hold any text, values nest as deep as a reader of calls
follows them. Properties come in any order, each once: a rule's parameter (llguidance's docs/parametric.md) holds a bit
for each. What a schema asks for beyond the keywords here is refused by name.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pyllama_mtp.chat.calls import MAX_DEPTH
from pyllama_mtp.chat.formats import OutputFormat
from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.grammar.call_types import KEYWORDS, OF_ANY, SAID, exclude_each_other, is_of, of_type, types_of
from pyllama_mtp.grammar.call_values import KEY, any_values, bounds_of, declared, pattern_of, quoted

MAX_PROPERTIES = 64  # bits of a parameter
MAX_RULES = 20_000
MAX_REPEATS = 100_000  # characters of a text, items of a list
MAX_REFERENCES = 100  # from one schema of parameters to the next


class _Place(NamedTuple):
    """Where a schema stands. depth: of its values in the call's arguments."""

    name: str
    depth: int

    def inside(self, name: str) -> "_Place":
        return _Place(self.name + name, self.depth + 1)

    def beside(self, name: str) -> "_Place":
        """Another schema of the same value."""
        return _Place(self.name + name, self.depth)


class CallRules:
    """Rules of the calls of some tools: `rules`, and in `names` the rule of each.

    A schema's rule is None where no value meets it that is not nested deeper than readers follow: recursive schemas
    have a rule for each depth, and what the last one cannot hold is left out.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], marks: OutputFormat):
        if marks.call_begin < 0 or marks.call_end < 0 or marks.quote < 0:
            raise InvalidRequestError("tool_choice needs a model whose vocabulary has Gemma 4's tokens of calls")
        self._quote = f"<[{marks.quote}]>"
        self._lines: list[str] = []
        self._defined: dict[tuple[str, int], str | None] = {}  # references at depths -> rules
        self._least_any = MAX_DEPTH  # depth at which anything may stand
        self.names: dict[str, str] = {}
        for tool in tools:
            name, parameters = declared(tool)
            if name in self.names:
                raise InvalidRequestError(f"two tools have the name {name}, which does not tell them apart")
            self._root = parameters
            self._defined = {}
            try:
                body = self._parameters(_Place(f"tool {name}", 0))
            except RecursionError as error:
                raise InvalidRequestError(f"the schemas of tool {name} are nested too deeply") from error
            call = quoted(f"call:{name}")
            self.names[name] = self._rule(f"<[{marks.call_begin}]> {call} {body} <[{marks.call_end}]>")

    @property
    def rules(self) -> str:
        return "\n".join([*self._lines, any_values(self._quote, self._least_any)])

    def _rule(self, body: str, parameter: str = "") -> str:
        if len(self._lines) >= MAX_RULES:
            raise InvalidRequestError(f"the schemas of the tools make more than {MAX_RULES} rules: simplify them")
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name}{parameter}: {body}")
        return name

    def _any(self, kind: str, place: _Place) -> str:
        self._least_any = min(self._least_any, place.depth)
        return f"any_{kind}{place.depth}"

    def _parameters(self, place: _Place) -> str:
        schema: Any = self._root
        for _ in range(MAX_REFERENCES):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            self._refuse(schema.keys() - {"$ref"} - SAID, place)
            schema = self._target(schema["$ref"], place)
        if not isinstance(schema, dict) or schema.get("type", "object") not in ("object", ["object"]):
            raise InvalidRequestError(f"{place.name} has the parameters {seen(schema)}, expected a schema of objects")
        self._refuse(schema.keys() & (OF_ANY - {"type"}), place)
        rule = self._object(schema, place)
        if rule is None:
            raise InvalidRequestError(
                f"{place.name} needs values that nest deeper than {MAX_DEPTH}, which calls cannot be read back from"
            )
        return rule

    def _value(self, schema: object, place: _Place) -> str | None:
        """A rule's right side, of one symbol."""
        if place.depth > MAX_DEPTH:
            return None
        if schema is True or schema == {}:
            return self._any("value", place)
        if not isinstance(schema, dict):
            raise InvalidRequestError(f"{place.name} is {seen(schema)}, expected a schema that some value meets")
        if "$ref" in schema:
            return self._reference(schema, place)
        if "const" in schema or "enum" in schema:
            return self._listed(schema, place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._one_of(schema, key, place)
        types = types_of(schema, place.name)
        known = set().union(*(KEYWORDS[t] for t in types)) | OF_ANY | SAID
        self._refuse(schema.keys() - known, place)
        return self._either([self._typed(t, schema, place) for t in types])

    def _either(self, parts: list[str | None]) -> str | None:
        possible = [part for part in parts if part is not None]
        return self._rule(" | ".join(possible)) if possible else None

    @staticmethod
    def _refuse(keywords: set[str], place: _Place) -> None:
        if keywords:
            raise InvalidRequestError(f"{place.name} uses {', '.join(sorted(keywords))}, which calls cannot be held to")

    def _typed(self, name: str, schema: dict[str, Any], place: _Place) -> str | None:
        match name:
            case "object":
                return self._object(schema, place)
            case "array":
                return self._array(schema, place)
            case "string":
                return self._string(schema, place)
            case "number" | "integer":
                keep = {key: schema[key] for key in KEYWORDS[name] if key in schema}
                if not keep:
                    return f"ANY_{name.upper()}"
                return self._rule(f"%json {json.dumps({'type': name, **keep})}")
            case "boolean":
                return '("true" | "false")'
            case _:
                return '"null"'

    def _string(self, schema: dict[str, Any], place: _Place) -> str:
        self._refuse({"format"} & schema.keys(), place)
        low, high = bounds_of(schema, "minLength", "maxLength", MAX_REPEATS, place.name)
        pattern = schema.get("pattern")
        lengths = "*" if (low, high) == (0, None) else f"{{{low},{'' if high is None else high}}}"
        text = f"/(?s:.){lengths}/"
        if pattern is not None:
            if not isinstance(pattern, str):
                raise InvalidRequestError(f"{place.name} has the pattern {seen(pattern)}, expected text")
            text = f"/{pattern_of(pattern)}/" + ("" if lengths == "*" else f" & {text}")
        elif lengths == "*":
            return "any_string"
        name = f"T{len(self._lines)}"
        self._lines.append(f"{name}: {text}")
        return f"({self._quote} {name} {self._quote})"

    def _array(self, schema: dict[str, Any], place: _Place) -> str | None:
        self._refuse({"prefixItems"} & schema.keys(), place)
        item = self._value(schema.get("items", True), place.inside("[]"))
        low, high = bounds_of(schema, "minItems", "maxItems", MAX_REPEATS, place.name)
        if high == 0 or item is None:
            return '"[" "]"' if low == 0 else None
        more = f'("," {item}){{{max(0, low - 1)},{"" if high is None else high - 1}}}'
        items = f"{item} {more}"
        return f'("[" {items} "]")' if low > 0 else f'("[" ({items})? "]")'

    def _object(self, schema: dict[str, Any], place: _Place) -> str | None:
        """Properties in any order, then others if they are allowed."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise InvalidRequestError(f"{place.name} has properties or required of another type than object and list")
        self._refuse(schema.keys() - KEYWORDS["object"] - OF_ANY - SAID, place)
        if len(properties) > MAX_PROPERTIES:
            raise InvalidRequestError(
                f"{place.name} has {len(properties)} properties, expected at most {MAX_PROPERTIES}"
            )
        if missing := [key for key in required if not isinstance(key, str) or key not in properties]:
            raise InvalidRequestError(f"{place.name} requires {seen(missing[0])}, which is none of its properties")
        others = schema.get("additionalProperties", True)
        if not properties:
            return self._map(others, place)
        if not isinstance(others, bool):
            self._refuse({"additionalProperties"}, place)
        pairs = {}
        for key, value in properties.items():
            if not KEY.fullmatch(key):
                raise InvalidRequestError(f"{place.name} has the property {seen(key)}, which a bare key cannot be")
            rule = self._value(value, place.inside(f".{key}"))
            if rule is not None:
                pairs[key] = f"{quoted(f'{key}:')} {rule}"
        if not pairs.keys() >= set(required):
            return None
        return self._properties(list(pairs.values()), [key in required for key in pairs])

    def _properties(self, pairs: list[str], required: list[bool]) -> str:
        """An object of pairs in any order, each once. required: by their numbers."""
        if not pairs:
            return '"{" "}"'
        complete = _all_of([f"bit_set({i})" for i, needed in enumerate(required) if needed])
        rest = self._rule("", "::_")  # its own name is in it
        lines = [f'"" %if {complete}' if complete else '""']
        first = [] if complete else ['"}"']
        for i, pair in enumerate(pairs):
            one = self._rule(pair)
            lines.append(f'"," {one} {rest}::set_bit({i}) %if bit_clear({i})')
            first.append(f'{one} {rest}::{hex(1 << i)} "}}"')
        self._lines[int(rest[1:])] = f"{rest}::_: " + "\n    | ".join(lines)
        return self._rule('"{" ' + f"({' | '.join(first)})")

    def _map(self, others: object, place: _Place) -> str:
        """An object of any keys."""
        if others is True:
            return self._any("object", place)
        value = None if others is False else self._value(others, place.inside(".*"))
        if value is None:
            return '"{" "}"'
        pair = self._rule(f'KEY ":" {value}')
        return self._rule(f'"{{" ({pair} ("," {pair})*)? "}}"')

    def _listed(self, schema: dict[str, Any], place: _Place) -> str:
        self._refuse(schema.keys() - {"const", "enum", "type"} - SAID, place)
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list) or not values:
            raise InvalidRequestError(f"{place.name} has the enum {seen(values)}, expected a list of one value or more")
        types = types_of(schema, place.name)
        written = [(value, self._constant(value, place)) for value in values]
        allowed = [text for value, text in written if any(is_of(value, name) for name in types)]
        if not allowed:
            raise InvalidRequestError(f"{place.name} lists {seen(values)}, none of which is of its type")
        return self._rule(" | ".join(allowed))

    def _constant(self, value: object, place: _Place) -> str:
        if isinstance(value, str):
            return f"{self._quote} {quoted(value)} {self._quote}" if value else f"{self._quote} {self._quote}"
        if isinstance(value, dict | list):
            raise InvalidRequestError(f"{place.name} lists {seen(value)}, expected texts, numbers, true, false or null")
        return quoted(json.dumps(value))

    def _one_of(self, schema: dict[str, Any], key: str, place: _Place) -> str | None:
        self._refuse(schema.keys() - {key} - SAID - {"type"}, place)
        parts = schema[key]
        if not isinstance(parts, list) or not parts:
            raise InvalidRequestError(f"{place.name} has the {key} {seen(parts)}, expected a list of schemas")
        if key == "oneOf" and not exclude_each_other(parts):
            raise InvalidRequestError(f"{place.name} uses oneOf of schemas that may overlap, use anyOf")
        if "type" in schema:
            parts = [of_type(part, schema["type"], f"{place.name}.{key}") for part in parts]
        return self._either([self._value(part, place.beside(f".{key}")) for part in parts])

    def _reference(self, schema: dict[str, Any], place: _Place) -> str | None:
        self._refuse(schema.keys() - {"$ref"} - SAID, place)
        reference = schema["$ref"]
        key = (str(reference), place.depth)
        if key not in self._defined:
            target = self._target(reference, place)
            self._defined[key] = None  # a value that is the one that it is said to be adds none
            self._defined[key] = self._value(target, place.beside(""))
        return self._defined[key]

    def _target(self, reference: object, place: _Place) -> Any:
        target: Any = self._root
        parts = str(reference).split("/")
        for part in parts[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            target = target.get(part) if isinstance(target, dict) else None
        if parts[0] != "#" or target is None:
            raise InvalidRequestError(f"{place.name} refers to {seen(reference)}, which its schema does not hold")
        return target


def _all_of(conditions: list[str]) -> str:
    """The conditions, joined."""
    while len(conditions) > 1:
        pairs = [conditions[i : i + 2] for i in range(0, len(conditions), 2)]
        conditions = [f"and({pair[0]}, {pair[1]})" if len(pair) == 2 else pair[0] for pair in pairs]
    return conditions[0] if conditions else ""
