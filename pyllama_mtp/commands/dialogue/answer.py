"""One answer, from the model to the screen, until it ends or Ctrl-C stops it."""

import contextlib
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyllama_mtp.commands.dialogue.screen import Screen
from pyllama_mtp.commands.figures import in_short
from pyllama_mtp.names import FinishReason
from pyllama_mtp.results import Stats
from pyllama_mtp.stream import Stream


@dataclass(frozen=True, slots=True)
class Answer:
    """text: with the calls that the model wrote, as it wrote them."""

    text: str
    reasoning: str
    finish_reason: FinishReason | None
    stats: Stats


def show(stream: Stream, screen: Screen) -> Answer:
    """Reads a stream to its end. Ctrl-C ends it, and what came until then is the answer. Raises PyllamaMtpError."""
    text, reasoning = [], []
    with _no_echo(), _on_ctrl_c(stream.cancel):
        screen.status(lambda: "reading the prompt; Ctrl-C stops", now=True)
        for chunk in stream:
            screen.think(chunk.reasoning)
            said = chunk.text + "".join(call.raw for call in chunk.tool_calls)
            screen.say(said)
            text.append(said)
            reasoning.append(chunk.reasoning)
            screen.status(lambda: f"{in_short(stream.stats)}; Ctrl-C stops")
        screen.end()
    return Answer("".join(text), "".join(reasoning), stream.finish_reason, stream.stats)


@contextlib.contextmanager
def _on_ctrl_c(act: Callable[[], None]) -> Iterator[None]:
    """What came until then is neither lost nor cut in the middle, as it would be by an exception."""
    before = signal.signal(signal.SIGINT, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keys that are pressed meanwhile are not written into the answer; the next prompt gets them as they are."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = list(before)
    quiet[0] &= ~termios.ICRNL
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
