"""A running completion: chunks of text, rounds, statistics."""

import inspect
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from pyllama_mtp._native import ACCEPTANCE_RULES, Burst, NativeStats, logged
from pyllama_mtp.errors import InvalidRequestError, ModelClosedError, PyllamaMtpError, StreamError
from pyllama_mtp.names import AcceptanceRule, FinishReason
from pyllama_mtp.text import TextAssembler


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability under the target, before any sampling option is applied."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """What became certain since the last chunk.

    text: whole characters; maybe empty, as control tokens have none. token_ids: the tokens whose text is out.
    finish_reason: None until the last chunk, then "stop", "length" or "cancelled". logprobs: for each of token_ids its
    own TokenLogprob followed by the n best, or None if none were asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[list[TokenLogprob]] | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One draft/verify round. emitted is drafted[:accepted] + [bonus token], or a prefix of it (maybe empty) where the
    completion ended.
    """

    drafted: list[int]
    accepted: int
    emitted: list[int]


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a completion, also while it runs. Seconds are wall time, counts are tokens unless said otherwise.

    cached_prompt_tokens: prompt tokens that were in the KV cache already. seed: the one given, or the one drawn.
    prompt_seconds: prefill and the first token. decode_seconds: all rounds = draft + verify + sample + a rest.
    tokens_per_second: tokens after the first one over decode_seconds; None before the first round.
    acceptance: the acceptance rule in use, never "auto"; greedy text has no other than "coupled". The same request with
    this seed and this rule gives the same text.
    rounds: draft/verify rounds, also those that drafted nothing; the first token belongs to none.
    acceptance_rate: accepted over drafted. mean_acceptance_length: tokens that a round gives: accepted drafts and the
    bonus token, which is missing only where an accepted draft ends the completion. acceptance_per_position: for each
    draft position, the share of the rounds that drafted it in which it was accepted. These three use only rounds that
    drafted and are None if none did.
    """

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    seed: int
    prompt_seconds: float
    decode_seconds: float
    draft_seconds: float
    verify_seconds: float
    sample_seconds: float
    tokens_per_second: float | None
    acceptance: AcceptanceRule
    rounds: int
    drafted: int
    accepted: int
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    acceptance_per_position: list[float] | None

    @classmethod
    def from_native(cls, native: NativeStats, seed: int) -> "Stats":
        """native: the engine's counters."""
        positions = zip(native.accepted_per_position, native.drafted_per_position, strict=True)
        decoded = max(0, native.completion_tokens - 1)
        drafting = native.drafting_rounds
        return cls(
            prompt_tokens=native.prompt_tokens,
            cached_prompt_tokens=native.cached_prompt_tokens,
            completion_tokens=native.completion_tokens,
            seed=seed,
            prompt_seconds=native.prompt_seconds,
            decode_seconds=native.decode_seconds,
            draft_seconds=native.draft_seconds,
            verify_seconds=native.verify_seconds,
            sample_seconds=native.sample_seconds,
            tokens_per_second=decoded / native.decode_seconds if native.decode_seconds > 0 else None,
            acceptance=ACCEPTANCE_RULES[native.acceptance],
            rounds=native.rounds,
            drafted=native.drafted,
            accepted=native.accepted,
            acceptance_rate=native.accepted / native.drafted if native.drafted else None,
            mean_acceptance_length=native.drafting_rounds_emitted / drafting if drafting else None,
            acceptance_per_position=[a / d for a, d in positions if d] if drafting else None,
        )


class TokenSource(Protocol):
    """What a Stream reads bursts of tokens from: a NativeGeneration."""

    def step(self) -> Burst: ...
    def cancel(self) -> None: ...
    def truncate(self, n_completion: int) -> None: ...
    def stats(self) -> NativeStats: ...
    def close(self) -> None: ...


def _no_bytes(_token: int) -> bytes:
    return b""


