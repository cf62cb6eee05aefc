"""The call that Gemma 4 writes between its call tokens: call:name{key:value,...}."""

import bisect
import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

MAX_DEPTH = 64  # of values within values
_MOST_NAME_CHARS = 256

_NAME = re.compile(r"\s*call:\s*([^\s{}<>,\"']+)\s*(?=\{)")
_KEY = re.compile(r"[^\s{}\[\]:,\"<>](?:[^{}\[\]:,\"<>\n]*[^\s{}\[\]:,\"<>])?")
_SPACE = re.compile(r"\s*")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|None")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BEGUN = re.compile(r"\s*(?:c|ca|cal|call|call:\s*[^\s{}<>,\"']*\s*)?")


class ParsedCall(NamedTuple):
    name: str
    arguments: dict[str, Any]


class _Malformed(Exception):
    """Not a call."""


def begins_call(text: str) -> bool | None:
    """Whether the text begins a call: True once its name is complete, None while it still may."""
    if _NAME.match(text):
        return True
    return None if len(text) <= _MOST_NAME_CHARS and _BEGUN.fullmatch(text) else False


def parse_call(text: str, quotes: Sequence[int], quote: str) -> ParsedCall | None:
    """The one call that the text consists of; None if it does not.

    quotes: where the quote tokens stand in the text, in order. quote: the text of such a token, which within a string
    is text like any other where ordinary tokens wrote it. Strings of JSON are read too, as models write them. Of a key
    that comes twice the last value counts, as in JSON.
    """
    try:
        return _Reader(text, quotes, quote).call()
    except (_Malformed, ValueError, RecursionError):
        return None


def parse_arguments(text: str) -> dict[str, Any]:
    """The {key:value,...} of a call whose quote tokens are written out. Raises ValueError."""
    quote = '<|"|>'
    reader = _Reader(text, [found.start() for found in re.finditer(re.escape(quote), text)], quote)
    try:
        return reader.arguments()
    except _Malformed as error:
        raise ValueError("not the arguments of a call") from error


class _Reader:
    def __init__(self, text: str, quotes: Sequence[int], quote: str):
        self._text = text
        self._quotes = quotes
        self._quote = quote
        self._at = 0

    def call(self) -> ParsedCall:
        name = _NAME.match(self._text)
        if name is None:
            raise _Malformed
        self._at = name.end()
        return ParsedCall(name.group(1), self.arguments())

    def arguments(self) -> dict[str, Any]:
        arguments = self._object(0)
        self._skip_space()
        if self._at != len(self._text):
            raise _Malformed
        return arguments

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, char: str) -> bool:
        """Whether the next character is this one, which is passed then."""
        self._skip_space()
        taken = self._text.startswith(char, self._at)
        self._at += taken
        return taken

    def _need(self, char: str) -> None:
        if not self._take(char):
            raise _Malformed

    def _object(self, depth: int) -> dict[str, Any]:
        self._need("{")
        values: dict[str, Any] = {}
        if self._take("}"):
            return values
        while True:
            key = self._key()
            self._need(":")
            values[key] = self._value(depth + 1)
            if self._take("}"):
                return values
            self._need(",")

    def _array(self, depth: int) -> list[Any]:
        self._need("[")
        values: list[Any] = []
        if self._take("]"):
            return values
        while True:
            values.append(self._value(depth + 1))
            if self._take("]"):
                return values
            self._need(",")

    def _key(self) -> str:
        text = self._string()
        return self._matched(_KEY) if text is None else text

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _Malformed
        text = self._string()
        if text is not None:
            return text
        if self._text.startswith("{", self._at):
            return self._object(depth)
        if self._text.startswith("[", self._at):
            return self._array(depth)
        word = self._matched(_SCALAR)
        value = None if word == "None" else json.loads(word)  # as Jinja writes it into earlier turns
        if isinstance(value, float) and not math.isfinite(value):
            raise _Malformed
        return value

    def _string(self) -> str | None:
        """The string that begins here; None if none does."""
        self._skip_space()
        index = bisect.bisect_left(self._quotes, self._at)
        if index < len(self._quotes) and self._quotes[index] == self._at:
            if index + 1 == len(self._quotes):
                raise _Malformed
            begin, end = self._at + len(self._quote), self._quotes[index + 1]
            self._at = end + len(self._quote)
            return self._text[begin:end]
        if self._text.startswith('"', self._at):
            return str(json.loads(self._matched(_STRING), strict=False))
        return None

    def _matched(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _Malformed
        self._at = found.end()
        return found.group()
