"""A program under a pseudo-terminal, with a terminal emulator that shows what a user would see."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence

import pyte

SECONDS = 120  # that anything may take on a machine that does much else
UP, ENTER, ALT_ENTER, TAB = "\x1b[A", "\r", "\x1b\r", "\t"
CTRL_C, CTRL_D, CTRL_J, CTRL_U = "\x03", "\x04", "\x0a", "\x15"

# The terminal becomes that of the session, so that Ctrl-C sends a signal.
_START = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """Use it as a context manager. raw: all bytes that came."""

    def __init__(self, command: Sequence[str], columns: int = 80, lines: int = 24, environment: Mapping[str, str] = {}):
        self._master, slave = pty.openpty()
        self._screen = pyte.HistoryScreen(columns, lines, history=5000)
        self._screen.write_process_input = self._answer  # where the cursor is, when asked
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self._set_size(columns, lines)
        self.settings = termios.tcgetattr(slave)
        names = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=names | {"TERM": "xterm-256color"} | dict(environment),
        )
        os.close(slave)

    def _answer(self, data: str) -> None:
        os.write(self._master, data.encode())

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    @property
    def lines(self) -> list[str]:
        """From the first to the last that has text, those included that were moved out of sight."""
        above = ["".join(row[x].data for x in range(max(row, default=-1) + 1)) for row in self._screen.history.top]
        rows = [line.rstrip() for line in [*above, *self._screen.display]]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def title(self) -> str:
        return self._screen.title

    def now(self) -> list[int]:
        """The terminal's flags of input and of lines."""
        settings = termios.tcgetattr(self._master)
        return [settings[0], settings[3]]

    def until(self, condition: str | Callable[[], bool]) -> None:
        """Reads on until a text is there, or a condition holds."""
        holds = condition if callable(condition) else lambda: condition in self.text
        end = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < end and self._read(), f"waited in vain for {condition!r}:\n{self.text}"

    def _read(self) -> bool:
        """False: the program has ended."""
        if not select.select([self._master], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # nobody has the other end
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def n_prompts(self) -> int:
        """How often the program began to ask for a line: prompt_toolkit switches the marking of pasted text on."""
        return self.raw.count(b"\x1b[?2004h")

    def ask(self, line: str) -> None:
        """Sends a line, and waits until the program asks for the next one."""
        asked = self.n_prompts
        self.send(line + ENTER)
        self.until(lambda: self.n_prompts > asked)

    def ended(self) -> int:
        """Its exit status."""
        end = time.monotonic() + SECONDS
        while self._read():
            assert time.monotonic() < end, self.text
        return self.process.wait(SECONDS)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
