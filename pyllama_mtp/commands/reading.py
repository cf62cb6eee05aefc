"""What a command reads: texts of files and of standard input."""

import os
import stat
import sys
from collections.abc import Sequence

from pyllama_mtp.errors import InvalidRequestError, seen


def read_text(path: str) -> str:
    """Raises InvalidRequestError."""
    try:
        with open(path, "rb") as file:
            return _decoded(file.read(), seen(path))
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(f"cannot read {seen(path)}: {getattr(error, 'strerror', None) or error}") from error


def read_prompt(prompt: str | None, words: Sequence[str], files: Sequence[str]) -> list[str]:
    """The parts of a prompt: those of files, of standard input and of the command line.

    prompt: all of the command line's, instead of words. "-" among the words is standard input; a pipe is also read
    where neither a prompt nor files are given. Raises InvalidRequestError, also if there is no part.
    """
    own = [word for word in words if word != "-"]
    if prompt is not None and own:
        raise InvalidRequestError(f"--prompt and {seen(own[0])} are two prompts: give one of them")
    parts = [read_text(path) for path in files]
    if "-" in words or (prompt is None and not files and _is_piped()):
        parts.append(_standard_input())
    parts += [" ".join(own)] if prompt is None else [prompt]
    parts = [part for part in parts if part]
    if not parts:
        raise InvalidRequestError("no prompt: give it as words, as --prompt or --file, or through a pipe")
    return parts


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file, and no terminal or other device."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # it is closed, or a test's
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _standard_input() -> str:
    if sys.stdin is None:
        raise InvalidRequestError("standard input is closed: there is nothing to read for -")
    return _decoded(sys.stdin.buffer.read(), "standard input")


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{what} is no text in UTF-8: {error}") from error
