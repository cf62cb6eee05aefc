"""What the requests of one server share: its model, its limits, who is being answered, and whether it goes on."""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pyllama_mtp.errors import PyllamaMtpError
from pyllama_mtp.model import Model
from pyllama_mtp.server.errors import ApiError, draining, retry
from pyllama_mtp.server.metrics import Metrics
from pyllama_mtp.server.options import ServerOptions
from pyllama_mtp.stream import AsyncStream

ENDING_SECONDS = 2.0  # for requests that were ended
PREPARING_THREADS = 4  # that render and split prompts

log = logging.getLogger("pyllama_mtp.server")


class Active(Protocol):
    """A request that is being answered."""

    @property
    def streams(self) -> list[AsyncStream]: ...
    def end(self, why: ApiError) -> None: ...


class State:
    """Used on the event loop's thread."""

    def __init__(self, model: Model, options: ServerOptions):
        info = model.info
        self.model = model
        self.options = options
        self.names = options.served_model_names or (info.name,)
        self.metrics = Metrics(self.names[0], info, self._streams)
        self.pool = ThreadPoolExecutor(PREPARING_THREADS, "prompts")
        self.draining = False
        self._most = options.max_requests or info.max_num_seqs + model.options.max_queue
        self._active: set[Active] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def check_model(self, name: object) -> None:
        """Raises ApiError (404) for a model of another name; None: whichever there is."""
        if name is not None and name not in self.names:
            shown = repr(name)[:200]
            message = f"the model {shown} does not exist, expected {' or '.join(self.names)}"
            raise ApiError(404, message, code="model_not_found", param="model")

    def enter(self, request: Active) -> None:
        """Raises ApiError (429, 503)."""
        if self.draining:
            raise draining()
        if len(self._active) >= self._most:
            raise retry(429, f"{self._most} requests are being answered, as many as the server takes", "queue_full")
        self._active.add(request)
        self._idle.clear()

    def leave(self, request: Active) -> None:
        self._active.discard(request)
        if not self._active:
            self._idle.set()

    async def drain(self) -> None:
        """Takes no more requests; returns when none is left, all of them ended after drain_seconds."""
        self.draining = True
        try:
            async with asyncio.timeout(self.options.drain_seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d requests are ended", len(self._active))
            for request in list(self._active):
                request.end(draining())
            with contextlib.suppress(TimeoutError):  # whoever does not read what they are told is left
                async with asyncio.timeout(ENDING_SECONDS):
                    await self._idle.wait()

    def log_failure(self, error: Exception) -> None:
        """Where it happened. What an exception of Python's says may hold parts of a request, which no log may."""
        said = f"{error}" if isinstance(error, PyllamaMtpError) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s: %s\n%s", type(error).__name__, said, frames)

    def _streams(self) -> Iterator[AsyncStream]:
        for request in list(self._active):
            yield from request.streams
