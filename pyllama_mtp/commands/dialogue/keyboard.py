"""Lines that a user types: with history, several lines a message, and commands that Tab completes."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from pyllama_mtp.errors import one_line


def history_path() -> Path:
    """Where the lines of earlier conversations lie; see the XDG base directories."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "pyllama-mtp" / "chat-history"


class Keyboard:
    """history: the file of it, None: it ends with the program. status: the line below. Raises OSError if there can be
    no such file.
    """

    def __init__(self, commands: Sequence[str], history: Path | None, status: Callable[[], str]):
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_bindings(),
            history=InMemoryHistory() if history is None else _of_file(history),
            completer=WordCompleter(commands, sentence=True),
            complete_while_typing=False,
            bottom_toolbar=lambda: one_line(status()),
            enable_suspend=True,
        )

    def read(self) -> str:
        """What was sent. Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        return self._session.prompt()


class _Lines(FileHistory):
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason to end a conversation
            super().store_string(string)


def _of_file(path: Path) -> History:
    """For its owner's eyes alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return _Lines(path)


def _bindings() -> KeyBindings:
    """Enter sends. Alt-Enter, Ctrl-J, and Enter behind a backslash make a new line."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("c-j")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
