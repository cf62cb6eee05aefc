"""A pmtp_sequence, and what it says of itself, as Python objects."""

import os
import secrets
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyllama_mtp._library import ACCEPTANCE_RULES, FINISH_REASONS, check, error_of, ffi, lib, set_numbers, text_of
from pyllama_mtp.errors import ModelClosedError, PyllamaMtpError
from pyllama_mtp.names import FinishReason

if TYPE_CHECKING:  # options take their limits from the library
    from pyllama_mtp.options import Request


class Constraint(Protocol):
    """What restricts the tokens of a completion. calls_python: while steps are computed."""

    @property
    def calls_python(self) -> bool: ...

    def apply_to(self, params: Any) -> None:
        """Makes it the grammar of pmtp_sequence_params, whose sequence it must outlive."""

    def error(self) -> PyllamaMtpError | None:
        """Why it failed while the completion ran; None: it did not."""


class Segment(NamedTuple):
    """A part of a prompt. branches: another prompt may go on differently from its end."""

    tokens: Sequence[int]
    branches: bool


@dataclass(frozen=True, slots=True)
class Burst:
    """What one step brought one sequence; see pmtp_burst. `logprobs` has per emitted token a list of (token, logprob),
    `prompt_logprobs` likewise per prompt token that the step judged.

    number: of the step, larger than of those before. error: why the sequence failed.
    """

    sequence: "NativeSequence"
    number: int
    n_prompt: int
    is_round: bool
    drafted: list[int]
    accepted: int
    emitted: list[int]
    finish_reason: FinishReason | None
    error: PyllamaMtpError | None
    logprobs: list[list[tuple[int, float]]] | None
    prompt_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)


