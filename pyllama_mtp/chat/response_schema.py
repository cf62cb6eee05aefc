"""The older response_schema of tokenizer_config.json: a JSON schema whose patterns take a whole output apart.

It says what a complete output means and nothing of a part of one, so all is told at the end. Read as transformers 5.0
reads it; what came and went between its releases is refused by name.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import regex

from pyllama_mtp.chat.calls import parse_arguments
from pyllama_mtp.chat.fields import FieldError
from pyllama_mtp.errors import InvalidRequestError, seen

SECONDS = 2.0  # for all patterns together
MAX_DEPTH = 32

_PATTERNS = ("x-regex", "x-regex-iterator", "x-regex-key-value")
_PARSERS = ("json", "gemma4-tool-call")
_TYPES = {"object", "array", "string", "integer", "number", "boolean", "any", None}

Schema = Mapping[str, Any]


def check_schema(schema: Schema) -> None:
    """Raises InvalidRequestError for what is not understood."""
    for node in _nodes(schema, 0):
        for key in node:
            if isinstance(key, str) and key.startswith("x-") and key not in (*_PATTERNS, "x-parser"):
                raise InvalidRequestError(
                    f"response_schema has {seen(key)}, expected {', '.join(_PATTERNS)} and x-parser alone"
                )
        if node.get("x-parser", "json") not in _PARSERS:
            raise InvalidRequestError(
                f"response_schema has the x-parser {seen(node['x-parser'])}, expected one of {', '.join(_PARSERS)}"
            )
        if not isinstance(node.get("type"), str | None) or node.get("type") not in _TYPES:
            raise InvalidRequestError(f"response_schema has the type {seen(node.get('type'))}, expected a JSON type")
        for name in _PATTERNS:
            try:
                groups = regex.compile(node.get(name, ""), regex.DOTALL).groupindex
            except (regex.error, TypeError, RecursionError, OverflowError) as error:
                raise InvalidRequestError(f"{name} of response_schema is {seen(node[name])}: {error}") from error
            if name == "x-regex-key-value" and name in node and not {"key", "value"} <= groups.keys():
                raise InvalidRequestError(
                    f"{name} of response_schema is {seen(node[name])}, expected the groups key and value"
                )


def _nodes(node: object, depth: int) -> Iterator[Schema]:
    if not isinstance(node, Mapping) or depth > MAX_DEPTH:
        raise InvalidRequestError(f"response_schema has {seen(node)}, expected mappings, {MAX_DEPTH} deep at most")
    yield node
    properties = node.get("properties", {})
    if not isinstance(properties, Mapping):
        raise InvalidRequestError(f"response_schema has the properties {seen(properties)}, expected a mapping")
    for child in properties.values():
        yield from _nodes(child, depth + 1)
    for name in ("items", "additionalProperties"):
        if name in node and not isinstance(node[name], bool):
            yield from _nodes(node[name], depth + 1)


def parse(content: str, schema: Schema) -> Any:
    """What the schema finds in the content; None where it finds nothing. Raises FieldError."""
    try:
        return _Parser().parse(content, schema)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, TimeoutError) as error:
        raise FieldError from error


def _groups(match: "regex.Match[str]") -> Any:
    named, groups = match.groupdict(), match.groups()
    if named:
        return {name: value for name, value in named.items() if value is not None}
    if len(groups) > 1:
        raise FieldError
    return groups[0] if groups else match.group()


class _Parser:
    """Of one content."""

    def __init__(self) -> None:
        self._end = time.monotonic() + SECONDS

    def parse(self, content: Any, node: Schema) -> Any:
        if "const" in node:
            return node["const"]
        if content is None:
            return node.get("default")
        if "x-regex" in node:
            match = regex.search(node["x-regex"], content, **self._limits())
            if match is None:
                return None
            content = _groups(match)
        if "x-regex-iterator" in node:
            content = [_groups(match) for match in regex.finditer(node["x-regex-iterator"], content, **self._limits())]
            if not content:
                return None
        if "x-regex-key-value" in node:
            found = regex.finditer(node["x-regex-key-value"], content, **self._limits())
            content = {match["key"]: match["value"] for match in found}
            if not content:
                return None
        if "x-parser" in node and isinstance(content, str):
            content = json.loads(content) if node["x-parser"] == "json" else parse_arguments(content)
        return self._typed(content, node)

    def _limits(self) -> dict[str, Any]:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return {"flags": regex.DOTALL, "timeout": left}

    def _typed(self, content: Any, node: Schema) -> Any:
        kind = node.get("type", "any")
        if kind == "object":
            return self._object(content, node)
        if kind == "array":
            items = node.get("items")
            return [self.parse(item, items) if isinstance(items, Mapping) else item for item in _a(list, content)]
        if kind == "any" or not isinstance(content, str):
            return content
        if kind == "integer":
            return int(content)
        if kind == "number":
            return float(content)
        if kind == "boolean":
            return {"true": True, "1": True, "false": False, "0": False}[content.lower()]
        return content

    def _object(self, content: Any, node: Schema) -> dict[str, Any]:
        properties, others = node.get("properties", {}), node.get("additionalProperties")
        if isinstance(content, str):  # each property looks for itself in all of it
            values = {name: self.parse(content, child) for name, child in properties.items()}
            return {name: value for name, value in values.items() if value is not None}
        values = {}
        for name, child in properties.items():
            value = self.parse(_a(dict, content).get(name), child)
            if value is not None:
                values[name] = value
        for name, value in _a(dict, content).items():
            if name not in properties and others is not False and others is not None:
                values[name] = self.parse(value, others) if isinstance(others, Mapping) else value
        return values


def _a(kind: type, content: Any) -> Any:
    if not isinstance(content, kind):
        raise FieldError
    return content
