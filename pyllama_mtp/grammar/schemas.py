"""JSON schemas that a grammar can hold a text to. llguidance refuses most of what it cannot, and this the rest."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.grammar.options import MAX_GRAMMAR_CHARS
from pyllama_mtp.ranges import of_json_types

# Between two parts of a document: a space, or a line's end and an indentation. Models like to go on with more for ever.
WHITE_SPACE = r"\x20|\r?\n[\x20\t]{0,40}"
MAX_DEPTH = 100

_OF_OBJECTS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_OF_VALUES = {"const", "enum", "default", "examples"}  # their values are no schemas
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# What llguidance's formats leave out: 29 February is of leap years, and a leap second of one minute a day in UTC, so
# there is none.
_DAY = (
    "([0-9]{4}-(0[13-9]|1[0-2])-[0-9]{2}|[0-9]{4}-02-([01][0-9]|2[0-8])"
    "|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
_MINUTE = "[0-9]{2}:[0-9]{2}:[0-5]"
_PATTERNS = {"date": f"^{_DAY}$", "time": f"^{_MINUTE}", "date-time": f"^{_DAY}[Tt ]{_MINUTE}"}


def checked_schema(schema: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The schema as llguidance takes it. Raises InvalidRequestError for one that is too large, or that its text could
    not be held to.
    """
    try:
        plain: dict[str, Any] = of_json_types(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{what} is not of JSON's types (dict, list, str, int ...): {error}") from error
    text = json.dumps(plain)
    if len(text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequestError(f"{what} has {len(text)} characters, expected at most {MAX_GRAMMAR_CHARS}")
    _complete(plain, what, 0)
    options = plain.get("x-guidance", {})
    if not isinstance(options, dict):
        raise InvalidRequestError(f"{what} has the x-guidance {seen(options)}, expected an object")
    if options.get("lenient"):
        raise InvalidRequestError(f"{what} is lenient in x-guidance: what a grammar cannot hold a text to is refused")
    return plain | {"x-guidance": {"whitespace_pattern": WHITE_SPACE} | options}


def slashes_escaped(regex: str) -> str:
    """A regular expression as it stands between two slashes."""
    return re.sub(r"\\.|/", lambda found: r"\/" if found.group() == "/" else found.group(), regex, flags=re.DOTALL)


def _complete(schema: object, what: str, depth: int) -> None:
    """Checks a schema, and has it say what llguidance would not take it to say."""
    if depth > MAX_DEPTH:
        raise InvalidRequestError(f"{what} nests deeper than {MAX_DEPTH} schemas")
    if isinstance(schema, list):
        for item in schema:
            _complete(item, what, depth + 1)
    if not isinstance(schema, dict):
        return
    for key in _COUNTS:
        if isinstance(value := schema.get(key), float) and value.is_integer():
            schema[key] = int(value)
    least = schema.get("minProperties", 0)
    named = schema.get("properties", {})
    if isinstance(least, int) and isinstance(named, dict) and least > len(named) + 1:
        raise InvalidRequestError(
            f"{what} has a minProperties of {least} with {len(named)} named properties: that other keys differ cannot "
            "be enforced; name the properties"
        )
    for key, value in schema.items():
        if key in _OF_OBJECTS and isinstance(value, dict):
            for inner in value.values():
                _complete(inner, what, depth + 1)
        elif key not in _OF_VALUES:
            _complete(value, what, depth + 1)
    pattern = _PATTERNS.get(schema["format"]) if isinstance(schema.get("format"), str) else None
    if pattern is not None and isinstance(schema.get("allOf", []), list):
        schema["allOf"] = [*schema.get("allOf", []), {"pattern": pattern}]