class Stream:
    """Iterate over it for Chunks; leaving the loop early cancels the completion and frees the model for the next one.

    A stream is read once. `stats`, `rounds`, `token_ids` and `finish_reason` are readable at any time, also after the
    end. An end-of-generation token counts as a token, but has no text. At a stop string the completion is cut to the
    tokens that gave at least one delivered character; rounds, statistics and the KV cache are cut likewise.

    No line of Python runs when a stream or its iterator is collected: what a signal handler raised there would be lost.
    A loop that was left is noticed by whoever asks next, be it for a property or for the model's next completion.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        token_bytes: Callable[[int], bytes],
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        seed: int = 0,
        trace: bool = False,
        model: object = None,
    ):
        """token_bytes: the text of a token. model: what must stay alive until the completion has ended."""
        self._source = source
        self._model = model
        self._process = os.getpid()
        self._token_bytes = token_bytes
        self._assembler = TextAssembler(stop, min_tokens)
        self._seed = seed
        self._trace = trace
        self._lock = threading.RLock()  # one step, or close()
        self._stepper = 0  # the thread that is in a step
        self._reader: weakref.ref[Generator[Chunk, None, None]] | None = None
        self._rounds: list[Round] = []
        self._committed: list[int] = []
        self._logprobs: list[list[TokenLogprob]] | None = None
        self._n_delivered = 0
        self._finish_reason: FinishReason | None = None
        self._final_stats: Stats | None = None
        self._closing = False  # close() was called
        self._closed = False
        self._after: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks as they become certain. Raises StreamError the second time, and what the engine raises."""
        if self._reader is not None:
            raise StreamError("a Stream can be read once; call generate() again for another completion")
        chunks = self._chunks()
        self._reader = weakref.ref(chunks)
        return chunks

    def _chunks(self) -> Generator[Chunk, None, None]:
        while self._finish_reason is None:
            try:
                chunk = logged(self._advance)
                if self._finish_reason is not None or self._closing:
                    self.close()  # before the last chunk: who reads it may start the next completion
            except BaseException:
                self.close()
                raise
            if chunk is not None:
                yield chunk

    def _advance(self) -> Chunk | None:
        """One native step; None if it brought nothing to tell (a part of the prefill, or all of it is held back)."""
        self._check_process()
        with self._lock:
            if self._finish_reason is not None:  # closed by another thread
                return None
            self._stepper = threading.get_ident()
            try:
                return self._take(self._source.step())
            finally:
                self._stepper = 0

    def _take(self, burst: Burst) -> Chunk | None:
        if burst.is_round and self._trace:
            self._rounds.append(Round(burst.drafted, burst.accepted, burst.emitted))
        if burst.logprobs is not None:
            rows = [[TokenLogprob(token, logprob) for token, logprob in row] for row in burst.logprobs]
            self._logprobs = (self._logprobs or []) + rows
        self._committed += burst.emitted
        text = ""
        for index, token in enumerate(burst.emitted):
            ends = burst.finish_reason == "stop" and index == len(burst.emitted) - 1
            text += self._assembler.feed(b"" if ends else self._token_bytes(token))
            if self._assembler.stopped:
                self._keep(max(self._n_delivered, self._assembler.delivered_tokens))
                self._finish_reason = "stop"
                return self._deliver(text, len(self._committed))
        if burst.finish_reason is not None:
            self._finish_reason = burst.finish_reason
            return self._deliver(text + self._assembler.finish(), len(self._committed))
        n_tokens = self._assembler.delivered_tokens
        return self._deliver(text, n_tokens) if text or n_tokens > self._n_delivered else None

    def _keep(self, n: int) -> None:
        """Takes back every committed token but the first n, here and in the engine. The lists may be of unequal length
        where a step was interrupted.
        """
        self._source.truncate(n)
        del self._committed[n:]
        if self._logprobs is not None:
            del self._logprobs[n:]
        left = max(0, n - 1)  # the first token belongs to no round
        for index, last in enumerate(self._rounds):
            kept = last.emitted[:left]
            left -= len(kept)
            if len(kept) < len(last.emitted):
                self._rounds[index] = Round(last.drafted, last.accepted, kept)

    def _deliver(self, text: str, n_tokens: int) -> Chunk:
        begin, self._n_delivered = self._n_delivered, n_tokens
        logprobs = None if self._logprobs is None else self._logprobs[begin:n_tokens]
        return Chunk(text, self._committed[begin:n_tokens], self._finish_reason, logprobs)

    def text(self) -> str:
        """Reads the stream to its end and returns all of its text."""
        return "".join(chunk.text for chunk in self)

    def cancel(self) -> None:
        """Ends the completion within one batch or round, from any thread, also during the prefill: the reader gets a
        last chunk with finish_reason "cancelled". Tokens that are out stay.
        """
        self._source.cancel()

    def close(self) -> None:
        """Ends the completion, if it runs, and frees the model for the next one. Idempotent; any thread may call it.

        What was not delivered is taken back, so that token_ids, rounds, stats and the KV cache agree. In a signal
        handler that interrupts a step of its own thread it only asks for that: the step does it when it has ended.
        """
        self.close_and_then(None)

    def close_and_then(self, after: Callable[[], None] | None) -> None:
        """close(), and a call when that is done."""
        if after is not None:
            self._after = after
        self._closing = True
        if os.getpid() != self._process:  # a forked child, where another thread may hold the lock for ever
            return
        self._source.cancel()  # the running step of another thread
        if self._stepper == threading.get_ident():
            return
        with self._lock:
            if not self._closed:
                self._end()
                self._closed = True
        if self._after is not None:
            self._after()
            self._after = None

    def _end(self) -> None:
        """Every step of it may be interrupted, and is made again by the next close()."""
        try:
            if self._finish_reason is None or self._finish_reason == "cancelled":
                self._finish_reason = "cancelled"
                if self._source.stats().completion_tokens > self._n_delivered:
                    self._keep(self._n_delivered)
            self._final_stats = self._read_stats()
        except ModelClosedError:  # the model was closed first, and the figures went with it
            pass
        except PyllamaMtpError:
            self._source.close()
            raise
        self._source.close()
        self._model = None
        self._token_bytes = _no_bytes

    @property
    def left(self) -> bool:
        """Whether it is neither closed nor read any more, though someone began to."""
        reader = self._reader() if self._reader is not None else None
        unread = self._reader is not None and (
            reader is None or inspect.getgeneratorstate(reader) == inspect.GEN_CLOSED
        )
        return not self._closed and (self._closing or unread)

    def _settle(self) -> None:
        if self.left:
            self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ModelClosedError("the completion was started before this process was forked: start one in the child")

    def _read_stats(self) -> Stats:
        return Stats.from_native(self._source.stats(), self._seed)

    @property
    def stats(self) -> Stats:
        """Figures up to now; see Stats."""
        self._settle()
        if self._final_stats is None:
            self._check_process()
        with self._lock:
            return self._final_stats or self._read_stats()

    @property
    def rounds(self) -> list[Round]:
        """The rounds up to now. Raises StreamError unless the completion was asked for with trace=True."""
        if not self._trace:
            raise StreamError("rounds are recorded only with generate(..., trace=True)")
        self._settle()
        return list(self._rounds)

    @property
    def token_ids(self) -> list[int]:
        """The tokens that were delivered."""
        self._settle()
        return self._committed[: self._n_delivered]

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it runs; then "stop", "length" or "cancelled"."""
        self._settle()
        return self._finish_reason

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise InvalidRequestError("a Stream cannot be copied or pickled: it is one completion, which is read once")

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
