"""What a model writes, token by token, as pieces: text, thoughts, calls, and the marks between them."""

import secrets
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pyllama_mtp.results import ToolCall

Kind = Literal["text", "reasoning", "call", "mark"]


class Part(NamedTuple):
    """Bytes that a token wrote. token: its number in the completion, from 1; 0: of the prompt."""

    data: bytes
    token: int


class Piece(NamedTuple):
    """The next bytes of what was written, and what they are. Each byte is in one piece; pieces are in order.

    first, last: numbers of the tokens that wrote them. call: what a piece of that kind says. malformed: text that
    should have been a call.
    """

    kind: Kind
    data: bytes
    first: int
    last: int
    call: ToolCall | None = None
    malformed: bool = False


class Reader(Protocol):
    """Splits what a model writes. save() and restore() cost no more for long texts."""

    def feed(self, token: int, data: bytes, number: int) -> Sequence[Piece]:
        """Takes a token, its bytes, and its number in the completion; gives what is certain now."""

    def finish(self) -> Sequence[Piece]:
        """The rest, once no more tokens come."""

    @property
    def held_from(self) -> int | None:
        """Number of the first token of which something is held back."""

    def save(self) -> Any: ...
    def restore(self, saved: Any) -> None: ...


class PlainReader:
    """All is text."""

    held_from = None

    def feed(self, token: int, data: bytes, number: int) -> Sequence[Piece]:
        return (Piece("text", data, number, number),) if data else ()

    def finish(self) -> Sequence[Piece]:
        return ()

    def save(self) -> None:
        return None

    def restore(self, saved: None) -> None:
        pass


class CallNames:
    """Ids of a completion's calls: as many as there may be, the same whenever one is asked for."""

    def __init__(self) -> None:
        self._begin = secrets.token_hex(8)

    def id_of(self, index: int) -> str:
        return f"call_{self._begin}{index:04x}"


def joined(parts: Sequence[Part]) -> bytes:
    return b"".join(part.data for part in parts)


def pieces_of(kind: Kind, parts: Sequence[Part], malformed: bool = False) -> list[Piece]:
    """One for each part that is not empty."""
    return [Piece(kind, data, token, token, malformed=malformed) for data, token in parts if data]


def cut(parts: Sequence[Part], n_bytes: int) -> tuple[list[Part], list[Part]]:
    """The first n_bytes, and the others."""
    head: list[Part] = []
    for index, (data, token) in enumerate(parts):
        if n_bytes < len(data):
            if n_bytes > 0:
                head.append(Part(data[:n_bytes], token))
            return head, [Part(data[n_bytes:], token), *parts[index + 1 :]]
        head.append(Part(data, token))
        n_bytes -= len(data)
    return head, []
