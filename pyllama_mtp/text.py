"""From token bytes to text that may be shown: whole characters only, and never a part of a stop string."""

import bisect
import codecs
from collections.abc import Sequence
from typing import NamedTuple


class Saved(NamedTuple):
    """A state of a TextAssembler."""

    decoder: tuple[bytes, int]
    held: str
    delivered: int
    n_decoded: int
    stopped: bool


class TextAssembler:
    """Turns the bytes of tokens into text, piece by piece.

    Bytes that do not complete a character are held back; bytes that are no UTF-8 become U+FFFD. Text that could be the
    beginning of a stop string is held back until it is decided. The text ends where the stop string begins that is
    complete first (of several that complete with the same character, the longest): nothing of it is given out, however
    it is spread over tokens. A stop string that is complete within the first min_tokens tokens is ordinary text (as in
    vLLM).
    """

    def __init__(self, stop: Sequence[str] = (), min_tokens: int = 0):
        self._stop = tuple(stop)
        self._longest = max((len(s) for s in self._stop), default=1)
        self._min_tokens = min_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._delivered = 0  # characters given out
        self._decoded = [0]  # characters decoded before the first token, after it, after the second ...
        self._complete = [0]  # the same, counting a character whose first bytes are there
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Adds the bytes of one token; returns the text that can be shown now. Nothing may be fed after `stopped`."""
        text = self._decoder.decode(data)
        self._decoded.append(self._decoded[-1] + len(text))
        self._complete.append(self._decoded[-1] + bool(self._decoder.getstate()[0]))
        searched = len(self._held)
        self._held += text
        if len(self._decoded) - 1 > self._min_tokens:
            begin = self._find_stop(searched)
            if begin is not None:
                self.stopped = True
                return self._give(begin)
        return self._give(len(self._held) - self._undecided())

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._give(len(self._held))

    def save(self) -> "Saved":
        """What restore() returns to, at any time later. Cheap: nothing that grows is copied."""
        return Saved(self._decoder.getstate(), self._held, self._delivered, len(self._decoded), self.stopped)

    def restore(self, saved: "Saved") -> None:
        """Takes back all that was fed since save()."""
        self._decoder.setstate(saved.decoder)
        self._held, self._delivered, self.stopped = saved.held, saved.delivered, saved.stopped
        del self._decoded[saved.n_decoded :]
        del self._complete[saved.n_decoded :]

    @property
    def delivered_tokens(self) -> int:
        """How many tokens the delivered text takes.

        While more may come: those that are out to their last character. Once `stopped`: those that gave at least one
        delivered character, so a token with text on both sides of the stop string's beginning counts.
        """
        if self.stopped:
            return bisect.bisect_left(self._decoded, self._delivered, hi=len(self._decoded) - 1)
        return bisect.bisect_right(self._complete, self._delivered) - 1

    def _give(self, n: int) -> str:
        text, self._held = self._held[:n], self._held[n:]
        self._delivered += n
        return text

    def _find_stop(self, searched: int) -> int | None:
        """Where the first complete stop string begins that ends behind the first `searched` held characters."""
        found = []
        for stop in self._stop:
            begin = self._held.find(stop, max(0, searched - len(stop) + 1))
            if begin >= 0:
                found.append((begin + len(stop), begin))
        return min(found)[1] if found else None

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string and does not complete it."""
        for n in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-n:]
            if any(len(s) > n and s.startswith(end) for s in self._stop):
                return n
        return 0
