"""A completion as the engine's loop makes it: bursts of tokens in, chunks of text out, for whoever reads them.

The loop runs on the threads of those who wait, and signal handlers raise exceptions there, at any instant: in the
middle of what is done for another reader too. So whatever a burst changes counts from one assignment on; before that,
the same burst is taken again.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pyllama_mtp._sequence import Burst, NativeStats
from pyllama_mtp.chat.reader import Reader
from pyllama_mtp.errors import ModelClosedError, PyllamaMtpError
from pyllama_mtp.names import FinishReason
from pyllama_mtp.results import Chunk, Round, TokenLogprob
from pyllama_mtp.text import Saved, Shown, TextAssembler


class TokenSource(Protocol):
    """Where the bursts come from: a NativeSequence."""

    seed: int

    def cancel(self) -> None: ...
    def truncate(self, n_completion: int) -> None: ...
    def stats(self) -> NativeStats: ...


class State(NamedTuple):
    """What counts of a Producer. Lengths are of its lists, which may hold more while a burst is taken.

    burst: number of the last one. n_tokens: of the completion. n_queued: of them in chunks. finish_reason, error: how
    it ended; both None while it runs. stats: as of its end.
    """

    burst: int
    text: Saved
    n_committed: int = 0
    n_tokens: int = 0
    n_queued: int = 0
    n_rounds: int = 0
    n_prompt_logprobs: int = 1
    n_chunks: int = 0
    finish_reason: FinishReason | None = None
    error: PyllamaMtpError | None = None
    stats: NativeStats | None = None

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Queued(NamedTuple):
    """A chunk and what had happened when it was made. burst: number of the last one."""

    chunk: Chunk
    burst: int
    n_rounds: int
    stats: NativeStats


def _named(rows: list[list[tuple[int, float]]], token_bytes: Callable[[int], bytes]) -> list[list[TokenLogprob]]:
    return [[TokenLogprob(token, value, token_bytes(token)) for token, value in row] for row in rows]


class Producer:
    """Makes chunks. take() and end() are called by the thread that steps, everything else by any.

    queue: one entry for each chunk; its reader may set those that it has taken to None. first_stats: of its beginning.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        token_bytes: Callable[[int], bytes],
        raw: bool = False,
        stop: Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        min_tokens: int = 0,
        trace: bool = False,
        logprobs: Callable[[int], bytes] | None = None,
        prompt_logprobs: Callable[[int], bytes] | None = None,
    ):
        """token_bytes: the text of a token. raw: a token that ends the completion has its text too. trace: record
        rounds. logprobs, prompt_logprobs: the bytes of a token, for those.
        """
        self.source = source
        self.queue: list[Queued | None] = []
        self.rounds: list[Round] = []
        self.token_ids: list[int] = []
        self._token_bytes = token_bytes
        self._raw = raw
        self._stop = stop, min_tokens
        self._echo = ""
        self._stop_token_ids = frozenset(stop_token_ids)
        self._assembler = TextAssembler(stop, min_tokens)
        self._trace = trace
        self._logprob_bytes = logprobs
        self._logprobs: list[list[TokenLogprob]] | None = None if logprobs is None else []
        self._prompt_logprob_bytes = prompt_logprobs
        self._prompt_logprobs: list[list[TokenLogprob]] = [[]]  # the first token has no probability
        self.state = State(-1, self._assembler.save())
        self.first_stats = NativeStats()

    def follow(self, reader: Reader, echo: str = "") -> None:
        """Has `reader` tell text from thoughts and calls; else all is text. echo: what the text begins with. To be
        called before the first burst.
        """
        self._echo = echo
        self._assembler = TextAssembler(*self._stop, reader)
        self.state = State(-1, self._assembler.save())

    def began(self) -> None:
        """The source gives bursts from now on."""
        self.first_stats = self.source.stats()

    def take(self, burst: Burst) -> None:
        """A burst of the source. The one that was taken last is ignored, and so are all after the end."""
        before = self.state
        if burst.number <= before.burst or before.ended:
            return
        self._take_back(before)
        if burst.is_round and self._trace:
            self.rounds.append(Round(burst.drafted, burst.accepted, burst.emitted))
        if self._logprobs is not None and self._logprob_bytes is not None and burst.logprobs is not None:
            self._logprobs += _named(burst.logprobs, self._logprob_bytes)
        if self._prompt_logprob_bytes is not None:
            self._prompt_logprobs += _named(burst.prompt_logprobs, self._prompt_logprob_bytes)
        self.token_ids += burst.emitted
        n_tokens = len(self.token_ids)
        finish_reason = burst.finish_reason
        shown = Shown()
        stop_reason: str | int | None = None
        for index, token in enumerate(burst.emitted):
            ends = finish_reason == "stop" and index == len(burst.emitted) - 1
            if ends and token in self._stop_token_ids:
                stop_reason = token
            data = b"" if ends and not self._raw else self._token_bytes(token)
            self._assembler.feed(token, data, shown)
            if self._assembler.stopped:
                break
        if finish_reason is not None and burst.error is None:
            self._assembler.finish(shown)
        if self._assembler.stopped:
            n_tokens = max(before.n_queued, self._assembler.delivered_tokens)
            self.source.truncate(n_tokens)
            finish_reason, stop_reason = "stop", self._assembler.stop_string
        if finish_reason == "stop" and self._assembler.n_calls > 0:
            finish_reason = "tool_calls"
        after = before._replace(
            burst=burst.number,
            text=self._assembler.save(),
            n_committed=len(self.token_ids),
            n_tokens=n_tokens,
            n_rounds=len(self.rounds),
            n_prompt_logprobs=len(self._prompt_logprobs),
            finish_reason=finish_reason,
            error=burst.error,
        )
        ready = n_tokens if finish_reason is not None else self._assembler.delivered_tokens
        self._queue(after, shown, ready if burst.error is None else after.n_queued, stop_reason)

    def end(self, finish_reason: FinishReason | None, error: PyllamaMtpError | None = None) -> None:
        """Ends it where it is, unless it has ended: what is held back of its text and tokens is dropped."""
        before = self.state
        if not before.ended:
            self._take_back(before)
            if before.n_tokens > before.n_queued:
                self.source.truncate(before.n_queued)
            after = before._replace(n_tokens=before.n_queued, finish_reason=finish_reason, error=error)
            self._queue(after, Shown(), after.n_queued)

    def _queue(self, after: State, shown: Shown, n_tokens: int, stop_reason: str | int | None = None) -> None:
        """Adds a chunk with the tokens up to n_tokens, if there is anything to tell, and makes `after` the state."""
        stats = self.source.stats()
        if after.ended:
            after = after._replace(stats=stats)
        begin = after.n_queued
        first = after.n_chunks == 0
        if n_tokens > begin or after.finish_reason is not None or shown != Shown():
            chunk = Chunk(
                text=self._echo + shown.text if first else shown.text,
                token_ids=self.token_ids[begin:n_tokens],
                finish_reason=after.finish_reason,
                logprobs=None if self._logprobs is None else self._logprobs[begin:n_tokens],
                reasoning=shown.reasoning,
                tool_calls=shown.calls,
                stop_reason=stop_reason,
                malformed_call=shown.malformed,
                prompt_logprobs=self._prompt_logprobs if first and self._prompt_logprob_bytes is not None else None,
            )
            self.queue.append(Queued(chunk, after.burst, after.n_rounds, stats))
            after = after._replace(n_queued=n_tokens, n_chunks=after.n_chunks + 1)
        self.state = after

    def _take_back(self, state: State) -> None:
        """What an interrupted take() has left."""
        self._assembler.restore(state.text)
        del self.token_ids[state.n_committed :]
        del self.rounds[state.n_rounds :]
        del self.queue[state.n_chunks :]
        del self._prompt_logprobs[state.n_prompt_logprobs :]
        if self._logprobs is not None:
            del self._logprobs[state.n_committed :]

    def stats(self) -> NativeStats:
        """As of its end, or as of now."""
        try:
            return self.state.stats or self.source.stats()
        except ModelClosedError:  # it ended in between
            if self.state.stats is None:
                raise
            return self.state.stats

    def rounds_of(self, n_rounds: int, n_tokens: int) -> list[Round]:
        """The first rounds, cut to the first n_tokens tokens."""
        left = max(0, n_tokens - 1)  # the first token belongs to no round
        rounds = []
        for made in self.rounds[:n_rounds]:
            kept = made.emitted[:left]
            left -= len(kept)
            rounds.append(made if len(kept) == len(made.emitted) else Round(made.drafted, made.accepted, kept))
        return rounds
