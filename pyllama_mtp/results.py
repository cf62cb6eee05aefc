"""What a completion tells: chunks of text, rounds, statistics, and all of it once it has ended."""

from dataclasses import dataclass, field
from typing import Any

from pyllama_mtp._library import ACCEPTANCE_RULES
from pyllama_mtp._sequence import NativeStats
from pyllama_mtp.errors import PyllamaMtpError
from pyllama_mtp.names import AcceptanceRule, FinishReason
from pyllama_mtp.sampling import NEUTRAL, Sampling


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability under the target, before any sampling option is applied.

    token_bytes: what the token stands for, control tokens included; maybe a part of a character.
    """

    token_id: int
    logprob: float
    token_bytes: bytes = b""

    @property
    def text(self) -> str:
        """The bytes as text, with U+FFFD for what is no whole character."""
        return self.token_bytes.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the model asks for. id: for the message with its result. raw: as the model wrote it."""

    id: str
    name: str
    arguments: dict[str, Any]
    raw: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What became certain since the last chunk.

    text: whole characters, for a reader; maybe empty, as control tokens have none. reasoning: likewise, of what the
    model thinks. tool_calls: complete ones. token_ids: the tokens of which all is out. finish_reason: None until the
    last chunk, then "stop", "length", "cancelled", or "tool_calls" where the model ended by itself and has called some.
    logprobs: for each of token_ids its own TokenLogprob followed by the n best, or None if none were asked for.
    stop_reason: the stop string, or the one of stop_token_ids, that ended it. malformed_call: text or reasoning hold
    what was meant for a call and cannot be read as one. prompt_logprobs: in the first chunk alone, likewise for each
    token of the prompt; an empty list for its first token, which nothing comes before.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[list[TokenLogprob]] | None = None
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    stop_reason: str | int | None = None
    malformed_call: bool = False
    prompt_logprobs: list[list[TokenLogprob]] | None = None


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
    queue_seconds: from the start until it ran. prompt_seconds: prefill and the first token. decode_seconds: all rounds
    = draft + verify + sample + a rest. These are the times of the steps that the completion took part in, as a whole:
    beside others its steps take longer, and the seconds of all completions together are more than those of the clock.
    On a GPU they are what the host spends: it waits for drafts and verification together, which is verify_seconds, and
    what the GPU does while tokens are handed out is not counted.
    tokens_per_second: tokens after the first one over decode_seconds; None before the first round.
    acceptance: the acceptance rule in use, never "auto"; greedy text has no other than "coupled". sampling: the options
    in use, those that the request left out too. The same request with this seed and this rule gives the same text.
    rounds: draft/verify rounds, also those that drafted nothing; the first token belongs to none.
    acceptance_rate: accepted over drafted. mean_acceptance_length: tokens that a round gives: accepted drafts and the
    bonus token, which is missing only where an accepted draft ends the completion. acceptance_per_position: for each
    draft position, the share of the rounds that drafted it in which it was accepted. These three use only rounds that
    drafted and are None if none did. drafted_per_position, accepted_per_position: the rounds behind those shares, up to
    the last position that was drafted.
    """

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    seed: int
    queue_seconds: float
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
    drafted_per_position: list[int]
    accepted_per_position: list[int]
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    acceptance_per_position: list[float] | None
    sampling: Sampling = NEUTRAL

    @classmethod
    def from_native(cls, native: NativeStats, seed: int, sampling: Sampling = NEUTRAL) -> "Stats":
        """native: the engine's counters."""
        positions = zip(native.accepted_per_position, native.drafted_per_position, strict=True)
        depth = sum(map(bool, native.drafted_per_position))
        decoded = max(0, native.completion_tokens - 1)
        drafting = native.drafting_rounds
        return cls(
            prompt_tokens=native.prompt_tokens,
            cached_prompt_tokens=native.cached_prompt_tokens,
            completion_tokens=native.completion_tokens,
            seed=seed,
            queue_seconds=native.queue_seconds,
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
            drafted_per_position=list(native.drafted_per_position[:depth]),
            accepted_per_position=list(native.accepted_per_position[:depth]),
            acceptance_rate=native.accepted / native.drafted if native.drafted else None,
            mean_acceptance_length=native.drafting_rounds_emitted / drafting if drafting else None,
            acceptance_per_position=[a / d for a, d in positions if d] if drafting else None,
            sampling=sampling,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model has in use. n_running, n_waiting: completions that are computed, and that wait for their turn.
    n_cells: of ModelInfo.n_cells, those in pages that hold a token of a completion or of one that ended and is kept for
    later prompts. prefix_bytes: memory of what is saved for them besides, at most prefix_cache_bytes.
    """

    n_running: int
    n_waiting: int
    n_cells: int
    prefix_bytes: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion of Model.generate_all that has ended.

    error: why there is none, or why it ended early; text and the rest are what there was before. finish_reason: as in
    Chunk; None where error is not. stats: None if it never began. The rest is that of all its Chunks.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    logprobs: list[list[TokenLogprob]] | None = None
    error: PyllamaMtpError | None = None
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    stop_reason: str | int | None = None
    malformed_call: bool = False
    prompt_logprobs: list[list[TokenLogprob]] | None = None
