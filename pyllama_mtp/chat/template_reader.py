"""A Reader for a response_template: text and thoughts as they come, calls when their region ends."""

import codecs
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import regex

from pyllama_mtp.chat.fields import FieldError, calls_in, name_and_arguments
from pyllama_mtp.chat.reader import CallNames, Part, Piece, cut, joined, pieces_of
from pyllama_mtp.chat.response_template import CALLS, SEARCH_SECONDS, TEXT_FIELDS, Mark, Region, ResponseTemplate
from pyllama_mtp.results import ToolCall

_Found = tuple[Literal["begin", "end"], Region, "regex.Match[str]"]


# Where a pattern took too long, the rest is text.
_UNREAD = Region("content", None, None, "text", {}, False, "", None, False)


class _State(NamedTuple):
    """text: all of it, for patterns that look back; from `at` on it is in `parts`, and not told yet. region: that is
    open; None: none, and there is none for the rest. groups: of its beginning. held: a call, with n_mark parts of its
    mark, or white space that may end a text. blank: a text has nothing but white space so far.
    """

    decoder: tuple[bytes, int]
    region: Region | None
    partial: int | None = None
    text: str = ""
    at: int = 0
    parts: tuple[Part, ...] = ()
    opened: bool = False
    groups: dict[str, str] = {}  # noqa: RUF012 (never changed)
    held: tuple[Part, ...] = ()
    n_mark: int = 0
    blank: bool = True
    seen: tuple[str, ...] = ()
    n_calls: int = 0


