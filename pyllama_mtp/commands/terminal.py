"""Text of a model on a terminal: whatever it is, it controls nothing there."""

import os
import sys
import unicodedata
from typing import TextIO

DIM, BOLD, RED, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
_JOINERS = "\u200c\u200d"  # between letters, and in emoji
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats such as marks of direction, surrogates, ends of lines


class _Shown(dict[int, str]):
    """What is written for a character, for str.translate(). Line ends and tabs stay, a carriage return would write
    over the line, and of all else that is not shown itself the number is.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in "\n\t" + _JOINERS or unicodedata.category(character) not in _HIDDEN:
            return character
        return "" if character == "\r" else character.encode("unicode_escape").decode()


def for_terminal(text: str) -> str:
    """The text without control sequences, marks that turn the direction of writing, and what is not seen: they are
    shown escaped."""
    return text.translate(_Shown())


def write(text: str, file: TextIO, style: str = "") -> None:
    """What a model wrote, as it is into pipes and files, and safely to a terminal. style: of a terminal."""
    if text:
        if file.isatty():
            shown = for_terminal(text)
            text = f"{style}{shown}{PLAIN}" if style and has_styles(file) else shown
        print(text, end="", file=file, flush=True)


def moves(file: TextIO) -> bool:
    """A terminal whose cursor moves where it is told to."""
    return file.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_styles(file: TextIO) -> bool:
    """A terminal that is not told to do without (https://no-color.org)."""
    return moves(file) and not os.environ.get("NO_COLOR")


def is_terminal() -> bool:
    """Whether someone sits at both ends."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
