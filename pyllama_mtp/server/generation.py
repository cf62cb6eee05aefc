"""A request that generates, from its first token to its last: begun off the event loop, ended with who asked for it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from starlette.types import Receive, Scope, Send

from pyllama_mtp.errors import ModelClosedError
from pyllama_mtp.results import Chunk, Stats
from pyllama_mtp.server.errors import ApiError, api_error, draining, too_late
from pyllama_mtp.server.fields import Asked
from pyllama_mtp.server.parts import n_reasoning_tokens, only_first_call
from pyllama_mtp.server.state import State
from pyllama_mtp.server.usage import Usage
from pyllama_mtp.stream import AsyncStream

OPENING_SECONDS = 1.0  # a stream's status waits so long for its first token, since that may fail
WAITING_SECONDS = 15.0  # between the comments that keep a connection alive before the first token
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

log = logging.getLogger("pyllama_mtp.server")


class Choice:
    """One text of a request. n_tool_calls: complete ones so far."""

    def __init__(self, index: int, prompt_index: int, stream: AsyncStream):
        self.index = index
        self.prompt_index = prompt_index
        self.stream = stream
        self.n_tool_calls = 0
        self.finish_reason: str | None = None


class Shape(Protocol):
    """How an endpoint writes what is generated."""

    def opening(self, choice: Choice) -> bytes:
        """The first event of a text."""

    def part(self, choice: Choice, chunk: Chunk, usage: Usage) -> bytes:
        """The events of a chunk, maybe none."""

    def closing(self, choices: list[Choice], usage: Usage) -> bytes:
        """The events after the last chunk of all texts."""

    def keep(self, choice: Choice, chunk: Chunk) -> None:
        """Collects, instead of part()."""

    def whole(self, choices: list[Choice], usage: Usage) -> bytes:
        """What was collected."""


class Generation:
    """The answer to a request, as an ASGI application."""

    def __init__(self, state: State, asked: Asked, shape: Shape):
        self.usage = Usage()
        self._state = state
        self._asked = asked
        self._shape = shape
        self._choices: list[Choice] = []
        self._over = False
        self._why: ApiError | None = None  # it was ended; a status of 499: nobody is there any more
        self._task: asyncio.Task[None] | None = None
        self._send: Send
        self._started = False  # the status is out
        self._opened = False  # and the first events
        self._complete = False  # but for sending it
        self._opening = asyncio.Lock()
        self._begun = time.monotonic()

    @property
    def streams(self) -> list[AsyncStream]:
        """Those that run or wait."""
        return [choice.stream for choice in self._choices if choice.finish_reason is None and not self._over]

    def end(self, why: ApiError) -> None:
        """Ends it as soon as may be; the first reason counts."""
        if self._why is None and not self._complete and self._task is not None:
            self._why = why
            self._task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._task = asyncio.current_task()
        try:
            self._state.enter(self)
            async with self._watched(receive):
                await self._begin()
                await (self._answer_in_parts() if self._asked.stream else self._answer_whole())
        except asyncio.CancelledError:
            if self._why is None or self._task is None:
                raise
            self._task.uncancel()
            await self._fail(self._why)
        except Exception as error:
            self._why = api_error(error)
            if self._why.status == 500:
                self._state.log_failure(error)
            await self._fail(self._why)
        finally:
            self._close()

    @asynccontextmanager
    async def _watched(self, receive: Receive) -> AsyncIterator[None]:
        """Ends the request with its client, or when its time is up."""
        seconds = self._state.options.request_seconds
        timer = asyncio.get_running_loop().call_later(seconds, lambda: self.end(too_late(seconds)))
        watcher = asyncio.create_task(self._watch(receive))
        try:
            yield
        finally:
            timer.cancel()
            watcher.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(ApiError(499, "the client left"))

    def _close(self) -> None:
        self._over = True
        seconds = time.monotonic() - self._begun
        for choice in self._choices:
            choice.stream.close()
            self._state.metrics.text(choice.stream.stats, choice.finish_reason or "abort", seconds)
        self._state.leave(self)
        status = self._why.status if self._why is not None else 200
        ends = ",".join(choice.finish_reason or "abort" for choice in self._choices) or "none"
        usage = self.usage
        log.info(
            "%d prompt=%d cached=%d completion=%d finish=%s %.3f s",
            status,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            ends,
            seconds,
        )

    # Beginning.

    async def _begin(self) -> None:
        """Grammars, templates and tokens take a while, so they are made on another thread."""
        await asyncio.get_running_loop().run_in_executor(self._state.pool, self._begin_all)

    def _begin_all(self) -> None:
        asked = self._asked
        seed = asked.options.get("seed")
        for prompt_index, prompt in enumerate(asked.prompts):
            for i in range(asked.n):
                if self._over:
                    return
                options = asked.options if seed is None or i == 0 else asked.options | {"seed": seed + i}
                stream = self._state.model.agenerate(prompt, **options)
                self._choices.append(Choice(len(self._choices), prompt_index, stream))
                if self._over:
                    stream.close()

    # Answering.

    async def _read(self, choice: Choice, use: Callable[[Choice, Chunk], Awaitable[None]]) -> None:
        """Hands on the chunks of a text, and counts them."""
        metrics, usage, before = self._state.metrics, self.usage, None
        async for chunk in choice.stream:
            if chunk.finish_reason == "cancelled":  # the model was closed
                raise draining()
            now = time.monotonic()
            n = len(chunk.token_ids)
            usage.completion_tokens += n
            usage.reasoning_tokens += n_reasoning_tokens(chunk, lambda token: self._state.model.detokenize([token]))
            metrics.tokens(n, now - (before or self._begun), before is None)
            if before is None and choice.index % self._asked.n == 0:
                self._count_prompt(choice.stream.stats)
            before = now
            if not self._asked.parallel_tool_calls and chunk.tool_calls:
                chunk = only_first_call(chunk)
                choice.stream.close()
            choice.finish_reason = chunk.finish_reason
            await use(choice, chunk)

    def _count_prompt(self, stats: Stats) -> None:
        self.usage.prompt_tokens += stats.prompt_tokens
        self.usage.cached_tokens += stats.cached_prompt_tokens
        self._state.metrics.prompt(stats.prompt_tokens, stats.cached_prompt_tokens)

    async def _answer_whole(self) -> None:
        async def collect(choice: Choice, chunk: Chunk) -> None:
            self._shape.keep(choice, chunk)

        await self._each(collect)
        body = self._shape.whole(self._choices, self.usage)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self._started = self._complete = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _answer_in_parts(self) -> None:
        async def give(choice: Choice, chunk: Chunk) -> None:
            if data := self._shape.part(choice, chunk, self.usage):
                await self._give(data)

        waiting = asyncio.create_task(self._wait())
        try:
            await self._each(give)
        finally:
            waiting.cancel()
        await self._open()
        self._complete = True
        await self._give(self._shape.closing(self._choices, self.usage), more=False)

    async def _each(self, use: Callable[[Choice, Chunk], Awaitable[None]]) -> None:
        if len(self._choices) == 1:
            await self._read(self._choices[0], use)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for choice in self._choices:
                    group.create_task(self._read(choice, use))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _wait(self) -> None:
        """Until the first token is there: the status after a while, if the prompts were right, then comments."""
        await asyncio.sleep(OPENING_SECONDS)
        while not self._prepared():
            await asyncio.sleep(OPENING_SECONDS)
        await self._open()
        while not self.usage.completion_tokens:
            await asyncio.sleep(WAITING_SECONDS)
            await self._send({"type": "http.response.body", "body": b": waiting\n\n", "more_body": True})

    def _prepared(self) -> bool:
        try:
            return all(choice.stream.stats.prompt_tokens for choice in self._choices)
        except ModelClosedError:  # whoever reads is told so
            return False

    async def _open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
                self._started = True
                data = b"".join(self._shape.opening(choice) for choice in self._choices)
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
                self._opened = True

    async def _give(self, data: bytes, more: bool = True) -> None:
        if not self._opened:
            await self._open()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _fail(self, error: ApiError) -> None:
        if error.status == 499:
            return
        if self._started:
            data = b"data: " + error.as_json() + b"\n\ndata: [DONE]\n\n"
            await self._send({"type": "http.response.body", "body": data, "more_body": False})
        else:
            await error.response()({"type": "http"}, _nothing, self._send)


async def _nothing() -> dict[str, str]:
    return {"type": "http.disconnect"}
