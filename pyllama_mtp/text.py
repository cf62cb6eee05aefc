"""From token bytes to text that may be shown: whole characters only, and never a part of a stop string."""

import bisect
import codecs
from collections.abc import Sequence


class TextAssembler:
    """Turns the bytes of tokens into text, piece by piece.

    Bytes that do not complete a character are held back; bytes that are no UTF-8 become U+FFFD. Text that could be the
    beginning of a stop string is held back until it is decided. When a stop string is complete, everything from its
    first character on is dropped: it never leaks, whichever tokens it is spread over.
    """

    def __init__(self, stop: Sequence[str] = ()):
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._delivered = 0  # characters given out
        self._ends: list[int] = []  # characters decoded after each token
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Adds the bytes of one token; returns the text that can be shown now. Nothing may be fed after `stopped`."""
        text = self._decoder.decode(data)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(text))
        self._held += text
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            return self._give(min(found))
        return self._give(len(self._held) - self._undecided())

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._give(len(self._held))

    @property
    def delivered_tokens(self) -> int:
        """How many tokens the delivered text takes. A token that is delivered in part counts once the text has
        ended there.
        """
        if self.stopped:
            return bisect.bisect_left(self._ends, self._delivered) + 1 if self._delivered else 0
        return bisect.bisect_right(self._ends, self._delivered)

    def _give(self, n: int) -> str:
        text, self._held = self._held[:n], self._held[n:]
        self._delivered += n
        return text

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-n:]) for s in self._stop):
                return n
        return 0
