"""A response_template, as tokenizer_config.json carries one: marks and patterns that say what a model's output means.

The format is that of transformers (utils/chat_parsing), and so is what comes of a complete output, but that nothing is
overwritten: where a field comes twice, its texts follow one another. Patterns are those of the package `regex`, whose
partial matches tell whether text may still become a mark. They come with a model's files, so each search has a limit of
time; after one that exceeds it all is text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import regex

from pyllama_mtp.chat.fields import CONTENT_PARSERS
from pyllama_mtp.errors import InvalidRequestError, seen

SEARCH_SECONDS = 2.0
_MOST_PATTERN_CHARS = 1 << 14

TEXT_FIELDS = {"content": "text", "reasoning_content": "reasoning", "thinking": "reasoning", "reasoning": "reasoning"}
CALLS = "tool_calls"

_KEYS = {"version", "defaults", "fields", "start_anchor", "start_anchor_pattern"}
_FIELD_KEYS = {
    "open", "open_pattern", "close", "close_pattern", "content", "content_args", "repeats", "join", "optional",
    "transform", "transform_each",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a region begins or ends. grows: a match at the end of the text may become a longer one."""

    pattern: "regex.Pattern[str]"
    grows: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A field. begin None: what is in no other region. end None: it goes on to the end."""

    name: str
    begin: Mark | None
    end: Mark | None
    parser: str
    arguments: Mapping[str, Any]
    strips: bool
    join: str
    transform: Any
    transforms_each: bool


@dataclass(frozen=True, slots=True)
class ResponseTemplate:
    regions: tuple[Region, ...]
    rest: Region | None
    anchor: "regex.Pattern[str]"

    def opening(self, prompt: str) -> str:
        """The part of a prompt that belongs to the model's message."""
        end = 0
        for found in self.anchor.finditer(prompt, timeout=SEARCH_SECONDS):
            end = found.end()
        return prompt[end:]


def _wrong(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"response_schema: {what}")


def _mark(scope: str, spec: Mapping[str, Any], name: str) -> Mark | None:
    """A mark, given as a text, several texts, or a pattern."""
    given, pattern = spec.get(name), spec.get(f"{name}_pattern")
    if given is not None and pattern is not None:
        raise _wrong(f"{scope} has both {name} and {name}_pattern, expected one of them")
    if given is not None:
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise _wrong(f"{name} of {scope} is {seen(given)}, expected a text or a list of texts, none of them empty")
        grows = any(a != b and a.startswith(b) for a in texts for b in texts)
        pattern = "|".join(regex.escape(text) for text in sorted(set(texts), key=len, reverse=True))
    elif pattern is not None:
        grows = True
    else:
        return None
    if not isinstance(pattern, str) or len(pattern) > _MOST_PATTERN_CHARS:
        raise _wrong(
            f"{name} of {scope} is {seen(pattern)}, expected a pattern of at most {_MOST_PATTERN_CHARS} characters"
        )
    try:
        return Mark(regex.compile(pattern, regex.DOTALL), grows)
    except (regex.error, RecursionError, OverflowError) as error:
        raise _wrong(f"{name} of {scope} is no pattern: {error}") from error


def _region(name: str, spec: object) -> Region:
    scope = f"the field {name}"
    if not isinstance(spec, Mapping) or (unknown := set(spec) - _FIELD_KEYS):
        told = seen(spec) if not isinstance(spec, Mapping) else f"{seen(sorted(map(str, unknown)))}"
        raise _wrong(f"{scope} has {told}, expected a mapping with keys of {', '.join(sorted(_FIELD_KEYS))}")
    parser, arguments = spec.get("content", "text"), spec.get("content_args", {})
    known = CONTENT_PARSERS if name == CALLS else ("text",)
    if not isinstance(parser, str) or parser not in known or not isinstance(arguments, Mapping):
        raise _wrong(f"content of {scope} is {seen(parser)}, expected one of {', '.join(known)}, with content_args")
    join = spec.get("join") or ""
    if not isinstance(join, str):
        raise _wrong(f"join of {scope} is {seen(join)}, expected a text")
    return Region(
        name,
        _mark(scope, spec, "open"),
        _mark(scope, spec, "close"),
        parser,
        arguments,
        bool(arguments.get("strip", True)),
        join,
        spec.get("transform"),
        spec.get("transform_each") is True,
    )


def is_template(spec: Mapping[str, Any]) -> bool:
    """Whether this is a response_template, and not the older kind of response_schema."""
    return "fields" in spec


def read_template(spec: Mapping[str, Any]) -> ResponseTemplate:
    """Raises InvalidRequestError for a template that is none, or has fields that a completion has not."""
    if set(spec) - _KEYS or spec.get("version", 1) != 1 or not isinstance(spec.get("fields"), Mapping):
        raise _wrong(
            f"it has the keys {seen(sorted(map(str, spec)))}, expected version 1 of {', '.join(sorted(_KEYS))}"
        )
    if unknown := set(spec["fields"]) - {*TEXT_FIELDS, CALLS}:
        raise _wrong(f"its fields are {seen(sorted(map(str, unknown)))}, expected {', '.join([*TEXT_FIELDS, CALLS])}")
    regions = [_region(name, field) for name, field in spec["fields"].items()]
    rest = [region for region in regions if region.begin is None]
    if len(rest) > 1 or any(region.name == CALLS for region in rest):
        raise _wrong(f"{seen([region.name for region in rest])} have no open, expected one text without it at most")
    anchor = _mark("the template", spec, "start_anchor")
    if anchor is None:
        raise _wrong("it has no start_anchor, expected the text that begins a message of the model")
    begun = tuple(region for region in regions if region.begin is not None)
    return ResponseTemplate(begun, rest[0] if rest else None, anchor.pattern)
