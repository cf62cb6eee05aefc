"""What a conversation looks like on a terminal: answers as they come, thoughts dimmed, and a line of figures below.

Answers are not wrapped here: a terminal wraps them itself, so that they can be copied and follow its size.
"""

import os
import time
from collections.abc import Callable
from typing import TextIO

from prompt_toolkit.utils import get_cwidth

from pyllama_mtp.commands.terminal import BOLD, DIM, PLAIN, RED, for_terminal, has_styles, moves
from pyllama_mtp.errors import one_line

# To the line below, which is made if there is none, and back to where the text ends.
_BELOW, _BACK = "\x1bD\x1b[A\x1b7\x1b[B\r", "\x1b8"
_ERASE = "\x1b[J"  # all behind the text, the line below included
_TELL_SECONDS = 0.1
_TAB = 8
_LEAST_ROWS = 4


class Screen:
    """Writes to a terminal. The line of figures is there only while an answer comes."""

    def __init__(self, out: TextIO):
        self._out = out
        self._styled, self._moves = has_styles(out), moves(out)
        self._column = 0  # behind the text; that of the terminal's width: the next character begins a line
        self._thinks = False
        self._figures = ""  # of the line below, none: there is no such line
        self._has_status = False  # that line is drawn
        self._told = 0.0  # when its figures were

    def think(self, text: str) -> None:
        """A piece of what the model thinks."""
        if text:
            self._thinks = True
            self._put(text, DIM)

    def say(self, text: str) -> None:
        """A piece of the answer."""
        if text:
            self._end_thought()
            self._put(text)

    def end(self) -> None:
        """The answer is complete."""
        self._thinks, self._figures = False, ""
        self._put("\n" if self._column else "")

    def status(self, figures: Callable[[], str], now: bool = False) -> None:
        """A line below the text, which stays there while more comes. now: though it was told a moment ago."""
        if now or time.monotonic() - self._told >= _TELL_SECONDS:
            self._figures, self._told = one_line(figures()), time.monotonic()
            self._put("")

    def note(self, text: str) -> None:
        """What the program says, in lines of its own."""
        self._lines(text, DIM)

    def error(self, text: str) -> None:
        self._lines(one_line(text), RED)

    def message(self, role: str, text: str) -> None:
        """One that was said earlier."""
        self._lines(f"{role}:", BOLD)
        self._lines(text)

    def _lines(self, text: str, style: str = "") -> None:
        self.end()
        self._put(text, style)
        self._put("\n")

    def _end_thought(self) -> None:
        if self._thinks:
            self._thinks = False
            self._put("\n\n")

    def _put(self, text: str, style: str = "") -> None:
        shown = for_terminal(text)
        styled = f"{style}{shown}{PLAIN}" if style and shown and self._styled else shown
        erased = _ERASE if self._has_status else ""
        self._follow(shown)
        self._out.write(f"{erased}{styled}{self._status()}")  # at once: nothing flickers
        self._out.flush()

    def _status(self) -> str:
        """What draws the line of figures, if there is one, and room for it."""
        size = os.get_terminal_size(self._out.fileno())
        # Behind the last column terminals differ in what they erase.
        fits = self._moves and self._column < size.columns and size.lines >= _LEAST_ROWS
        self._has_status = fits and bool(self._figures)
        if not self._has_status:
            return ""
        line = self._figures[: size.columns - 1]
        return f"{_BELOW}{DIM}{line}{PLAIN}{_BACK}" if self._styled else f"{_BELOW}{line}{_BACK}"

    def _follow(self, text: str) -> None:
        line_end = text.rfind("\n")
        if line_end >= 0:
            self._column = 0
        width = max(2, os.get_terminal_size(self._out.fileno()).columns)
        for character in text[line_end + 1 :]:
            if character == "\t":
                self._column = min(width - 1, (self._column // _TAB + 1) * _TAB)
            else:
                wide = get_cwidth(character)
                self._column = wide if self._column + wide > width else self._column + wide
