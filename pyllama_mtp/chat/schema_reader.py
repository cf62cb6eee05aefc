"""A Reader for the older kind of response_schema, which tells all at the end."""

from collections.abc import Sequence
from typing import Any, Literal

from pyllama_mtp.chat.fields import FieldError, name_and_arguments
from pyllama_mtp.chat.reader import CallNames, Part, Piece, joined, pieces_of
from pyllama_mtp.chat.response_schema import Schema, parse
from pyllama_mtp.results import ToolCall

_TEXTS: tuple[tuple[str, Literal["text", "reasoning"]], ...] = (
    ("reasoning_content", "reasoning"),
    ("thinking", "reasoning"),
    ("content", "text"),
)


def _list(calls: Any) -> Sequence[Any]:
    if not isinstance(calls, list | None):
        raise FieldError
    return calls or ()


class SchemaReader:
    """Needs the text of every token, control tokens included."""

    def __init__(self, schema: Schema):
        self._schema = schema
        self._names = CallNames()
        self._parts: list[Part] = []

    def feed(self, token: int, data: bytes, number: int) -> Sequence[Piece]:
        self._parts.append(Part(data, number))
        return ()

    @property
    def held_from(self) -> int | None:
        return self._parts[0].token if self._parts else None

    def finish(self) -> Sequence[Piece]:
        parts, self._parts = self._parts, []
        if not parts:
            return ()
        first, last = parts[0].token, parts[-1].token
        raw = joined(parts).decode("utf-8", "replace")
        try:
            found = parse(raw, self._schema)
            message = found if isinstance(found, dict) else {}
            calls = [name_and_arguments(item) for item in _list(message.get("tool_calls"))]
            texts = [(kind, message.get(name)) for name, kind in _TEXTS if isinstance(message.get(name), str)]
        except FieldError:
            return pieces_of("text", parts, malformed=True)
        if not calls and not texts:
            return pieces_of("text", parts)
        pieces = [Piece("mark", joined(parts), first, last)]
        pieces += [Piece(kind, str(text).encode("utf-8", "replace"), first, last) for kind, text in texts]
        for index, (name, arguments) in enumerate(calls):
            call = ToolCall(self._names.id_of(index), name, arguments, raw)
            pieces.append(Piece("call", b"", first, last, call))
        return pieces

    def save(self) -> tuple[list[Part], int]:
        return self._parts, len(self._parts)

    def restore(self, saved: tuple[list[Part], int]) -> None:
        self._parts, n_parts = saved
        del self._parts[n_parts:]
