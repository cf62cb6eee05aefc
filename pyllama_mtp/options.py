"""What a caller may ask for: frozen dataclasses that check themselves. Errors name the value seen and the legal range.

They are the one list of options: signatures, the engine's parameters and the command line are made from them.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from pyllama_mtp._library import ACCEPTANCE_RULES, DRAFTERS, MAX_DRAFT, MAX_LOGPROBS, MAX_SEQS
from pyllama_mtp.chat import Message, Tool
from pyllama_mtp.errors import InvalidRequestError
from pyllama_mtp.grammar.options import GrammarOptions, check_grammar_options
from pyllama_mtp.names import AcceptanceRule, CacheType, ContextLength, DrafterName, DraftLength, SamplingDefaults
from pyllama_mtp.output_options import OutputOptions, ResponseSchema
from pyllama_mtp.ranges import (
    Biases,
    Drafts,
    Falling,
    Flag,
    Integer,
    Listed,
    Name,
    Number,
    OneOf,
    Texts,
    Tokens,
    check_fields,
)

_INT32_MAX = 2**31 - 1
_CACHE_TYPE = Name("the name of a type, such as 'f16' or 'q8_0'")
_TOKEN = Integer(0, _INT32_MAX)

Prompt = str | Sequence[int] | npt.NDArray[np.integer[Any]] | Sequence[Message]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


def check_draft_length(value: object) -> None:
    """Raises InvalidRequestError unless value is 0..16 or "auto"."""
    Drafts(MAX_DRAFT).check("num_speculative_tokens", value)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded, but for what each of its completions may have otherwise. The string is what a command line
    says of it.
    """

    n_ctx: Annotated[ContextLength | None, Tokens(1 << 24), 'tokens of a sequence; "max": what fits'] = None
    max_num_seqs: Annotated[int, Integer(1, MAX_SEQS), "texts at once"] = 4
    max_queue: Annotated[int, Integer(0, 1 << 20), "texts that wait"] = 128
    drafter: Annotated[DrafterName, OneOf(DRAFTERS)] = "auto"
    prefix_cache_bytes: Annotated[int, Integer(0, 1 << 48)] = 256 << 20
    cache_type_k: Annotated[CacheType, _CACHE_TYPE, "of keys in the KV cache"] = "f16"
    cache_type_v: Annotated[CacheType, _CACHE_TYPE, "of values"] = "f16"
    cache_type_k_swa: Annotated[CacheType | None, _CACHE_TYPE, "of sliding layers' keys"] = None
    cache_type_v_swa: Annotated[CacheType | None, _CACHE_TYPE, "of their values"] = None
    n_gpu_layers: Annotated[int, Integer(-1, 10_000), "layers on a GPU, if there is one; -1: all"] = -1
    n_threads: Annotated[int | None, Integer(1, 512), "threads that compute"] = None
    n_batch: Annotated[int, Integer(32, 1 << 16), "most prompt tokens evaluated at once"] = 512
    flash_attention: Annotated[bool | None, Flag()] = None
    sampling_defaults: Annotated[SamplingDefaults, OneOf(get_args(SamplingDefaults))] = "model"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(LoadOptions):
    """How a model is loaded and what its completions begin with; the parameters of Model."""

    num_speculative_tokens: Annotated[DraftLength, Drafts(MAX_DRAFT)] = "auto"
    response_schema: Annotated[Mapping[str, Any] | None, ResponseSchema()] = None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """One completion. Names and meanings are vLLM's SamplingParams; the string is what a command line says of it. Those
    of pyllama_mtp.sampling that are None are the model's own.
    """

    max_tokens: Annotated[int | None, Integer(1, _INT32_MAX), "most tokens of the completion"] = None
    min_tokens: Annotated[int, Integer(0, _INT32_MAX), "no end before so many tokens"] = 0
    temperature: Annotated[float | None, Number(0, 1e6), "0: greedy"] = None
    top_p: Annotated[float | None, Number(0, 1, open_low=True), "most probable tokens of this share together"] = None
    top_k: Annotated[int | None, Integer(-1, _INT32_MAX), "so many most probable tokens; 0 or -1: all"] = None
    min_p: Annotated[float | None, Number(0, 1), "tokens of at least this share of the best one's probability"] = None
    seed: Annotated[int | None, Integer(0, 2**64 - 1), "drawn and reported unless it is given"] = None
    stop: Annotated[str | Sequence[str] | None, Texts(), "end before this text; may be given several times"] = None
    stop_token_ids: Annotated[Sequence[int] | None, Listed(_TOKEN, "a stop token id")] = None
    ignore_eos: Annotated[bool, Flag(), "go on after an end-of-generation token"] = False
    presence_penalty: Annotated[float, Number(-2, 2), "less likely: tokens that were generated"] = 0.0
    frequency_penalty: Annotated[float, Number(-2, 2), "less likely: the same, for each time"] = 0.0
    repetition_penalty: Annotated[
        float | None, Number(0, 2, open_low=True), "less likely: tokens of the text, if > 1"
    ] = None
    logit_bias: Annotated[Mapping[int, float] | None, Biases(_TOKEN, Number(-1e4, 1e4))] = None
    logprobs: Annotated[int | None, Integer(0, MAX_LOGPROBS)] = None
    num_speculative_tokens: Annotated[DraftLength | None, Drafts(MAX_DRAFT), '0..16 drafts a round, or "auto"'] = None
    acceptance: Annotated[
        AcceptanceRule, OneOf(ACCEPTANCE_RULES), f"rule that accepts drafts: {', '.join(ACCEPTANCE_RULES)}"
    ] = "auto"
    synthetic_acceptance: Annotated[Sequence[float], Falling(MAX_DRAFT)] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_tokens is not None:
            Integer(0, self.max_tokens).check("min_tokens", self.min_tokens)


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """How messages become a prompt; chat.conversation() looks at the values. Names are those of transformers."""

    tools: Sequence[Tool] | None = None
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    add_generation_prompt: Annotated[bool, Flag()] = True
    continue_final_message: Annotated[bool | None, Flag()] = None


