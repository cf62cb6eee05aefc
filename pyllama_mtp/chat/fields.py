"""What the text of a call's region means: the content parsers and transforms of a response_template."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import regex

SECONDS = 2.0  # for a pattern

Values = dict[str, Any]


class FieldError(ValueError):
    """The text is not what the template says."""


def _text(text: str, args: Mapping[str, Any]) -> str:
    return text.strip() if args.get("strip", True) else text


def _json(text: str, args: Mapping[str, Any]) -> Any:
    """JSON; args: unquoted_keys, string_delims (pairs of marks), allow_non_json."""
    strings: list[str] = []
    written = text
    pairs = args.get("string_delims", [])
    if pairs and ("\x01" in text or "\x02" in text):
        raise FieldError
    for begin, end in pairs:

        def keep(found: "regex.Match[str]") -> str:
            strings.append(found.group(1))
            return f"\x01{len(strings) - 1}\x02"

        pattern = f"{regex.escape(begin)}(.*?){regex.escape(end)}"
        written = regex.sub(pattern, keep, written, flags=regex.DOTALL, timeout=SECONDS)
    if args.get("unquoted_keys", False):
        written = regex.sub(r"(?<=[{,])(\w+):", r'"\1":', written, timeout=SECONDS)
    written = regex.sub(r"\x01(\d+)\x02", lambda found: json.dumps(strings[int(found.group(1))]), written)
    try:
        return json.loads(written)
    except ValueError:
        if args.get("allow_non_json"):
            return _text(text, args)
        raise


def _value(text: str, args: Mapping[str, Any]) -> Any:
    parser = args.get("value_parser")
    return text if parser is None else parse_content(text, parser.get("name", "text"), parser.get("args", {}))


def _tags(text: str, args: Mapping[str, Any]) -> Values:
    """args: tag_pattern with the groups key and value, value_parser, merge_duplicates."""
    values: Values = {}
    for found in regex.finditer(args["tag_pattern"], text, flags=regex.DOTALL, timeout=SECONDS):
        groups = found.groupdict()
        key, value = groups["key"], _value(groups.get("value", ""), args)
        if key in values and args.get("merge_duplicates", False):
            before = values[key]
            values[key] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            values[key] = value
    return values


def _lines(text: str, args: Mapping[str, Any]) -> Values:
    """args: line_sep, kv_sep, value_parser."""
    values: Values = {}
    for line in text.split(args.get("line_sep", "\n")):
        key, found, value = _text(line, args).partition(args.get("kv_sep", ":"))
        if found:
            values[_text(key, args)] = _value(_text(value, args), args)
    return values


CONTENT_PARSERS: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "text": _text,
    "int": lambda text, args: int(_text(text, args)),
    "float": lambda text, args: float(_text(text, args)),
    "bool": lambda text, args: _text(text, args).lower() in ("true", "1"),
    "json": _json,
    "xml-inline": _tags,
    "kv-lines": _lines,
}


def parse_content(text: str, parser: str, args: Mapping[str, Any]) -> Any:
    return CONTENT_PARSERS[parser](text, args)


_PLACE = regex.compile(r"\{(\w+(?:\.\w+)*)\}")


def transformed(transform: Any, values: Values) -> Any:
    """The transform with the values where it names them, as "{name}" or "{name.key}"."""
    if isinstance(transform, Mapping):
        return {key: transformed(value, values) for key, value in transform.items()}
    if isinstance(transform, list):
        return [transformed(value, values) for value in transform]
    place = _PLACE.fullmatch(transform) if isinstance(transform, str) else None
    if place is None:
        return transform
    value: Any = values
    for key in place.group(1).split("."):
        value = value[key]
    return value


def calls_in(text: str, parser: str, args: Mapping[str, Any], transform: Any, each: bool, groups: Values) -> list[Any]:
    """What a region says, as one item or several. Raises FieldError."""
    try:
        value = parse_content(text, parser, args)
        if transform is None:
            return value if isinstance(value, list) else [value]
        if each:
            return [transformed(transform, groups | item) for item in value]
        return [transformed(transform, groups | {"content": value})]
    except (
        ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, TimeoutError, regex.error
    ) as error:  # fmt: skip
        raise FieldError from error


def name_and_arguments(item: Any) -> tuple[str, Values]:
    """Of a call in OpenAI's shape, or its inner part alone. Arguments may be JSON text. Raises FieldError."""
    function = item.get("function", item) if isinstance(item, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    arguments = function.get("arguments", {}) if isinstance(function, Mapping) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise FieldError from error
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise FieldError
    return name, arguments
