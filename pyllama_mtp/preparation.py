"""What a completion for tasks begins with, on another thread: an event loop waits for no template and no long text."""

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from pyllama_mtp.completion import Producer
from pyllama_mtp.errors import InternalError, PyllamaMtpError
from pyllama_mtp.loop import EngineLoop, Reader
from pyllama_mtp.task import start_thread
from pyllama_mtp.waiting import call_soon

MAX_THREADS = 4

AnyReader = TypeVar("AnyReader", bound=Reader)


class Preparation:
    """A piece of work that tasks wait for. It begins at once, or when one of the threads for such work is free."""

    def __init__(self, work: Callable[[], None]) -> None:
        """work: raises nothing. Raises OutOfMemoryError if no thread can be started."""
        self._work = work
        self._done = False
        self._waiting: dict[Callable[[], None], None] = {}
        _threads.add(self._run)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._done = True
            del self._work
            for wake in list(self._waiting):
                wake()

    async def wait(self) -> None:
        """For a task of any event loop."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def wake() -> None:
            call_soon(loop, done.set)

        self._waiting[wake] = None
        try:
            if not self._done:
                await done.wait()
        finally:
            self._waiting.pop(wake, None)


class _Threads:
    """Up to MAX_THREADS, which end when there is nothing to do."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # signal handlers may add something, too
        self._jobs: deque[Callable[[], None]] = deque()
        self._n = 0

    def add(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._n == MAX_THREADS:
                return
            self._n += 1
        try:
            start_thread(self._serve)
        except BaseException:
            with self._lock:
                self._n -= 1
                if self._n == 0 and job in self._jobs:  # else another thread does it
                    self._jobs.remove(job)
                    raise

    def _serve(self) -> None:
        """Ends with the jobs. Where one of them raises all the same, others have a thread in its place."""
        counted = True
        try:
            while True:
                with self._lock:
                    if not self._jobs:
                        self._n -= 1
                        counted = False
                        return
                    job = self._jobs.popleft()
                job()
        finally:
            if counted:
                with self._lock:
                    self._n -= 1


def beginning(
    reader: AnyReader, begin: Callable[[AnyReader], None], producer: Producer, loop: EngineLoop
) -> Callable[[], None]:
    """What has a completion begin, unless nobody waits for it any more; raises nothing, and keeps no reader alive."""
    reference = weakref.ref(reader)

    def work() -> None:
        waiting = reference()
        if waiting is None or waiting.left:
            return
        try:
            begin(waiting)
        except PyllamaMtpError as error:
            producer.end("cancelled") if loop.closed else producer.end(None, error)
        except BaseException as error:  # nobody else would hear of it
            producer.end(None, InternalError(f"a prompt could not be made: {error!r}"))

    return work


def _renew() -> None:
    """In a forked child, which has none of the threads."""
    global _threads
    _threads = _Threads()


_threads = _Threads()
os.register_at_fork(after_in_child=_renew)
