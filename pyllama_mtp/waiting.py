"""Who waits for the engine's loop: threads, and tasks of event loops."""

import _thread
import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any


class WaitingThread:
    """A thread that waits, and steps if it has to."""

    steps = True

    def __init__(self, ready: Callable[[], bool]):
        self.ready = ready
        self._bell = _thread.allocate_lock()
        self._bell.acquire()

    def sleep(self, seconds: float) -> None:
        self._bell.acquire(timeout=seconds)

    def wake(self) -> None:
        try:
            self._bell.release()
        except RuntimeError as error:
            if "unlocked" not in str(error):  # a signal handler's; else it is being woken already
                raise


class WaitingTask:
    """A task of an event loop that waits."""

    steps = False

    def __init__(self, ready: Callable[[], bool]):
        self.ready = ready
        self.loop = asyncio.get_running_loop()
        self.woken = self.loop.create_future()
        self.called = False  # it will be woken

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: Any) -> None:
    """Has an event loop of any thread call the function, unless it is closed, which another thread may do just now."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)


def wake_all(waiters: Iterable[WaitingThread | WaitingTask]) -> None:
    """Wakes them all, the tasks of an event loop with one call, which costs that loop one turn."""
    tasks: dict[asyncio.AbstractEventLoop, list[WaitingTask]] = {}
    for waiter in waiters:
        if isinstance(waiter, WaitingThread):
            waiter.wake()
        elif not waiter.called:
            tasks.setdefault(waiter.loop, []).append(waiter)
    for loop, of_loop in tasks.items():
        call_soon(loop, _wake_tasks, of_loop)
        for task in of_loop:
            task.called = True


def _wake_tasks(tasks: list[WaitingTask]) -> None:
    for task in tasks:
        task.wake()
