"""The engine's loop: who steps a model that several threads and tasks read from.

Whoever waits for something and finds no one stepping takes the seat and steps, for all, until there is what it waits
for; then it leaves the seat to another one who waits. So nothing is computed ahead of a single reader, and a reader
that does not come holds back nobody. Tasks of event loops do not step: a thread does it for them while they wait, and
for two steps more, while they are busy with what they took.

Signal handlers run between two instructions of the main thread, at a call, a return or a loop's end, and may raise. So
the seat is a dictionary with one key or none, which one instruction takes and another gives back, with no call before
it; what a step brought stays until all have it; and a lost call to wake someone costs PATIENCE_SECONDS, no more.
"""

import weakref
from _thread import get_ident
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pyllama_mtp._library import NoRoomError
from pyllama_mtp._native import NativeModel
from pyllama_mtp._sequence import NativeSequence, Segment
from pyllama_mtp.completion import Producer
from pyllama_mtp.errors import InternalError, ModelClosedError, PyllamaMtpError, QueueFullError, StreamError
from pyllama_mtp.options import Request
from pyllama_mtp.task import start_thread
from pyllama_mtp.waiting import WaitingTask, WaitingThread, wake_all

PATIENCE_SECONDS = 0.25
IDLE_SECONDS = 1.0  # that the thread for tasks stays without any
MAX_EMPTY_STEPS = 1000  # one after the other: nothing will come any more

T = TypeVar("T")


class Reader(Protocol):
    """Who reads a completion."""

    @property
    def left(self) -> bool:
        """Whether nobody reads it any more."""

    @property
    def wants_steps(self) -> bool:
        """Whether steps are to be made for it although it does not wait, being busy with what it took."""


