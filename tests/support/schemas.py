"""JSON schemas of what is asked of models, and features of the JSON Schema test suite that a grammar can hold to."""

import datetime
import json
from typing import Any

import jsonschema

FORMATS = jsonschema.FormatChecker(["uuid", "ipv4"])


@FORMATS.checks("date", raises=ValueError)
def is_date(text: str) -> bool:
    """RFC 3339's, which has the year 0000; Python has not."""
    return bool(datetime.date.fromisoformat(text if text[:4] != "0000" else "2000" + text[4:]))


@FORMATS.checks("date-time", raises=ValueError)
def is_date_time(text: str) -> bool:
    """Likewise, with leap seconds."""
    date, time = text[:10], text[11:].upper()
    if time[6:8] == "60":
        time = time[:6] + "59" + time[8:]
    datetime.time.fromisoformat(time.partition(".")[0].partition("Z")[0][:8])
    return is_date(date) and text[10] in "tT"


STRING = {"type": "string", "maxLength": 16}
NODE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}, "required": ["v"]}


def closed(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    """An object of these properties, all of them required unless it is said which."""
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


SCHEMAS: dict[str, dict[str, Any]] = {
    "person": closed(name=STRING, age={"type": "integer", "minimum": 0, "maximum": 150}),
    "optional": closed(["a"], a=STRING, b={"type": "integer"}, c={"type": "boolean"}),
    "all-optional": closed([], a={"type": "null"}, b={"type": "boolean"}),
    "nested": closed(outer=closed(inner=closed(value={"type": "boolean"}))),
    "array": closed(items={"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 4}),
    "array-of-objects": {"type": "array", "items": closed(x={"type": "integer"}), "minItems": 1, "maxItems": 3},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string", "maxLength": 4}, {"type": "boolean"}],
        "items": False,
        "minItems": 3,
    },
    "enum": closed(colour={"enum": ["red", "green", "blue"]}),
    "enum-mixed": closed(value={"enum": [1, "one", None, True, 2.5]}),
    "enum-unicode": closed(word={"enum": ["élan", "naïve", "日本", 'a"b\\c', "line\nend"]}),
    "const": closed(kind={"const": "event"}, at={"type": "integer"}),
    "const-object": {"const": {"a": [1, 2, {"b": None}]}},
    "any-of": closed(value={"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 5}, {"type": "null"}]}),
    "one-of": {"oneOf": [closed(kind={"const": "a"}, n={"type": "integer"}), closed(kind={"const": "b"}, s=STRING)]},
    "all-of": {"allOf": [closed(["a"], a=STRING, b={"type": "integer"}), {"required": ["b"]}]},
    "types": closed(value={"type": ["string", "integer", "boolean", "null"], "maxLength": 8}),
    "pattern": closed(code={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}),
    "pattern-open": closed(code={"type": "string", "pattern": "[0-9]", "maxLength": 10}),
    "lengths": closed(s={"type": "string", "minLength": 2, "maxLength": 5}),
    "integers": closed(n={"type": "integer", "minimum": -5, "exclusiveMaximum": 1000}),
    "numbers": closed(x={"type": "number", "minimum": 0, "maximum": 1}),
    "multiple": closed(n={"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 7}),
    "exclusive": closed(n={"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 2.5}),
    "date": closed(day={"type": "string", "format": "date"}),
    "date-time": closed(at={"type": "string", "format": "date-time"}),
    "uuid": closed(id={"type": "string", "format": "uuid"}),
    "ipv4": closed(host={"type": "string", "format": "ipv4"}),
    "recursive": {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    "definitions": {"definitions": {"p": closed(x={"type": "integer"})}, **closed(a={"$ref": "#/definitions/p"})},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
    "pattern-properties": {
        "type": "object",
        "patternProperties": {"^x_[a-z]{1,4}$": {"type": "integer"}},
        "additionalProperties": False,
    },
    "additional": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
    "escaped-keys": closed(**{'a"b': {"type": "boolean"}, "c\\d": {"type": "boolean"}, "é": {"type": "boolean"}}),
    "empty-object": closed(),
    "string": {"type": "string", "maxLength": 20},
    "integer": {"type": "integer", "minimum": 10, "maximum": 9999},
    "boolean": {"type": "boolean"},
    "list-of-lists": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "maxItems": 3,
    },
    "weather": closed(
        ["city", "unit"],
        city=STRING,
        unit={"enum": ["celsius", "fahrenheit"]},
        days={"type": "integer", "minimum": 1, "maximum": 14},
    ),
    "invoice": closed(
        number={"type": "string", "pattern": "^[0-9]{6}$"},
        lines={
            "type": "array",
            "items": closed(what=STRING, price={"type": "number", "minimum": 0, "maximum": 10000}),
            "minItems": 1,
            "maxItems": 2,
        },
        paid={"type": "boolean"},
    ),
}


def check(name: str, text: str) -> None:
    """Raises unless the text is JSON that its schema allows. Formats count too."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=FORMATS)
    validator.validate(json.loads(text))