class TemplateReader:
    """Needs the text of every token, control tokens included. A mark that may still grow is held back."""

    def __init__(self, template: ResponseTemplate, prompt: str):
        """prompt: the text that is completed."""
        self._template = template
        self._names = CallNames()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = _State(self._decoder.getstate(), template.rest)
        try:
            opening = template.opening(prompt)
        except TimeoutError:
            opening = ""
        if opening:
            self.feed(0, opening.encode(), 0)

    def feed(self, token: int, data: bytes, number: int) -> Sequence[Piece]:
        text = self._decoder.decode(data)
        state = self._state
        first = number if state.partial is None else state.partial
        pending = self._decoder.getstate()
        self._state = state._replace(
            decoder=pending,
            partial=None if not pending[0] else number if text else first,
            text=state.text + text,
            parts=(*state.parts, Part(text.encode(), number)) if text else state.parts,
        )
        return self._process(ended=False) if text else ()

    def finish(self) -> Sequence[Piece]:
        text = self._decoder.decode(b"", final=True)
        if text:
            number = self._state.partial or 0
            parts = (*self._state.parts, Part(text.encode(), number))
            self._state = self._state._replace(text=self._state.text + text, parts=parts, partial=None)
        return self._process(ended=True)

    @property
    def held_from(self) -> int | None:
        state = self._state
        held = [part.token for part in (*state.held[:1], *state.parts[:1])]
        return min([*held, *([] if state.partial is None else [state.partial])], default=None)

    def save(self) -> Any:
        return self._state

    def restore(self, saved: _State) -> None:
        self._state = saved
        self._decoder.setstate(saved.decoder)

    # One region after another

    def _set(self, **values: Any) -> None:
        self._state = self._state._replace(**values)

    def _process(self, ended: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while True:
            try:
                found, held = self._search(ended)
            except TimeoutError:
                pieces += pieces_of("text", self._state.held)
                self._set(region=_UNREAD, opened=True, held=())
                continue
            if found is None:
                pieces += self._write(self._take(held - self._state.at))
                if ended:
                    pieces += self._close([])
                return pieces
            what, region, match = found
            pieces += self._write(self._take(match.start() - self._state.at))
            mark = self._take(match.end() - match.start())
            if what == "begin":
                pieces += self._close([])
                pieces += self._open(region, mark, match)
            else:
                had_text = self._state.opened
                pieces += self._close(mark)
                if match.start() == match.end() and not had_text:
                    return pieces

    def _search(self, ended: bool) -> tuple[_Found | None, int]:
        """The first mark that is certain, and where what may become one begins. Raises TimeoutError."""
        state = self._state
        found: list[tuple[tuple[int, int, int, str], _Found]] = []
        held = len(state.text)
        watched: list[tuple[Literal["begin", "end"], Region, Mark]] = []
        if state.region is self._template.rest:
            watched += [("begin", region, region.begin) for region in self._template.regions if region.begin]
        if state.region is not None and state.region.end is not None:
            watched.append(("end", state.region, state.region.end))
        for what, region, mark in watched:
            match = mark.pattern.search(state.text, state.at, partial=not ended, timeout=SEARCH_SECONDS)
            if match is None:
                continue
            at_end = match.end() == len(state.text) and (mark.grows or match.start() == match.end())
            if not ended and (match.partial or at_end):
                held = min(held, match.start())
                continue
            key = (match.start(), match.start() - match.end(), int(what == "end"), region.name)
            found.append((key, (what, region, match)))
        first = min(found, key=lambda one: one[0])[1] if found else None
        return (first if first is not None and first[2].start() < held else None), held

    def _take(self, n_chars: int) -> list[Part]:
        state = self._state
        n_bytes = len(state.text[state.at : state.at + n_chars].encode())
        head, rest = cut(state.parts, n_bytes)
        self._set(at=state.at + n_chars, parts=tuple(rest))
        return head

    def _open(self, region: Region, mark: list[Part], match: "regex.Match[str]") -> list[Piece]:
        groups = {name: value for name, value in match.groupdict().items() if value is not None}
        is_call = region.name == CALLS
        self._set(region=region, opened=True, groups=groups, held=tuple(mark) if is_call else (), n_mark=len(mark))
        return [] if is_call else [*pieces_of("mark", mark), *self._joining(region, mark)]

    def _joining(self, region: Region, mark: list[Part]) -> list[Piece]:
        """What stands between the texts of a field that comes again."""
        again = region.name in self._state.seen
        self._set(seen=(*self._state.seen, region.name))
        number = mark[-1].token if mark else 0
        return [Piece(_kind_of(region), region.join.encode(), number, number)] if again and region.join else []

    def _write(self, parts: list[Part]) -> list[Piece]:
        """Text of the region that is open."""
        state = self._state
        if not parts or state.region is None:
            return pieces_of("mark", parts)
        if state.region.name == CALLS:
            self._set(held=(*state.held, *parts))
            return []
        pieces = []
        if not state.opened:
            pieces += self._joining(state.region, parts[:1])
            self._set(opened=True)
        if not state.region.strips:
            return [*pieces, *pieces_of(_kind_of(state.region), parts)]
        return [*pieces, *self._stripped(state.region, [*state.held, *parts])]

    def _stripped(self, region: Region, parts: list[Part]) -> list[Piece]:
        """Without the white space that begins the region; that which may end it is held."""
        text = joined(parts).decode()
        pieces: list[Piece] = []
        if self._state.blank:
            space, parts = cut(parts, len(text.encode()) - len(text.lstrip().encode()))
            pieces += pieces_of("mark", space)
            text = text.lstrip()
            self._set(blank=not text)
        body, rest = cut(parts, len(text.rstrip().encode()))
        self._set(held=tuple(rest))
        return [*pieces, *pieces_of(_kind_of(region), body)]

    def _close(self, mark: list[Part]) -> list[Piece]:
        state = self._state
        region, held = state.region, [*state.held]
        self._set(region=self._template.rest, opened=False, groups={}, held=(), n_mark=0, blank=True)
        if region is None or region.name != CALLS:
            return pieces_of("mark", [*held, *mark])
        return self._called(region, held, mark, state)

    def _called(self, region: Region, held: list[Part], mark: list[Part], state: _State) -> list[Piece]:
        raw, body = joined([*held, *mark]).decode(), joined(held[state.n_mark :]).decode()
        try:
            items = calls_in(
                body, region.parser, region.arguments, region.transform, region.transforms_each, state.groups
            )
            named = [name_and_arguments(item) for item in items]
        except FieldError:
            named = []
        if not named:
            return pieces_of("text", [*held, *mark], malformed=True)
        whole = [*held, *mark]
        pieces = []
        for index, (name, arguments) in enumerate(named):
            call = ToolCall(self._names.id_of(state.n_calls + index), name, arguments, raw)
            data = raw.encode() if index == 0 else b""
            pieces.append(Piece("call", data, whole[0].token, whole[-1].token, call))
        self._set(n_calls=state.n_calls + len(named))
        return pieces


def _kind_of(region: Region) -> Literal["text", "reasoning"]:
    return "reasoning" if TEXT_FIELDS[region.name] == "reasoning" else "text"