class EngineLoop:
    """Owns a NativeModel and the completions that run on it. Its methods may be called from any thread."""

    def __init__(self, native: NativeModel, max_running: int, max_queue: int):
        self.native = native
        self._max_running = max_running
        self._max_queue = max_queue
        self._producers: dict[NativeSequence, tuple[Producer, weakref.ref[Reader]]] = {}
        self._seat: dict[str, int] = {}  # who steps: {"thread": its identity}, or nothing
        self._waiting: dict[WaitingThread | WaitingTask, None] = {}
        self._guests: dict[WaitingThread, None] = {}  # who waits for the seat itself
        self._server: dict[str, WaitingThread] = {}  # the thread for tasks, or nothing
        self._n_empty = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def begin(
        self,
        sequence: NativeSequence,
        producer: Producer,
        reader: Reader,
        prompt: Sequence[Segment],
        options: Request,
    ) -> None:
        """Starts a completion. Raises QueueFullError, ContextOverflowError, InvalidRequestError, ModelClosedError."""
        self.native.check_process()
        if self._closed:
            raise ModelClosedError("the model was closed: load it again")
        self.tidy()
        if not self.has_room():
            raise QueueFullError(
                f"{self._max_running} completions run and {self._max_queue} wait, expected fewer (max_queue is "
                f"{self._max_queue}): read some to their end, or load the model with a larger max_queue"
            )
        self._producers[sequence] = producer, weakref.ref(reader)
        try:
            self.native.start(sequence, prompt, options)
        except PyllamaMtpError:
            self._producers.pop(sequence, None)
            self.native.free(sequence)
            raise

    def has_room(self) -> bool:
        """Whether one more may begin, or is told that the model was closed."""
        unended = 0
        for producer, reference in list(self._producers.values()):
            reader = reference()
            unended += reader is not None and not reader.left and not producer.state.ended
        return self._closed or unended < self._max_running + self._max_queue

    def wait(self, ready: Callable[[], bool]) -> None:
        """Returns when ready() is true, which steps bring about; makes them where no other thread does.

        Raises StreamError in a signal handler that interrupts a step of its own thread.
        """
        waiter: WaitingThread | None = None
        try:
            while not ready():
                if not self._guests and self._lead(ready):
                    continue
                if waiter is None:
                    waiter = WaitingThread(ready)
                self._waiting[waiter] = None
                if not ready() and (self._seat or self._guests):
                    waiter.sleep(PATIENCE_SECONDS)
        finally:
            if waiter is not None:
                self._waiting.pop(waiter, None)
                self._wake_next()  # it may be the one that was woken to step

    async def wait_as_task(self, ready: Callable[[], bool]) -> None:
        """wait() for a task of an event loop: the steps are made elsewhere."""
        while not ready():
            waiter = WaitingTask(ready)
            self._waiting[waiter] = None
            try:
                self.start()
                if not ready():
                    await waiter.woken
            finally:
                self._waiting.pop(waiter, None)

    def alone(self, function: Callable[[], T]) -> T:
        """function() between two steps; where it finds no room beside the sequences that run, after as many steps as it
        takes. Raises StreamError as wait() does.
        """
        me = get_ident()
        mine = {"thread": me}
        self._check_seat(mine)
        guest = WaitingThread(lambda: True)
        try:
            self._guests[guest] = None
            while self._seat.setdefault("thread", me) != me:
                guest.sleep(PATIENCE_SECONDS)
            self._sweep()
            while True:
                try:
                    return function()
                except NoRoomError:
                    self._step()
        finally:
            if self._seat == mine:
                del self._seat["thread"]
            self._guests.pop(guest, None)
            self._wake_next()

    def tidy(self) -> None:
        """Frees what ended or was left, unless someone steps, who does it, and wakes who waited for that."""
        me = get_ident()
        mine = {"thread": me}
        if self._seat != mine and not self.native.foreign:
            try:
                if self._seat.setdefault("thread", me) == me:
                    self._sweep()
            finally:
                if self._seat == mine:
                    del self._seat["thread"]
                self._wake_next()

    def close(self) -> None:
        """Ends every completion and frees the model. Idempotent. Amid a step of its own thread, as in a signal handler,
        it only asks for that.
        """
        self._closed = True
        self.native.close()
        if not self.native.foreign and self._seat != {"thread": get_ident()}:
            self.alone(lambda: None)

    # Stepping. The thread that does this has the seat.

    def _check_seat(self, mine: dict[str, int]) -> None:
        if self._seat == mine:
            raise StreamError("a signal handler interrupted a step, which must end before another stream can be read")

    def _lead(self, ready: Callable[[], bool]) -> bool:
        """Steps until ready() is true or a guest comes. False: another thread has the seat."""
        me = get_ident()
        mine = {"thread": me}
        self._check_seat(mine)
        try:
            if self._seat.setdefault("thread", me) != me:
                return False
            while not ready() and not self._guests:
                self._step()
            return True
        finally:
            if self._seat == mine:
                del self._seat["thread"]
                self._wake_next()

    def _step(self) -> None:
        self._sweep()
        try:
            if not self._closed:
                self.native.step()
        except ModelClosedError:
            if not self._closed:
                raise
        self._n_empty = 0 if self.native.n_bursts else self._n_empty + 1
        self._hand_out()
        if self._closed or self._n_empty > MAX_EMPTY_STEPS:
            self._end_all()
        wake_all(waiter for waiter in list(self._waiting) if waiter.ready())

    def _hand_out(self) -> None:
        """Gives everyone what the last step brought, if that was not done or was interrupted."""
        if self.native.n_bursts:
            for burst in self.native.bursts():
                producer, _ = self._producers.get(burst.sequence, (None, None))
                if producer is not None:
                    try:
                        producer.take(burst)
                    except PyllamaMtpError as error:
                        self._end(producer, error)
            self.native.stepped()

    def _end(self, producer: Producer, error: PyllamaMtpError) -> None:
        if self._closed:
            producer.end("cancelled")
        else:
            producer.end(None, error)

    def _end_all(self) -> None:
        """Because the model was closed, or the engine does nothing for them."""
        for producer, _ in list(self._producers.values()):
            self._end(producer, InternalError("the engine has nothing to do for a completion that has not ended"))
        self._sweep()

    def _sweep(self) -> None:
        """Frees the sequences of what ended or was left."""
        self._hand_out()  # before anything is freed that a burst names
        for sequence, (producer, reference) in list(self._producers.items()):
            reader = reference()
            gone = self._closed or reader is None or reader.left
            if gone and reader is not None and sequence.handle:  # it may tell of itself
                producer.end("cancelled")
            if gone or producer.state.ended:
                self.native.free(sequence)
                self._producers.pop(sequence, None)

    def _wake_next(self) -> None:
        """Wakes those who have what they wait for, and one more if the seat is free: a guest or one who steps."""
        spare = not self._seat
        for guest in list(self._guests):
            if spare:
                guest.wake()
                spare = False
        waiting = list(self._waiting)
        wake_all(waiter for waiter in waiting if waiter.ready())
        if spare:
            wake_all([waiter for waiter in waiting if waiter.steps and not waiter.ready()][:1])

    # The thread that steps for tasks.

    def start(self) -> None:
        """Has a thread step while tasks wait. It ends some time after the last one."""
        server = WaitingThread(self._serves_nobody)
        try:
            if (serving := self._server.setdefault("thread", server)) is not server:
                serving.wake()
                return
            start_thread(lambda: self._serve(server))
        except BaseException:
            if self._server.get("thread") is server:  # a second thread would do no harm
                self._server.pop("thread", None)
            raise

    def _serves_nobody(self) -> bool:
        if not all(waiter.steps or waiter.ready() for waiter in list(self._waiting)):
            return False
        readers = [reference() for _, reference in list(self._producers.values())]
        return not any(reader is not None and reader.wants_steps for reader in readers)

    def _serve(self, server: WaitingThread) -> None:
        """Takes part in the loop as a thread that waits until no task does."""
        while True:
            try:
                self.wait(self._serves_nobody)
            except Exception as error:  # nobody else would hear of it
                self._fail(error if isinstance(error, PyllamaMtpError) else InternalError(f"a step failed: {error!r}"))
            server.sleep(IDLE_SECONDS)
            if self._serves_nobody():
                if self._server.get("thread") is server:
                    del self._server["thread"]
                if self._serves_nobody() or self._server.setdefault("thread", server) is not server:
                    return

    def _fail(self, error: PyllamaMtpError) -> None:
        def end() -> None:
            for producer, _ in list(self._producers.values()):
                self._end(producer, error)

        self.alone(end)
