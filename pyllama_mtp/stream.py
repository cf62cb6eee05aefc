"""A running completion: chunks of text, rounds, statistics."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyllama_mtp.text import TextAssembler


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability under the target, before any sampling option is applied."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """What became certain since the last chunk.

    text: whole characters; empty while bytes or a possible stop string are held back. token_ids: the tokens whose text
    is out. finish_reason: None until the last chunk, then "stop", "length" or "cancelled". logprobs: per token its own
    TokenLogprob followed by the n best, or None if none were asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[list[TokenLogprob]] | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One draft/verify round. emitted is drafted[:accepted] + [bonus token], or a prefix of it where the
    completion ended.
    """

    drafted: list[int]
    accepted: int
    emitted: list[int]


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a completion, also while it runs. Seconds are wall time.

    rounds follow the first token, which the prefill gives. tokens_per_second: tokens of the rounds over decode_seconds.
    mean_acceptance_length: tokens a round, the bonus token included (as vLLM counts it). acceptance_rate: accepted over
    drafted. acceptance_per_position: for each draft position, the share of rounds that drafted it in which it was
    accepted. All rates use only rounds that drafted and are None if none did. decode_seconds = draft + verify + sample
    + a rest.
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
    rounds: int
    drafted: int
    accepted: int
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    acceptance_per_position: list[float]

    @classmethod
    def from_native(cls, native: dict, seed: int) -> "Stats":
        drafted_at, accepted_at = native["drafted_per_position"], native["accepted_per_position"]
        drafting = native["drafting_rounds"]
        decoded = max(0, native["completion_tokens"] - 1)
        return cls(
            **{
                name: native[name]
                for name in (
                    "prompt_tokens",
                    "cached_prompt_tokens",
                    "completion_tokens",
                    "prompt_seconds",
                    "decode_seconds",
                    "draft_seconds",
                    "verify_seconds",
                    "sample_seconds",
                    "rounds",
                    "drafted",
                    "accepted",
                )
            },
            seed=seed,
            tokens_per_second=decoded / native["decode_seconds"] if native["decode_seconds"] > 0 else None,
            acceptance_rate=native["accepted"] / native["drafted"] if native["drafted"] else None,
            mean_acceptance_length=native["drafting_rounds_emitted"] / drafting if drafting else None,
            acceptance_per_position=[a / d for a, d in zip(accepted_at, drafted_at, strict=True) if d],
        )


class TokenSource(Protocol):
    """What a Stream reads bursts of tokens from: a NativeGeneration."""

    def step(self): ...
    def cancel(self) -> None: ...
    def truncate(self, n_completion: int) -> None: ...
    def stats(self) -> dict: ...
    def close(self) -> None: ...


class Stream:
    """Iterate over it for Chunks; leaving the loop early cancels the completion and frees the model for the next one.

    A stream is read once. `stats`, `rounds`, `token_ids` and `finish_reason` stay readable after the end.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        token_bytes: Callable[[int], bytes],
        stop: Sequence[str],
        seed: int,
        trace: bool,
        on_close: Callable[[], None],
    ):
        self._source = source
        self._token_bytes = token_bytes
        self._assembler = TextAssembler(stop)
        self._seed = seed
        self._trace = trace
        self._on_close = on_close
        self._rounds: list[Round] = []
        self._committed: list[int] = []
        self._logprobs: list[list[TokenLogprob]] | None = None
        self._n_delivered = 0
        self._finish_reason: str | None = None
        self._final_stats: Stats | None = None
        self._started = False

    def __iter__(self) -> Iterator[Chunk]:
        if self._started:
            raise RuntimeError("a Stream can be read once; call generate() again for another completion")
        self._started = True
        return self._chunks()

    def _chunks(self) -> Iterator[Chunk]:
        try:
            while self._finish_reason is None and self._final_stats is None:
                chunk = self._advance()
                if chunk is not None:
                    yield chunk
        finally:
            self.close()

    def _advance(self) -> Chunk | None:
        """One native step; None if it brought nothing to tell (a part of the prefill)."""
        burst = self._source.step()
        if burst.is_round and self._trace:
            self._rounds.append(Round(burst.drafted, burst.accepted, burst.emitted))
        if burst.logprobs is not None:
            rows = [[TokenLogprob(token, logprob) for token, logprob in row] for row in burst.logprobs]
            self._logprobs = (self._logprobs or []) + rows
        text = ""
        self._finish_reason = burst.finish_reason
        for index, token in enumerate(burst.emitted):
            self._committed.append(token)
            ends = burst.finish_reason == "stop" and index == len(burst.emitted) - 1
            text += self._assembler.feed(b"" if ends else self._token_bytes(token))
            if self._assembler.stopped:
                return self._cut(text)
        if self._finish_reason is not None:
            text += self._assembler.finish()
            return self._deliver(text, len(self._committed))
        return self._deliver(text, self._assembler.delivered_tokens) if burst.emitted else None

    def _cut(self, text: str) -> Chunk:
        """A stop string is complete: takes back what stands behind the delivered text, here and in the engine."""
        kept = max(self._n_delivered, self._assembler.delivered_tokens)
        self._source.truncate(kept)
        self._finish_reason = "stop"
        surplus = len(self._committed) - kept
        del self._committed[kept:]
        if self._logprobs is not None:
            del self._logprobs[kept:]
        while surplus > 0 and self._rounds:
            last = self._rounds[-1]
            n = min(surplus, len(last.emitted))
            surplus -= n
            self._rounds[-1] = Round(last.drafted, last.accepted, last.emitted[: len(last.emitted) - n])
            if surplus > 0:
                self._rounds.pop()
        return self._deliver(text, kept)

    def _deliver(self, text: str, n_tokens: int) -> Chunk:
        begin, self._n_delivered = self._n_delivered, n_tokens
        logprobs = None if self._logprobs is None else self._logprobs[begin:n_tokens]
        return Chunk(text, self._committed[begin:n_tokens], self._finish_reason, logprobs)

    def text(self) -> str:
        """Reads the stream to its end and returns all of its text."""
        return "".join(chunk.text for chunk in self)

    def cancel(self) -> None:
        """Ends the completion at the next opportunity, from any thread, also during the prefill; tokens that are
        out stay.
        """
        self._source.cancel()

    def close(self) -> None:
        """Ends the completion and frees the model for the next one. Idempotent."""
        if self._final_stats is None:
            self._source.cancel()
            self._final_stats = self.stats
            if self._finish_reason is None:
                self._finish_reason = "cancelled"
            self._source.close()
            self._on_close()

    @property
    def stats(self) -> Stats:
        """Figures up to now; see Stats."""
        return self._final_stats or Stats.from_native(self._source.stats(), self._seed)

    @property
    def rounds(self) -> list[Round]:
        """The rounds up to now. Raises RuntimeError unless the completion was asked for with trace=True."""
        if not self._trace:
            raise RuntimeError("rounds are recorded only with generate(..., trace=True)")
        return list(self._rounds)

    @property
    def token_ids(self) -> list[int]:
        """The tokens that were delivered."""
        return self._committed[: self._n_delivered]

    @property
    def finish_reason(self) -> str | None:
        """None while it runs; then "stop", "length" or "cancelled"."""
        return self._finish_reason

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_on_close", None) is not None:
            self.close()
