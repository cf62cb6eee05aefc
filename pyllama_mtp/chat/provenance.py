"""Strings that know which of their characters a template wrote itself, in the process in which templates run.

A Traced is a str that carries one byte for each character: its lowest bit is 1 for the template's own and 0 for what
came from anywhere else, the other bits tell the part of the conversation that it came from. What templates do with
strings keeps that exact where it can be: they are joined, cut, stripped, replaced and written in capitals. Whatever
else makes a plain str, of which nothing is the template's own: a mistake here makes text of a control token, never a
control token of text.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

from markupsafe import Markup, escape

OWN, OTHER = b"\1", b"\0"
ALL_OWN = bytes(range(1, 256, 2))
_OWN_OR_OTHER = bytes(byte & 1 for byte in range(256))


class Traced(str):
    """Equal to the str of its characters, in everything but speed. Without `origin` nothing of it is the template's."""

    __slots__ = ("_origin",)
    _origin: bytes

    def __new__(cls, text: object = "", origin: bytes | None = None) -> "Traced":
        self = super().__new__(cls, text)
        self._origin = OTHER * len(self) if origin is None else origin
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        # jinja2's Markup escapes what it is added to.
        return joined((self, other)) if isinstance(other, str) and not hasattr(other, "__html__") else NotImplemented

    def __radd__(self, other: str) -> str:
        return joined((other, self))

    def __mul__(self, n: SupportsIndex) -> str:
        return Traced(super().__mul__(n), self._origin * n)

    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> str:
        text = super().__getitem__(key)
        if isinstance(key, slice):
            return Traced(text, self._origin[key])
        return Traced(text, self._origin[key].to_bytes(1, "big"))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    # Cut into pieces.

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        pieces = super().split(sep, maxsplit)
        return self._found_again(pieces) if sep is None else self._between(pieces, len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        pieces = super().rsplit(sep, maxsplit)
        return self._found_again(pieces) if sep is None else self._between(pieces, len(sep))

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._between(super().splitlines(keepends=True), 0)
        if keepends:
            return lines
        return [line[: len(short)] for line, short in zip(lines, super().splitlines(), strict=True)]

    def partition(self, sep: str) -> tuple[str, str, str]:
        return self._three(super().partition(sep))

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        return self._three(super().rpartition(sep))

    def _three(self, parts: tuple[str, str, str]) -> tuple[str, str, str]:
        first, second, third = self._between(parts, 0)
        return first, second, third

    def _between(self, pieces: Iterable[str], gap: int) -> list[str]:
        """Pieces that lie in this string one after another, so many characters apart."""
        at, found = 0, []
        for piece in pieces:
            found.append(self[at : at + len(piece)])
            at += len(piece) + gap
        return found

    def _found_again(self, pieces: Iterable[str]) -> list[str]:
        """Pieces that lie in this string one after another with white space between them, which no piece begins with,
        but for the first.
        """
        at, found = 0, []
        for piece in pieces:
            at = self.index(piece, at)
            found.append(self[at : at + len(piece)])
            at += len(piece)
        return found

    # Without some of their ends.

    def lstrip(self, chars: str | None = None) -> str:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> str:
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None) -> str:
        return self.rstrip(chars).lstrip(chars)

    def removeprefix(self, prefix: str) -> str:
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str) -> str:
        return self[: len(super().removesuffix(suffix))]

    # Changed.

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        if old:
            return joined_by(new, self._between(super().split(old, count), len(old)))
        return Traced(super().replace(old, new, count))

    def join(self, parts: Iterable[str]) -> str:
        return joined_by(self, parts)

    def lower(self) -> str:
        return self._mapped(super().lower())

    def upper(self) -> str:
        return self._mapped(super().upper())

    def title(self) -> str:
        return self._mapped(super().title())

    def capitalize(self) -> str:
        return self._mapped(super().capitalize())

    def _mapped(self, text: str) -> str:
        """text: this string, changed character by character, none of which vanishes."""
        return Traced(text, self._origin if len(text) == len(self) else None)


class TracedMarkup(Markup):
    """What the filter `safe` makes: it escapes what it is added to."""

    __slots__ = ("_origin",)
    _origin: bytes

    def __new__(cls, text: object = "", origin: bytes | None = None) -> "TracedMarkup":
        self = super().__new__(cls, text)
        given = text._origin if origin is None and isinstance(text, Traced | TracedMarkup) else origin
        self._origin = OTHER * len(self) if given is None else given
        return self

    def __str__(self) -> str:
        return Traced(str.__str__(self), self._origin)

    def __add__(self, other: Any) -> "TracedMarkup":
        return self._of(self, _escaped(other)) if _is_text(other) else NotImplemented

    def __radd__(self, other: Any) -> "TracedMarkup":
        return self._of(_escaped(other), self) if _is_text(other) else NotImplemented

    def _of(self, *parts: str) -> "TracedMarkup":
        text = joined(map(str, parts))
        return TracedMarkup(text, text._origin)


def _is_text(value: object) -> bool:
    return isinstance(value, str) or hasattr(value, "__html__")


def _escaped(text: Any) -> str:
    """As markupsafe escapes it."""
    if hasattr(text, "__html__"):
        return TracedMarkup(text)
    escaped: str = Traced(text, origin_of(text))
    for character in "&><'\"":
        escaped = escaped.replace(character, str(escape(character)))
    return escaped


def origin_of(text: str) -> bytes:
    return text._origin if isinstance(text, Traced | TracedMarkup) else OTHER * len(text)


def own(text: str, part: int = 0) -> Traced:
    """What the template, or the model, wrote itself. part: of the conversation that it came from all the same."""
    return Traced(text, bytes((2 * part + 1,)) * len(text))


def of_part(text: str, part: int) -> Traced:
    """Text of a part of the conversation, 0 to 127."""
    return Traced(text, bytes((2 * part,)) * len(text))


def is_own(origin: bytes) -> bool:
    return not origin.strip(ALL_OWN)


def joined(parts: Iterable[str]) -> Traced:
    parts = list(parts)
    return Traced("".join(parts), b"".join(map(origin_of, parts)))


def joined_by(separator: str, parts: Iterable[str]) -> Traced:
    parts = list(parts)
    return Traced(str.join(separator, parts), origin_of(separator).join(map(origin_of, parts)))


def traced(value: Any, trace: Callable[[str], Traced] = Traced) -> Any:
    """A value of JSON's types with every string in it traced; keys of mappings stay plain."""
    if isinstance(value, str):
        return trace(value)
    if isinstance(value, dict):
        return {key: traced(item, trace) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(traced(item, trace) for item in value)
    return value


def runs(origin: bytes) -> list[int]:
    """Lengths of the runs of equal origin, in turn, of which the first (0 or more) came from elsewhere."""
    origin = origin.translate(_OWN_OR_OTHER)
    lengths, at, looked_for = [], 0, OWN
    while at < len(origin):
        end = origin.find(looked_for, at)
        end = len(origin) if end < 0 else end
        lengths.append(end - at)
        at, looked_for = end, OWN if looked_for == OTHER else OTHER
    return lengths
