"""A completion as its reader sees it: Stream for threads, AsyncStream for tasks."""

import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, NamedTuple, NoReturn

from pyllama_mtp._library import logged
from pyllama_mtp._sequence import NativeStats
from pyllama_mtp.completion import Producer
from pyllama_mtp.errors import InvalidRequestError, ModelClosedError, StreamError
from pyllama_mtp.loop import EngineLoop
from pyllama_mtp.names import FinishReason
from pyllama_mtp.preparation import Preparation, beginning
from pyllama_mtp.results import Chunk, Round, Stats
from pyllama_mtp.sampling import NEUTRAL, Sampling

STEPS_AHEAD = 2  # of a task that reads


class Position(NamedTuple):
    """How far a completion was read. burst, stats: as of the last chunk; -1 and None before the first."""

    n_chunks: int = 0
    burst: int = -1
    n_tokens: int = 0
    n_rounds: int = 0
    stats: NativeStats | None = None
    finish_reason: FinishReason | None = None


class BaseStream:
    """What both kinds have in common.

    `stats`, `rounds`, `token_ids` and `finish_reason` are readable at any time, also after the end. An
    end-of-generation token counts as a token, but has no text. At a stop string the completion is cut to the tokens
    that gave at least one delivered character; rounds, statistics and the KV cache are cut likewise.

    No line of Python runs when a stream or its iterator is collected: what a signal handler raised there would be lost.
    A loop that was left is noticed by whoever asks next, be it for a property or for another completion of the model.
    """

    def __init__(
        self,
        producer: Producer,
        loop: EngineLoop,
        seed: int,
        trace: bool,
        model: object = None,
        sampling: Sampling = NEUTRAL,
    ):
        """model: what must stay alive until the completion has ended. sampling: for the statistics."""
        self._producer = producer
        self._loop = loop
        self._seed = seed
        self._sampling = sampling
        self._trace = trace
        self._model = model
        self._process = os.getpid()
        self._reader: weakref.ref[Any] | None = None
        self._lock = threading.RLock()  # taking a chunk, or close(); nobody waits while it is held
        self._taker = 0  # the thread that takes a chunk
        self._position = Position()
        self._closing = False  # close() was called
        self._final_stats: Stats | None = None  # when it is closed

    def _ready(self) -> bool:
        state = self._producer.state
        return state.n_chunks > self._position.n_chunks or state.ended or self._closing

    def _take(self) -> Chunk | None:
        """The next chunk; None if there is none. Raises what ended the completion. It is closed before its last chunk
        is out, so that who reads that may start the next one.
        """
        with self._lock:
            self._taker = threading.get_ident()
            try:
                chunk = self._taken()
            finally:
                self._taker = 0
        if chunk is None or chunk.finish_reason is not None or self._closing:
            self.close()
        return chunk

    def _taken(self) -> Chunk | None:
        if self._final_stats is not None:  # closed by another thread
            return None
        state, position = self._producer.state, self._position
        if position.n_chunks < state.n_chunks:
            queued = self._producer.queue[position.n_chunks]
            assert queued is not None
            self._position = Position(
                position.n_chunks + 1,
                queued.burst,
                position.n_tokens + len(queued.chunk.token_ids),
                queued.n_rounds,
                queued.stats,
                queued.chunk.finish_reason,
            )
            self._producer.queue[position.n_chunks] = None
            return queued.chunk
        if state.error is not None:
            raise state.error
        return None

    def cancel(self) -> None:
        """Ends the completion within one batch or round, from any thread, also during the prefill: the reader gets a
        last chunk with finish_reason "cancelled". Tokens that are out stay.
        """
        self._producer.source.cancel()

    def close(self) -> None:
        """Ends the completion, if it runs, and frees what it took. Idempotent; any thread may call it; does not wait.

        What was not delivered is taken back, so that token_ids, rounds and stats agree.
        """
        self._closing = True
        if os.getpid() != self._process:  # a forked child, where another thread may hold the lock for ever
            return
        if self._final_stats is None:
            self._producer.source.cancel()
        if self._taker == threading.get_ident():  # a signal handler's: who takes a chunk closes it then
            return
        with self._lock:
            if self._final_stats is None:
                self._final_stats = self._delivered_stats()
        self._loop.tidy()
        self._model = None

    def _delivered_stats(self) -> Stats:
        position = self._position
        stats = position.stats or self._producer.first_stats
        return Stats.from_native(stats._replace(completion_tokens=position.n_tokens), self._seed, self._sampling)

    @property
    def computed(self) -> bool:
        """Whether nothing is left to compute: reading it to its end takes no time."""
        return self._producer.state.ended or self._closing

    @property
    def left(self) -> bool:
        """Whether nobody reads it any more, though someone may have begun to."""
        if self._reader is None:
            return self._closing
        reader = self._reader()
        return self._closing or reader is None or self._is_over(reader)

    def _is_over(self, reader: Any) -> bool:
        return False

    @property
    def wants_steps(self) -> bool:
        """Whether steps are to be made although nobody waits for them."""
        return False

    def _settle(self) -> None:
        if self._final_stats is None and (self.left or self._loop.closed):
            self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ModelClosedError("the completion was started before this process was forked: start one in the child")

    def _check_unread(self) -> None:
        if self._reader is not None:
            raise StreamError("a stream can be read once; call generate() again for another completion")

    @property
    def stats(self) -> Stats:
        """Figures up to now; see Stats. After the end they are those of what was delivered."""
        self._settle()
        return self._final_stats or Stats.from_native(self._producer.stats(), self._seed, self._sampling)

    @property
    def rounds(self) -> list[Round]:
        """The rounds up to now. Raises StreamError unless the completion was asked for with trace=True."""
        if not self._trace:
            raise StreamError("rounds are recorded only with generate(..., trace=True)")
        self._settle()
        if self._final_stats is not None:
            return self._producer.rounds_of(self._position.n_rounds, self._position.n_tokens)
        state = self._producer.state
        return self._producer.rounds_of(state.n_rounds, state.n_tokens)

    @property
    def token_ids(self) -> list[int]:
        """The tokens that were delivered."""
        self._settle()
        return self._producer.token_ids[: self._position.n_tokens]

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it runs; then as in Chunk."""
        self._settle()
        return self._position.finish_reason or (None if self._final_stats is None else "cancelled")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise InvalidRequestError("a stream cannot be copied or pickled: it is one completion, which is read once")


class Stream(BaseStream):
    """Iterate over it for Chunks; leaving the loop early cancels the completion and frees what it took.

    A stream is read once. It is computed while someone reads it, or another stream of its model. See BaseStream.
    """

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks as they become certain. Raises StreamError the second time, and what the engine raises."""
        self._check_unread()
        chunks = self._chunks()
        self._reader = weakref.ref(chunks)
        return chunks

    def _chunks(self) -> Generator[Chunk, None, None]:
        while self._final_stats is None:
            try:
                self._check_process()
                logged(lambda: self._loop.wait(self._ready))
                chunk = self._take()
            except BaseException:
                self.close()
                raise
            if chunk is not None:
                yield chunk

    def _is_over(self, reader: Any) -> bool:
        return reader.gi_frame is None

    def text(self) -> str:
        """Reads the stream to its end and returns all of its text."""
        return "".join(chunk.text for chunk in self)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(BaseStream):
    """Stream for tasks of an event loop: `async for chunk in stream`. Steps are made on other threads.

    Leaving the loop, cancelling the task that waits for a chunk, or `async with` cancel the completion. See BaseStream.
    """

    _preparation: Preparation | None = None

    @property
    def wants_steps(self) -> bool:
        """While its task is busy with a chunk: STEPS_AHEAD, so that the two do not take turns."""
        state = self._producer.state
        return 0 <= state.burst < self._position.burst + STEPS_AHEAD and not state.ended and not self.left

    def prepare(self, begin: Callable[[BaseStream], None]) -> None:
        """Has the completion begin on another thread."""
        self._preparation = Preparation(beginning(self, begin, self._producer, self._loop))

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks as they become certain. Raises StreamError the second time, and what the engine raises."""
        self._check_unread()
        chunks = _AsyncChunks(self._next)
        self._reader = weakref.ref(chunks)
        return chunks

    async def _next(self) -> Chunk | None:
        while self._final_stats is None:
            try:
                self._check_process()
                if self._preparation is not None:
                    await self._preparation.wait()
                    self._preparation = None
                await self._loop.wait_as_task(self._ready)
                logged(lambda: None)
                chunk = self._take()
                if self.wants_steps:
                    self._loop.start()
            except BaseException:
                self.close()
                raise
            if chunk is not None:
                return chunk
        return None

    async def text(self) -> str:
        """Reads the stream to its end and returns all of its text."""
        return "".join([chunk.text async for chunk in self])

    async def aclose(self) -> None:
        """close()."""
        self.close()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class _AsyncChunks:
    """The iterator of an AsyncStream. Not an asynchronous generator: event loops run Python when one is collected."""

    def __init__(self, take: Callable[[], Any]):
        self._take = take

    def __aiter__(self) -> "_AsyncChunks":
        return self

    async def __anext__(self) -> Chunk:
        chunk: Chunk | None = await self._take()
        if chunk is None:
            raise StopAsyncIteration
        return chunk
