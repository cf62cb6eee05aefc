"""What calls consist of, in Lark: values that no schema restricts, texts, and names of tools."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pyllama_mtp.chat.calls import MAX_DEPTH
from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.grammar.schemas import slashes_escaped
from pyllama_mtp.ranges import as_integer, of_json_types

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
KEY = re.compile(r"[^\s\x00-\x20,:{}\[\]<>\"]{1,256}")  # as pyllama_mtp.chat.calls reads them back

_TERMINALS = r"""
ANY_NUMBER: /-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?/
ANY_INTEGER: /-?(0|[1-9][0-9]{0,18})/
TEXT: /(?s:.)*/
KEY: /[^\s\x00-\x20,:{}\[\]<>"]+/
"""


def any_values(quote: str, least: int) -> str:
    """The rules any_valueN and any_objectN: values of all kinds at the depths N from the least one on, as deep as they
    are read back. quote: the token around a text.
    """
    lines = [f"any_string: {quote} TEXT {quote}"]
    for depth in range(least, MAX_DEPTH + 1):
        inner = depth + 1
        scalars = 'any_string | ANY_NUMBER | "true" | "false" | "null"'
        lines.append(f"any_value{depth}: any_object{depth} | any_array{depth} | {scalars}")
        if depth < MAX_DEPTH:
            lines.append(f'any_object{depth}: "{{" (any_pair{depth} ("," any_pair{depth})*)? "}}"')
            lines.append(f'any_pair{depth}: KEY ":" any_value{inner}')
            lines.append(f'any_array{depth}: "[" (any_value{inner} ("," any_value{inner})*)? "]"')
        else:
            lines += [f'any_object{depth}: "{{" "}}"', f'any_array{depth}: "[" "]"']
    return "\n".join(lines) + _TERMINALS


def declared(tool: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a tool and the schema of its parameters. Raises InvalidRequestError."""
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


def quoted(text: str) -> str:
    """A text as a string of Lark."""
    return json.dumps(text, ensure_ascii=False)


def pattern_of(pattern: str) -> str:
    """A pattern of JSON schema, which may stand anywhere in the text unless it is anchored, for /.../."""
    begin = "" if pattern.startswith("^") else "(?s:.)*"
    end = "" if pattern.endswith("$") and not pattern.endswith("\\$") else "(?s:.)*"
    inner = pattern.removeprefix("^")
    inner = inner.removesuffix("$") if not end else inner
    return slashes_escaped(f"{begin}({inner}){end}")


def bounds_of(schema: Mapping[str, Any], low: str, high: str, most: int, where: str) -> tuple[int, int | None]:
    """The least and the largest number of something, None for no limit. low, high: their keywords."""
    values = [schema.get(low, 0), schema.get(high)]
    least, largest = (-1 if (integer := as_integer(value)) is None else integer for value in values)
    if not 0 <= least <= (most if values[1] is None else largest) <= most:
        raise InvalidRequestError(
            f"{where} has {seen(values[0])} as its {low} and {seen(values[1])} as its {high}, expected integers in "
            f"0..{most}, of which the second is not the smaller one"
        )
    return least, None if values[1] is None else largest