@dataclass(frozen=True)
class ChatRequest(ChatOptions):
    """The parameters of Model.render_chat."""

    messages: Sequence[Message]

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PromptRequest(ChatOptions):
    """The parameters of Model.prompt_ids."""

    prompt: Prompt

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Request(ChatOptions, SamplingOptions, OutputOptions, GrammarOptions):
    """The parameters of Model.generate."""

    prompt: Prompt
    trace: Annotated[bool, Flag()] = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grammar_options(self)


@dataclass(frozen=True)
class BatchRequest(ChatOptions, SamplingOptions, OutputOptions, GrammarOptions):
    """The parameters of Model.generate_all."""

    prompts: Iterable[Prompt]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grammar_options(self)
        if isinstance(self.prompts, str | bytes | Mapping) or not isinstance(self.prompts, Iterable):
            raise InvalidRequestError(f"prompts is a {type(self.prompts).__name__}, expected several prompts")


def values_of(options: type, source: object) -> dict[str, Any]:
    """The fields of a class of options, by name, as `source` has them."""
    return {option.name: getattr(source, option.name) for option in fields(options)}


def takes(options: Callable[P, T]) -> Callable[[Callable[[T], R]], Callable[P, R]]:
    """Lets a function of one dataclass be called with the fields of that, as type checkers and help() then show it."""

    def decorate(body: Callable[[T], R]) -> Callable[P, R]:
        signature = _signature(options, body)

        @functools.wraps(body)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            _bind(signature, body.__name__, *args, **kwargs)
            return body(options(*args, **kwargs))

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def method_takes(options: Callable[P, T]) -> Callable[[Callable[[S, T], R]], Callable[Concatenate[S, P], R]]:
    """The same for a method."""

    def decorate(body: Callable[[S, T], R]) -> Callable[Concatenate[S, P], R]:
        signature = _signature(options, body)

        @functools.wraps(body)
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            _bind(signature, body.__name__, *args, **kwargs)
            return body(self, options(*args, **kwargs))

        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = [own, *signature.parameters.values()]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def _signature(options: Callable[..., Any], body: Callable[..., Any]) -> inspect.Signature:
    """That of the dataclass, without the legal values in its annotations, and with the result of `body`."""
    given = inspect.signature(options)
    parameters = [
        p.replace(annotation=get_args(p.annotation)[0] if hasattr(p.annotation, "__metadata__") else p.annotation)
        for p in given.parameters.values()
    ]
    return given.replace(parameters=parameters, return_annotation=inspect.signature(body).return_annotation)


def _bind(signature: inspect.Signature, name: str, *args: object, **kwargs: object) -> None:
    """Raises Python's own TypeError for an unknown or missing argument, in the name of the function that was called."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}() {error}") from None