class NativeStats(NamedTuple):
    """The fields of pmtp_stats, in its order."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    acceptance: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    drafting_rounds: int = 0
    drafting_rounds_emitted: int = 0
    drafted_per_position: Sequence[int] = ()
    accepted_per_position: Sequence[int] = ()
    queue_seconds: float = 0.0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    sample_seconds: float = 0.0


def _rows(entries: Any, n_rows: int, width: int) -> list[list[tuple[int, float]]]:
    """(token, logprob) of a native table."""
    rows = (entries[row * width : (row + 1) * width] for row in range(n_rows))
    return [[(entry.token, entry.logprob) for entry in row] for row in rows]


def _stats_layout() -> struct.Struct:
    """pmtp_stats as its values one after another."""
    letters = {"int32_t": "i", "double": "d"}
    formats = []
    for _, member in ffi.typeof("pmtp_stats").fields:
        is_array = member.type.kind == "array"
        letter = letters[(member.type.item if is_array else member.type).cname]
        formats.append(f"{member.type.length}{letter}" if is_array else letter)
    return struct.Struct("@" + "".join(formats))


_STATS = _stats_layout()
_POSITIONS = ffi.typeof("pmtp_stats").fields[NativeStats._fields.index("drafted_per_position")][1].type.length


class NativeSequence:
    """Owns a pmtp_sequence, as NativeModel owns a model: waiting, running or ended.

    seed: the one given, or the one drawn. cancelled: cancel() was called.
    """

    def __init__(self, options: "Request") -> None:
        """It begins with NativeModel.start(). options: none of those of pyllama_mtp.sampling is None."""
        self._constraint: Constraint | None = None
        self.seed = secrets.randbits(63) if options.seed is None else options.seed
        self.cancelled = False
        self._begun = False
        self._n_logprobs = -1 if options.logprobs is None else options.logprobs
        self._n_prompt_logprobs = -1 if options.prompt_logprobs is None else options.prompt_logprobs
        self._process = os.getpid()
        self._lock = threading.RLock()  # orders calls, from any thread or signal handler, before free
        self._slot = ffi.gc(ffi.new("pmtp_sequence **"), lib.pmtp_sequence_release)

    def constrain(self, constraint: Constraint | None) -> None:
        """Restricts what it writes, until it is freed. To be called before it begins."""
        self._constraint = constraint

    @property
    def calls_python(self) -> bool:
        return self._constraint is not None and self._constraint.calls_python

    @property
    def handle(self) -> int:
        """0: it has not begun, or was freed."""
        return int(ffi.cast("intptr_t", self._slot[0]))

    def begin(self, model: Any, prompt: Sequence[Segment], options: "Request") -> None:
        """model: a pmtp_model. See NativeModel.start()."""
        stop_tokens = ffi.new("int32_t[]", list(options.stop_token_ids or ()))
        logit_bias = ffi.new("pmtp_logit_bias[]", list((options.logit_bias or {}).items()))
        synthetic = ffi.new("double[]", list(options.synthetic_acceptance))
        native = ffi.new("pmtp_sequence_params *", lib.pmtp_default_sequence_params())
        set_numbers(native, options)  # what is None or "auto" stays as it is by default
        native.top_k = max(0, options.top_k or 0)
        native.seed = self.seed
        native.reproducible = options.seed is not None
        native.acceptance = ACCEPTANCE_RULES.index(options.acceptance)
        native.n_logprobs = self._n_logprobs
        native.n_prompt_logprobs = self._n_prompt_logprobs
        native.stop_tokens = stop_tokens
        native.n_stop_tokens = len(stop_tokens)
        native.logit_bias = logit_bias
        native.n_logit_bias = len(logit_bias)
        native.synthetic_acceptance = synthetic
        native.n_synthetic_acceptance = len(synthetic)
        if self._constraint is not None:
            self._constraint.apply_to(native)
        ids = [ffi.new("int32_t[]", list(segment.tokens)) for segment in prompt]
        segments = ffi.new(
            "pmtp_segment[]", [(i, len(i), segment.branches) for i, segment in zip(ids, prompt, strict=True)]
        )
        self._begun = True
        try:
            check(lib.pmtp_sequence_start(model, segments, len(segments), native, self._slot))
        except BaseException:
            self._begun = False
            raise

    def read(self, burst: Any, number: int) -> Burst:
        """A pmtp_burst of this sequence."""
        error = None
        if burst.status != lib.PMTP_OK:
            own = None if self._constraint is None else self._constraint.error()
            error = own or error_of(burst.status, self.error())
        return Burst(
            sequence=self,
            number=number,
            n_prompt=burst.n_prompt,
            is_round=bool(burst.is_round),
            drafted=list(burst.drafted[0 : burst.n_drafted]),
            accepted=burst.n_accepted,
            emitted=list(burst.emitted[0 : burst.n_emitted]),
            finish_reason=None if error is not None else FINISH_REASONS[burst.finish],
            error=error,
            logprobs=None if self._n_logprobs < 0 else _rows(burst.logprobs, burst.n_emitted, 1 + self._n_logprobs),
            prompt_logprobs=_rows(burst.prompt_logprobs, burst.n_prompt_logprobs, 1 + self._n_prompt_logprobs),
        )

    def error(self) -> str:
        """Why it failed; empty if it did not."""
        return text_of(lib.pmtp_sequence_error(self._slot[0]))

    def cancel(self) -> None:
        """Makes the running or next step end it. From any thread; does not wait."""
        self.cancelled = True
        if not self._foreign:
            with self._lock:
                lib.pmtp_sequence_cancel(self._slot[0])

    def truncate(self, n_completion: int) -> None:
        """Ends it with its first n_completion tokens. By the thread that steps."""
        check(lib.pmtp_sequence_truncate(self._slot[0], n_completion))

    def stats(self) -> NativeStats:
        """What happened up to the last step. From any thread; does not wait. Raises ModelClosedError after close()."""
        if self._foreign:
            raise ModelClosedError("the completion was started before this process was forked: start one in the child")
        out = ffi.new("pmtp_stats *")
        with self._lock:
            if not self._begun:
                return NativeStats()
            if not self._slot[0]:
                raise ModelClosedError("the completion was closed: start another one")
            check(lib.pmtp_sequence_get_stats(self._slot[0], out))
        values = _STATS.unpack(ffi.buffer(out))  # member by member it would take a part of a step
        drafted = NativeStats._fields.index("drafted_per_position")
        accepted, rest = drafted + _POSITIONS, drafted + 2 * _POSITIONS
        return NativeStats._make([*values[:drafted], values[drafted:accepted], values[accepted:rest], *values[rest:]])

    @property
    def _foreign(self) -> bool:
        return os.getpid() != self._process

    def close(self) -> None:
        """Frees it, ended or not. See NativeModel.free()."""
        with self._lock:
            lib.pmtp_sequence_release(self._slot)
