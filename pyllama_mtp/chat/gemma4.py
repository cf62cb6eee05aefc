"""Gemma 4's output: <|channel>thought ... <channel|>, text, and <|tool_call>call:name{...}<tool_call|>.

Marks are tokens; the same letters written by other tokens are text. What models were seen to write is read as it was
meant: a stray or repeated mark is dropped; "thought" and <channel|> without <|channel> is an empty thought; after a
thought call:name{...} is a call without its mark, and so is one that its turn's end leaves open, if it is complete; a
call within a thought is a call. What is no call after all is text, or part of the thought, with its marks.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from pyllama_mtp.chat.calls import begins_call, parse_call
from pyllama_mtp.chat.formats import OutputFormat
from pyllama_mtp.chat.reader import CallNames, Kind, Part, Piece, cut, joined, pieces_of
from pyllama_mtp.results import ToolCall

_TITLE = b"thought\n"

# What the held parts may become: the title of a thought; an untitled thought's "thought" at the beginning; the same, or
# a call without its mark; the line's end before <channel|>; a call.
Hold = Literal["", "title", "begin", "after", "line", "call"]


class _State(NamedTuple):
    kind: Kind
    hold: Hold
    parts: list[Part]
    n_parts: int
    quotes: list[int]
    n_quotes: int
    n_bytes: int
    marked: bool
    named: bool
    unread: bool
    n_calls: int


class Gemma4Reader:
    """A Reader. Lists that it holds only grow until they are replaced, so that a state is their lengths."""

    def __init__(self, form: OutputFormat, token_bytes: Callable[[int], bytes], unmarked_calls: bool = True):
        """token_bytes: the text of a token, marks included. unmarked_calls: read those that have lost their mark."""
        self._form = form
        self._quote = token_bytes(form.quote).decode("utf-8", "replace") if form.quote >= 0 else '<|"|>'
        self._ends = {form.turn_end, form.response_begin} - {-1}
        self._unmarked_calls = unmarked_calls
        self._names = CallNames()
        self._kind: Kind = "text"  # what surrounds a call
        self._hold: Hold = "begin"
        self._parts: list[Part] = []
        self._quotes: list[int] = []  # of a held call: where its quote tokens begin
        self._n_bytes = 0  # of a held call
        self._marked = True  # the held call began with its mark
        self._named = False  # the held call's name is complete
        self._unread = False  # the mark of a call that is none was told as text, its end is to come
        self._n_calls = 0

    def feed(self, token: int, data: bytes, number: int) -> Sequence[Piece]:
        form, part = self._form, Part(data, number)
        if self._hold == "call":
            return self._feed_call(token, part)
        if token == form.call_begin:
            pieces = self._release()
            self._begin_call(part, marked=True)
            return pieces
        if token == form.thought_begin:
            pieces = [*self._release(), *pieces_of("mark", [part])]
            self._kind, self._hold = "reasoning", "title"
            return pieces
        if token == form.thought_end:
            return self._end_thought(part)
        if token == form.call_end and self._unread:
            self._unread = False
            return [*self._release(), *pieces_of(self._kind, [part], malformed=True)]
        if token == form.call_end or token in self._ends:
            return [*self._release(), *pieces_of("mark", [part])]
        if not data:
            return ()
        if self._hold in ("begin", "after"):
            return self._feed_fresh(part)
        if self._hold == "title":
            return self._feed_title(part)
        return self._feed_body([part])

    def finish(self) -> Sequence[Piece]:
        return self._end_call([]) if self._hold == "call" else self._release()

    @property
    def held_from(self) -> int | None:
        return self._parts[0].token if self._parts else None

    def save(self) -> _State:
        return _State(
            self._kind,
            self._hold,
            self._parts,
            len(self._parts),
            self._quotes,
            len(self._quotes),
            self._n_bytes,
            self._marked,
            self._named,
            self._unread,
            self._n_calls,
        )

    def restore(self, saved: _State) -> None:
        del saved.parts[saved.n_parts :], saved.quotes[saved.n_quotes :]
        self._kind, self._hold, self._parts, self._quotes = saved.kind, saved.hold, saved.parts, saved.quotes
        self._n_bytes, self._n_calls = saved.n_bytes, saved.n_calls
        self._marked, self._named, self._unread = saved.marked, saved.named, saved.unread

    # Held text and thoughts

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _release(self) -> list[Piece]:
        """What is held is what it seemed to be."""
        hold, self._hold = self._hold, ""
        held = self._take()
        is_title = hold == "title" and _TITLE.startswith(joined(held))  # maybe cut off
        return pieces_of("mark" if is_title else self._kind, held)

    def _feed_fresh(self, part: Part) -> Sequence[Piece]:
        """Text at the beginning or after a thought."""
        self._parts.append(part)
        held = joined(self._parts)
        may_call: bool | None = False
        if self._hold == "after" and self._unmarked_calls:
            may_call = begins_call(held.decode("utf-8", "replace"))
        if may_call:
            self._hold, self._quotes, self._n_bytes = "call", [], len(held)
            self._marked, self._named = False, True
            return ()
        if may_call is None or _TITLE.startswith(held):
            return ()
        return self._release()

    def _feed_title(self, part: Part) -> Sequence[Piece]:
        self._parts.append(part)
        held = joined(self._parts)
        if held != _TITLE and _TITLE.startswith(held):
            return ()
        n_title = next((len(title) for title in (_TITLE, b"\n") if held.startswith(title)), 0)
        title, rest = cut(self._take(), n_title)
        self._hold = ""
        return [*pieces_of("mark", title), *self._feed_body(rest)]

    def _feed_body(self, parts: list[Part]) -> Sequence[Piece]:
        """Text, or a thought, whose last line's end may belong to its end mark."""
        if self._kind != "reasoning" or not parts:
            return pieces_of(self._kind, parts)
        parts = self._take() + parts
        self._hold = ""
        if parts[-1].data.endswith(b"\n"):
            parts, self._parts = cut(parts, sum(len(part.data) for part in parts) - 1)
            self._hold = "line"
        return pieces_of("reasoning", parts)

    def _end_thought(self, part: Part) -> Sequence[Piece]:
        held = joined(self._parts)
        is_mark = self._hold == "line" or (self._hold in ("title", "begin", "after") and _TITLE.startswith(held))
        pieces = pieces_of("mark", self._take()) if is_mark else self._release()
        self._kind, self._hold = "text", "after"
        return [*pieces, *pieces_of("mark", [part])]

    # Calls

    def _begin_call(self, part: Part, marked: bool) -> None:
        self._hold, self._parts, self._quotes, self._n_bytes = "call", [], [], 0
        self._marked, self._named, self._unread = marked, False, False
        self._add_to_call(part)

    def _add_to_call(self, part: Part, is_quote: bool = False) -> None:
        if is_quote:
            self._quotes.append(self._n_bytes)
        self._parts.append(part)
        self._n_bytes += len(part.data)

    def _feed_call(self, token: int, part: Part) -> Sequence[Piece]:
        form = self._form
        in_string = len(self._quotes) % 2 == 1
        if token == form.call_end:
            return self._end_call([part])
        if token in self._ends or (token == form.call_begin and not in_string):
            return [*self._end_call([]), *self.feed(token, *part)]
        if not self._named and token in (form.quote, form.thought_begin, form.thought_end):
            return [*self._no_call(), *self.feed(token, *part)]
        self._add_to_call(part, token == form.quote)
        if not self._named:
            begun = begins_call(joined(self._parts[self._marked :]).decode("utf-8", "replace"))
            if begun is False:
                return self._no_call()
            self._named = begun is True
        return ()

    def _end_call(self, end: list[Part]) -> Sequence[Piece]:
        held = joined(self._parts)
        text, quotes = "", []
        begin = len(self._parts[0].data) if self._marked else 0
        for at in [*self._quotes, len(held)]:  # a mark ends a character, be it complete or not
            text += held[begin:at].decode("utf-8", "replace")
            quotes.append(len(text))
            begin = at
        parsed = parse_call(text, quotes[:-1], self._quote)
        if parsed is None:
            return self._no_call(end)
        whole = self._take() + end
        raw = joined(whole)
        identity = self._names.id_of(self._n_calls)
        call = ToolCall(identity, parsed.name, parsed.arguments, raw.decode("utf-8", "replace"))
        self._n_calls += 1
        self._hold = ""
        return [Piece("call", raw, whole[0].token, whole[-1].token, call)]

    def _no_call(self, end: Sequence[Part] = ()) -> list[Piece]:
        self._hold, self._unread = "", self._marked and not end
        return pieces_of(self._kind, [*self._take(), *end], malformed=True)
