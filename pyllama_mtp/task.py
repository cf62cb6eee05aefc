"""Native calls that take long, so that their callers can be interrupted.

A signal handler runs between two instructions of Python's main thread, never within a native call. So such a call is
made on a thread of its own, where no handler runs, while its caller waits where handlers do run. An exception that one
raises ends the wait; what the call was to make is the call's, and goes with it.
"""

import _thread
import threading
from collections.abc import Callable
from typing import TypeVar

from pyllama_mtp.errors import OutOfMemoryError

T = TypeVar("T")

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 0.15


def run(
    call: Callable[[], T],
    *,
    stop: Callable[[], None],
    poll: Callable[[], None] | None = None,
    patience: float | None = PATIENCE_SECONDS,
) -> T:
    """What call() returns or raises.

    poll() runs here, some twenty times a second. If it or a signal handler raises an exception, stop() asks the call to
    end, and the exception is raised once the call has ended, or after `patience` seconds; None: however long it takes.
    Raises OutOfMemoryError if no thread can be started.
    """
    begun = threading.Lock()  # taken by the call when it begins, or by who gives up before
    ended = threading.Lock()  # taken until the call has ended
    ended.acquire()
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        if not begun.acquire(blocking=False):
            return
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.release()

    try:
        start_thread(work)
        while not ended.acquire(timeout=POLL_SECONDS):
            if poll is not None:
                poll()
    except BaseException:
        stop()
        if not begun.acquire(blocking=False) and not (results or errors):  # else `ended` may be taken already
            ended.acquire(timeout=-1 if patience is None else patience)
        raise
    if errors:
        raise errors.pop()
    return results.pop()


def start_thread(work: Callable[[], None]) -> None:
    """Raises OutOfMemoryError if no thread can be started."""
    try:
        # Not a threading.Thread, whose end runs Python here: what a signal handler raises within is lost.
        _thread.start_new_thread(work, ())
    except RuntimeError as error:
        if str(error) != "can't start new thread":  # a signal handler's
            raise
        raise OutOfMemoryError(f"cannot start a thread: {error}") from error
