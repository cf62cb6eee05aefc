"""What the schema of a value in a call says of its types, and the keywords that belong to each."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from pyllama_mtp.errors import InvalidRequestError, seen

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
# Keywords that restrict nothing.
SAID = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions",
        "deprecated", "readOnly", "writeOnly", "nullable"}  # fmt: skip
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems", "prefixItems"},
    "string": {"pattern", "minLength", "maxLength", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
OF_ANY = {"type", "enum", "const", "anyOf", "oneOf", "$ref"}


def types_of(schema: dict[str, Any], where: str) -> list[str]:
    """Without a type, the one that its keywords are of, or all. Raises InvalidRequestError."""
    types = schema.get("type", [t for t in TYPES if KEYWORDS[t] & schema.keys()][:1] or list(TYPES))
    types = types if isinstance(types, list) else [types]
    types = [t.lower() if isinstance(t, str) else t for t in types]
    types += ["null"] if schema.get("nullable") is True else []
    for name in types or [None]:
        if name not in TYPES:
            raise InvalidRequestError(f"{where} has the type {seen(name)}, expected one of {', '.join(TYPES)}")
    return list(dict.fromkeys(types))


def of_type(part: object, kind: object, where: str) -> object:
    """One of several schemas of a value, with the type that stands beside them. Raises InvalidRequestError."""
    if not isinstance(part, dict):
        return {"type": kind} if part is True else part
    if part.get("type", kind) != kind or part.keys() & {"$ref", "anyOf", "oneOf"}:
        raise InvalidRequestError(f"{where} has another type than the one beside it: leave one of them out")
    return part | {"type": kind}


def is_of(value: object, name: str) -> bool:
    """Whether a listed value is of a type."""
    is_whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    return _type_of(value) == name or (name == "integer" and is_whole)


def exclude_each_other(schemas: Sequence[object]) -> bool:
    """Whether no value meets two of them, as their types or constants tell."""
    known: list[tuple[object, object]] = []  # type and constant, None for any
    for schema in schemas:
        if not isinstance(schema, dict) or schema.get("nullable"):
            return False
        kind = schema.get("type")
        if "const" in schema:
            value = schema["const"]
            is_whole = isinstance(value, float) and value.is_integer()
            known.append((_type_of(value), json.dumps(int(value) if is_whole else value)))
        elif isinstance(kind, str) and "enum" not in schema:
            known.append(("number" if kind == "integer" else kind, None))
        else:
            return False
    return not any(a[0] == b[0] and (None in (a[1], b[1]) or a[1] == b[1]) for a, b in itertools.combinations(known, 2))


def _type_of(value: object) -> str | None:
    kinds = {bool: "boolean", str: "string", type(None): "null", int: "number", float: "number"}
    return kinds.get(type(value))
