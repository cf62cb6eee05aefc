"""Native log lines: on the thread that made the call, under no lock, and as soon as the call has ended."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from pyllama_mtp import Model, _library

LINE = "said in the middle of a step"


class Handler(logging.Handler):
    """Hands records to a function."""

    def __init__(self, emit: Callable[[logging.LogRecord], None]):
        super().__init__()
        self.emit = emit


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[logging.LogRecord], None]], None]]:
    logger, handlers = logging.getLogger("pyllama_mtp"), []

    def add(emit: Callable[[logging.LogRecord], None]) -> None:
        handlers.append(Handler(emit))
        logger.addHandler(handlers[-1])

    yield add
    for handler in handlers:
        logger.removeHandler(handler)


def say(line: str) -> None:
    """What the library does when it logs a warning."""
    _library.lib.pmtp_log_keep(3, line.encode() + b"\n", _library.ffi.NULL)


def test_a_handler_may_load_a_model(demo):
    """Lines were handed out on the load's own thread, whose handler waited for a load that waited for its lock."""
    code = """
import logging, sys, threading
from pyllama_mtp import Model
class Loads(logging.Handler):
    model, threads = None, set()
    def emit(self, record):
        self.threads.add(threading.get_ident())
        if self.model is None:
            self.model = "being loaded"
            self.model = Model(sys.argv[1], n_ctx=64, n_threads=1)
handler = Loads()
logging.getLogger("pyllama_mtp").setLevel(logging.DEBUG)
logging.getLogger("pyllama_mtp").addHandler(handler)
Model(sys.argv[1], mtp_head=sys.argv[2], n_ctx=64, n_threads=1).close()
assert len(handler.model.generate("x", max_tokens=3, ignore_eos=True).text()) > 0
assert handler.threads == {threading.get_ident()}
"""
    command = [sys.executable, "-P", "-c", code, demo.target, demo.head]
    subprocess.run(command, timeout=60, check=True)


def test_a_line_of_a_step_arrives_with_its_chunk(demo_model: Model, caplog: pytest.LogCaptureFixture):
    """It waited for the next load, or the next call that failed."""
    with demo_model.generate("x", max_tokens=20, ignore_eos=True) as stream:
        chunks = iter(stream)
        next(chunks)
        say(LINE)
        next(chunks)
        assert caplog.messages.count(LINE) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.tokenize("x"),
        lambda m: m.tokenize("x " * 100_000),
        lambda m: m.logits([5]),
        lambda m: m.generate([5]).close(),
    ],
    ids=["short text", "long text", "logits", "start"],
)
def test_a_line_arrives_when_its_call_has_ended(demo_model: Model, caplog: pytest.LogCaptureFixture, call: Callable):
    say(LINE)
    call(demo_model)
    assert LINE in caplog.messages


def test_a_handler_may_wait_for_a_thread_that_closes_the_stream(demo_model: Model, listen):
    """Under the stream's lock it would wait for ever."""
    hanging: list[bool] = []
    stream = demo_model.generate("x", max_tokens=20, ignore_eos=True)

    def emit(record: logging.LogRecord) -> None:
        if LINE in record.getMessage():
            thread = threading.Thread(target=stream.close)
            thread.start()
            thread.join(10)
            hanging.append(thread.is_alive())

    listen(emit)
    for _ in stream:
        if not hanging:
            say(LINE)
    assert hanging == [False] and stream.finish_reason == "cancelled"
