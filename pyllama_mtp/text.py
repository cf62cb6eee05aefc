"""From the tokens of a completion to what may be shown: whole characters only, and never a part of a stop string."""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pyllama_mtp.chat.reader import Kind, Piece, PlainReader, Reader
from pyllama_mtp.results import ToolCall


@dataclass(slots=True)
class Shown:
    """What became certain. malformed: text or reasoning hold what was meant for a call."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    malformed: bool = False


class _Item(NamedTuple):
    """A Piece with its bytes decoded. first: the token that began its first character."""

    kind: Kind
    text: str
    first: int
    last: int
    call: ToolCall | None
    malformed: bool


class Saved(NamedTuple):
    """A state of a TextAssembler."""

    reader: Any
    decoder: tuple[bytes, int]
    kind: Kind
    partial: int | None
    queue: tuple[_Item, ...]
    n_tokens: int
    last_shown: int
    n_calls: int
    stop: str | None


class TextAssembler:
    """Turns tokens into text, thoughts and calls, as a Reader tells them apart, in the order in which they were told.

    Bytes that do not complete a character are held back; bytes that are no UTF-8 become U+FFFD. Stop strings are looked
    for in the text, and for themselves in the thoughts (where vLLM looks for them too), but not in calls. What could be
    the beginning of one is held back until it is decided, and so is what follows. All ends where the stop string begins
    that is complete first (of several that complete with the same character, the longest): nothing of it is given out,
    however it is spread over tokens. A stop string that is complete within the first min_tokens tokens is ordinary text
    (as in vLLM).
    """

    def __init__(self, stop: Sequence[str] = (), min_tokens: int = 0, reader: Reader | None = None):
        self._stop = tuple(stop)
        self._longest = max((len(s) for s in self._stop), default=1)
        self._min_tokens = min_tokens
        self._reader: Reader = PlainReader() if reader is None else reader
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kind: Kind = "text"  # of what the decoder holds
        self._partial: int | None = None  # the token that began the character which the decoder holds
        self._queue: tuple[_Item, ...] = ()  # held back
        self._n_tokens = 0
        self._last_shown = 0  # number of the last token that gave a character or a call
        self.n_calls = 0
        self.stop_string: str | None = None

    def feed(self, token: int, data: bytes, shown: Shown) -> None:
        """Adds a token with its bytes; what can be shown now joins `shown`. Nothing may be fed after `stopped`."""
        self._n_tokens += 1
        self._add(self._reader.feed(token, data, self._n_tokens), shown)
        self._show_decided(shown)

    def finish(self, shown: Shown) -> None:
        """The rest, once no more tokens come."""
        if not self.stopped:
            self._add(self._reader.finish(), shown)
        if not self.stopped:
            self._end_character(shown)
        if not self.stopped:
            self._show(len(self._queue), shown)

    @property
    def stopped(self) -> bool:
        return self.stop_string is not None

    def save(self) -> Saved:
        """What restore() returns to, at any time later. Cheap: nothing that grows is copied."""
        return Saved(
            self._reader.save(),
            self._decoder.getstate(),
            self._kind,
            self._partial,
            self._queue,
            self._n_tokens,
            self._last_shown,
            self.n_calls,
            self.stop_string,
        )

    def restore(self, saved: Saved) -> None:
        """Takes back all that was fed since save()."""
        self._reader.restore(saved.reader)
        self._decoder.setstate(saved.decoder)
        self._kind, self._partial, self._queue, self._n_tokens = saved[2:6]
        self._last_shown, self.n_calls, self.stop_string = saved[6:]

    @property
    def delivered_tokens(self) -> int:
        """How many tokens that takes which was shown.

        While more may come: those of which nothing is held back. Once `stopped`: those that gave at least one shown
        character or call, so a token with text on both sides of the stop string's beginning counts.
        """
        if self.stopped:
            return self._last_shown
        held = [self._queue[0].first if self._queue else None, self._partial, self._reader.held_from]
        return max(0, min((number for number in held if number is not None), default=self._n_tokens + 1) - 1)

    def _add(self, pieces: Iterable[Piece], shown: Shown) -> None:
        """Queues the pieces, up to a stop string."""
        for piece in pieces:
            if piece.last == 0 or self.stopped:  # of the prompt
                continue
            if piece.kind != self._kind:
                self._end_character(shown)
                self._kind = piece.kind
            if piece.kind in ("text", "reasoning"):
                self._decode(piece, shown)
            else:
                self._queue += (_Item(piece.kind, "", piece.first, piece.last, piece.call, False),)

    def _decode(self, piece: Piece, shown: Shown) -> None:
        text = self._decoder.decode(piece.data)
        first = piece.first if self._partial is None else self._partial
        holds = bool(self._decoder.getstate()[0])
        self._partial = None if not holds else piece.first if text else first
        if text:
            self._append(_Item(piece.kind, text, first, piece.last, None, piece.malformed), shown)

    def _end_character(self, shown: Shown) -> None:
        """What the decoder holds will not be completed."""
        if self._partial is not None:
            text, first = self._decoder.decode(b"", final=True), self._partial
            self._decoder.reset()
            self._partial = None
            self._append(_Item(self._kind, text, first, first, None, False), shown)

    def _append(self, item: _Item, shown: Shown) -> None:
        """Queues text; shows what comes before a stop string that it completes."""
        if not self._stop:
            self._queue += (item,)
            return
        before = self._held(item.kind)
        self._queue += (item,)
        if self._n_tokens > self._min_tokens:
            found = self._find_stop(before + item.text, len(before))
            if found is not None:
                begin, stop = found
                self._show_until({item.kind: begin}, shown)
                self._queue, self._partial, self.stop_string = (), None, stop

    def _held(self, kind: Kind) -> str:
        return "".join(item.text for item in self._queue if item.kind == kind)

    def _show_decided(self, shown: Shown) -> None:
        if not self._stop:
            self._show(len(self._queue), shown)
        elif self._queue:
            kinds: tuple[Kind, ...] = ("text", "reasoning")
            self._show_until(
                {kind: len(held) - self._undecided(held) for kind in kinds if (held := self._held(kind))}, shown
            )

    def _show_until(self, left: dict[Kind, int], shown: Shown) -> None:
        """Shows what comes before the first character of a kind beyond so many; kinds that are not named show all."""
        n_whole = 0
        for item in self._queue:
            if item.kind in left and left[item.kind] < len(item.text):
                break
            if item.kind in left:
                left[item.kind] -= len(item.text)
            n_whole += 1
        self._show(n_whole, shown)
        if self._queue and (n := left[self._queue[0].kind]) > 0:
            item = self._queue[0]
            rest = item._replace(text=item.text[n:], first=item.last)
            self._queue = (item._replace(text=item.text[:n]), rest, *self._queue[1:])
            self._show(1, shown)

    def _show(self, n_items: int, shown: Shown) -> None:
        for item in self._queue[:n_items]:
            if item.kind == "text":
                shown.text += item.text
            elif item.kind == "reasoning":
                shown.reasoning += item.text
            elif item.call is not None:
                shown.calls.append(item.call)
                self.n_calls += 1
            shown.malformed |= item.malformed
            if item.kind != "mark":
                self._last_shown = item.last
        self._queue = self._queue[n_items:]

    def _find_stop(self, held: str, searched: int) -> tuple[int, str] | None:
        """Where the first complete stop string begins that ends behind the first `searched` characters, and which."""
        found = []
        for stop in self._stop:
            begin = held.find(stop, max(0, searched - len(stop) + 1))
            if begin >= 0:
                found.append((begin + len(stop), begin, stop))
        return min(found)[1:] if found else None

    def _undecided(self, held: str) -> int:
        """Length of the longest end of the held text that begins a stop string and does not complete it."""
        for n in range(min(self._longest - 1, len(held)), 0, -1):
            end = held[-n:]
            if any(len(s) > n and s.startswith(end) for s in self._stop):
                return n
        return 0
