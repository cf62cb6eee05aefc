"""What a caller may ask for: frozen dataclasses that check themselves. Errors name the value seen and the legal
range.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyllama_mtp.errors import InvalidRequestError

MAX_DRAFT = 16  # PMTP_MAX_DRAFT
MAX_LOGPROBS = 64  # PMTP_MAX_LOGPROBS
ACCEPTANCE_RULES = ("auto", "coupled", "rejection", "rejection_greedy", "block")  # by pmtp_acceptance
_INT32_MAX = 2**31 - 1


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(f"{name} is {value!r}, expected an integer")
    if not low <= value <= high:
        raise InvalidRequestError(f"{name} is {value}, expected {low}..{high}")


def _number(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequestError(f"{name} is {value!r}, expected a finite number")
    if value < low or value > high or (open_low and value == low):
        bounds = f"more than {low:g} and at most {high:g}" if open_low else f"{low:g}..{high:g}"
        raise InvalidRequestError(f"{name} is {value:g}, expected {bounds}")


def _items(name: str, value: object) -> Sequence[object]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidRequestError(f"{name} is {value!r}, expected a list")
    return value


def check_draft_length(value: object) -> None:
    """Raises InvalidRequestError unless value is 0..16 or "auto"."""
    if value != "auto":
        _integer('num_speculative_tokens (or "auto")', value, 0, MAX_DRAFT)


def available_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is loaded; the parameters of Model, checked."""

    n_ctx: int | None = None
    num_speculative_tokens: int | str = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    cache_type_k_swa: str | None = None
    cache_type_v_swa: str | None = None
    n_gpu_layers: int = -1
    n_threads: int | None = None
    n_batch: int = 512
    flash_attention: bool | None = None

    def __post_init__(self) -> None:
        if self.n_ctx is not None:
            _integer("n_ctx", self.n_ctx, 1, 1 << 24)
        check_draft_length(self.num_speculative_tokens)
        for name in ("cache_type_k", "cache_type_v", "cache_type_k_swa", "cache_type_v_swa"):
            value = getattr(self, name)
            is_name = isinstance(value, str) and value.isascii() and value.isprintable()
            if not is_name and not (value is None and name.endswith("_swa")):
                raise InvalidRequestError(f"{name} is {value!r}, expected the name of a type, such as 'f16' or 'q8_0'")
        _integer("n_gpu_layers", self.n_gpu_layers, -1, 10_000)
        if self.n_threads is not None:
            _integer("n_threads", self.n_threads, 1, 512)
        _integer("n_batch", self.n_batch, 32, 1 << 16)
        if self.flash_attention not in (None, True, False):
            raise InvalidRequestError(
                f"flash_attention is {self.flash_attention!r}, expected True, False or None (where supported)"
            )


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """One completion; the parameters of Model.generate, checked. Names and meanings are vLLM's SamplingParams."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    num_speculative_tokens: int | str = "auto"
    acceptance: str = "auto"
    synthetic_acceptance: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, _INT32_MAX)
        _integer("min_tokens", self.min_tokens, 0, _INT32_MAX if self.max_tokens is None else self.max_tokens)
        _number("temperature", self.temperature, 0, 1e6)
        _number("top_p", self.top_p, 0, 1, open_low=True)
        _integer("top_k (0 or -1: all)", self.top_k, -1, _INT32_MAX)
        _number("min_p", self.min_p, 0, 1)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**64 - 1)
        for text in _items("stop", self.stop_strings):
            if not isinstance(text, str) or not text:
                raise InvalidRequestError(f"stop holds {text!r}, expected strings that are not empty")
        for token in _items("stop_token_ids", self.stop_token_ids or ()):
            _integer("a stop token id", token, 0, _INT32_MAX)
        if not isinstance(self.ignore_eos, bool):
            raise InvalidRequestError(f"ignore_eos is {self.ignore_eos!r}, expected True or False")
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        _number("repetition_penalty", self.repetition_penalty, 0, 2, open_low=True)
        if self.logit_bias is not None and not isinstance(self.logit_bias, Mapping):
            raise InvalidRequestError(f"logit_bias is {self.logit_bias!r}, expected {{token id: bias}}")
        for token, bias in (self.logit_bias or {}).items():
            _integer("a token id of logit_bias", token, 0, _INT32_MAX)
            if bias != -math.inf:
                _number(f"logit_bias of token {token}", bias, -1e4, 1e4)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        check_draft_length(self.num_speculative_tokens)
        if self.acceptance not in ACCEPTANCE_RULES:
            raise InvalidRequestError(
                f"acceptance is {self.acceptance!r}, expected one of {', '.join(ACCEPTANCE_RULES)}"
            )
        rates = _items("synthetic_acceptance", self.synthetic_acceptance)
        if len(rates) > MAX_DRAFT:
            raise InvalidRequestError(f"synthetic_acceptance has {len(rates)} rates, expected at most {MAX_DRAFT}")
        for i, rate in enumerate(rates):
            _number(f"synthetic_acceptance[{i}] (rates do not increase)", rate, 0, 1 if i == 0 else rates[i - 1])

    @property
    def stop_strings(self) -> Sequence[str]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop
