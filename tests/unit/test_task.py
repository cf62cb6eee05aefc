"""Calls on a thread of their own: whatever moment an exception of a signal handler comes at, their callers go on."""

import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NoReturn

import pytest

from pyllama_mtp import OutOfMemoryError, task


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupts() -> Iterator[None]:
    def handler(*_: object) -> NoReturn:
        raise Interrupted

    previous = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, previous)


@pytest.mark.usefixtures("interrupts")
def test_a_signal_at_the_very_end_of_a_call_ends_the_wait_for_it(monkeypatch: pytest.MonkeyPatch):
    """The lock that a caller waits for was taken already: it waited for it a second time, for ever."""

    class InterruptedLock:
        interrupted = False

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.release = self.lock.release

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            assert not (self.interrupted and blocking), "the caller waits for a lock that it holds"
            taken = self.lock.acquire(blocking, timeout)
            if taken and timeout > 0:
                self.interrupted = True
                signal.raise_signal(signal.SIGUSR1)
            return taken

    monkeypatch.setattr(task, "threading", SimpleNamespace(Lock=InterruptedLock, Thread=threading.Thread))
    with pytest.raises(Interrupted):
        task.run(lambda: 1, stop=lambda: None, patience=None)


def test_a_poll_without_memory_stops_the_call():
    """A caller's function that ran out of memory was taken for a thread that could not be started: the call ran on."""
    stopped = threading.Event()

    def poll() -> None:
        raise OutOfMemoryError("mine")

    with pytest.raises(OutOfMemoryError, match="mine"):
        task.run(lambda: stopped.wait(10), stop=stopped.set, poll=poll, patience=None)
    assert stopped.is_set()
