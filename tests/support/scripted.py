"""A model that says what its last message tells it to, for tests of what is above models; served in this process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import uvicorn

from pyllama_mtp import Stats, Usage
from pyllama_mtp.server import ServerOptions, create_app
from pyllama_mtp.server.listen import bind


@dataclass
class Said:
    """A chunk."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[Any] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=lambda: [1])
    finish_reason: str | None = None
    stop_reason: str | None = None
    logprobs: None = None
    prompt_logprobs: None = None


class ScriptedStream:
    """Gives chunks, one every `seconds`."""

    def __init__(self, chunks: list[Said], seconds: float, seed: int):
        self._chunks = chunks
        self._seconds = seconds
        self._seed = seed
        self._n = 0
        self.finish_reason: str | None = None
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Said]:
        for chunk in self._chunks:
            await asyncio.sleep(self._seconds)
            if self.closed:
                return
            self._n += 1
            self.finish_reason = chunk.finish_reason
            yield chunk

    def close(self) -> None:
        self.closed = True

    @property
    def computed(self) -> bool:
        return self.closed or self.finish_reason is not None

    @property
    def stats(self) -> Stats:
        values = dict.fromkeys(Stats.__dataclass_fields__, 0) | {"seed": self._seed, "tokens_per_second": 50.0}
        values |= {
            "prompt_tokens": 10,
            "cached_prompt_tokens": 4,
            "completion_tokens": self._n,
            "acceptance": "coupled",
        }
        values |= {"drafted": 6, "accepted": 3, "drafted_per_position": [3, 3], "accepted_per_position": [2, 1]}
        return Stats(
            **values | {"acceptance_rate": 0.5, "mean_acceptance_length": 2.0, "acceptance_per_position": [0.6, 0.3]}
        )


class ScriptedModel:
    """Says the last message's content, `size` characters a chunk. What stands between ((double parentheses)) it thinks.

    asked: the arguments of every call. streams: those that began.
    """

    def __init__(self, seconds: float = 0.0, size: int = 3):
        self.seconds = seconds
        self.size = size
        self.calls: list[Any] = []  # tool calls at the end of every text
        self.asked: list[dict[str, Any]] = []
        self.streams: list[ScriptedStream] = []
        self.info = SimpleNamespace(
            name="scripted", n_ctx=4096, n_vocab=1000, n_cells=4096, max_num_seqs=4, drafter="mtp"
        )
        self.options = SimpleNamespace(max_queue=8)

    @property
    def usage(self) -> Usage:
        running = sum(not stream.closed for stream in self.streams)
        return Usage(n_running=running, n_waiting=0, n_cells=0, prefix_bytes=0)

    def agenerate(self, prompt: Any, **options: Any) -> ScriptedStream:
        self.asked.append({"prompt": prompt} | options)
        content = prompt[-1]["content"] if isinstance(prompt, list) else prompt
        thought, _, rest = content.partition("))")
        chunks = []
        if rest and thought.startswith("(("):
            chunks = [Said(reasoning=part) for part in self._parts(thought[2:])]
            content = rest
        chunks += [Said(text=part) for part in self._parts(content)]
        if self.calls:
            chunks.append(Said(tool_calls=list(self.calls)))
        chunks.append(Said(finish_reason="tool_calls" if self.calls else "stop"))
        stream = ScriptedStream(chunks, self.seconds, options.get("seed", 5))
        self.streams.append(stream)
        return stream

    def _parts(self, text: str) -> list[str]:
        return [text[i : i + self.size] for i in range(0, len(text), self.size)]


@contextmanager
def serving(model: Any, **options: Any) -> Iterator[str]:
    """The address of a server of `model`, on a thread of this process."""
    app = create_app(model, ServerOptions(**{"allowed_hosts": ("127.0.0.1",)} | options))
    with bind("127.0.0.1", 0) as sock:
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False, http="h11")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
        sock.listen(64)
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
