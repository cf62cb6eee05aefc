"""From a request's fields to a call of Model: names of OpenAI and vLLM, each taken, refused, or without effect.

Values are checked by Model, whose messages name the option and its range; here is only what Model has no word for. No
field is dropped in silence: one that nothing knows is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyllama_mtp.errors import seen
from pyllama_mtp.options import Prompt
from pyllama_mtp.ranges import Flag, Integer
from pyllama_mtp.server.errors import wrong
from pyllama_mtp.server.options import ServerOptions

MAX_LISTED = 4096  # entries of logit_bias and stop_token_ids
MAX_STOPS = 64
MAX_STOP_CHARS = 1000
MAX_TOP_LOGPROBS = 20  # as OpenAI's
DEFAULT_MAX_TOKENS = 16  # of /v1/completions, as OpenAI's

PROMPT_OPTIONS = ("tools", "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
SAME = frozenset(  # fields with the name of a Model option
    "temperature top_p top_k min_p seed stop stop_token_ids ignore_eos min_tokens presence_penalty frequency_penalty "
    "repetition_penalty num_speculative_tokens acceptance response_format prompt_logprobs".split()
)
SAME_IN_CHAT = SAME | {"tool_choice", *PROMPT_OPTIONS}
# What says who asks, or how to file it, and changes no answer.
NO_EFFECT = frozenset("user metadata safety_identifier prompt_cache_key prompt_cache_retention request_id".split())
# Taken at the values that describe what happens anyhow.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "priority": (0,),
    "include_reasoning": (True,),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
STRUCTURED = {"json": "response_format", "regex": "regex", "choice": "choice", "grammar": "grammar"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is understood. options: keyword arguments of Model.agenerate, for each of n texts of each prompt.

    top_logprobs: None: no logprobs. continuous_usage: usage in every chunk.
    """

    prompts: list[Prompt]
    options: dict[str, Any]
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    top_logprobs: int | None
    parallel_tool_calls: bool


def _same(one: object, other: object) -> bool:
    """For Python False is 0, for JSON not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


class Fields:
    """The fields of a request, taken one by one. A field that is null is not there."""

    def __init__(self, body: Mapping[str, Any], options: ServerOptions):
        self._left = {name: value for name, value in body.items() if value is not None}
        self._options = options
        self._left.pop("model", None)  # known already

    def take(self, name: str, default: Any = None) -> Any:
        return self._left.pop(name, default)

    def flag(self, name: str, default: bool) -> bool:
        return Flag().check(name, self._left.pop(name, default))

    def asked(self, prompts: list[Prompt], *, chat: bool) -> Asked:
        """Takes all that is left. Raises ApiError (400) and InvalidRequestError."""
        n = Integer(1, self._options.max_choices).check("n", self.take("n", 1))
        if n * len(prompts) > self._options.max_choices:
            raise wrong(
                f"{n} texts of {len(prompts)} prompts, expected at most {self._options.max_choices} in all", "n"
            )
        stream = self.flag("stream", False)
        include_usage, continuous_usage = self._stream_options(stream)
        top_logprobs = self._chat_logprobs() if chat else self._logprobs()
        options = {} if top_logprobs is None else {"logprobs": top_logprobs}
        parallel = self.flag("parallel_tool_calls", True) if chat else True
        if chat:
            self._reasoning_effort()
        options |= self._tokens(chat) | self._logit_bias() | self._structured()
        if self.flag("echo", False):
            options["echo"] = True
            if top_logprobs is not None:  # OpenAI's: with the prompt's tokens those of the prompt
                options["prompt_logprobs"] = top_logprobs
        if stream and "prompt_logprobs" in self._left:
            raise wrong("prompt_logprobs is for answers that are not streamed", "prompt_logprobs")
        self._drop_choice()
        for name in sorted((SAME_IN_CHAT if chat else SAME) & self._left.keys()):
            options[name] = self.take(name)
        self._check_lengths(options)
        self.check_rest()
        return Asked(prompts, options, n, stream, include_usage, continuous_usage, top_logprobs, parallel)

    def _stream_options(self, stream: bool) -> tuple[bool, bool]:
        given = self.take("stream_options", {})
        if not isinstance(given, Mapping):
            raise wrong(f"stream_options is {seen(given)}, expected an object", "stream_options")
        if given and not stream:
            raise wrong("stream_options is for stream: true only", "stream_options")
        left = {name: value for name, value in given.items() if value is not None}
        # Padding against who watches the line; there is none here.
        Flag().check("stream_options.include_obfuscation", left.pop("include_obfuscation", False))
        usage = Flag().check("stream_options.include_usage", left.pop("include_usage", False))
        each = Flag().check("stream_options.continuous_usage_stats", left.pop("continuous_usage_stats", False))
        if left:
            raise wrong(f"stream_options has {seen(sorted(left))}, expected include_usage", "stream_options")
        return usage, usage and each

    def _chat_logprobs(self) -> int | None:
        wanted = self.flag("logprobs", False)
        top = self.take("top_logprobs")
        if top is None:
            return 0 if wanted else None
        if not wanted and top != 0:
            raise wrong("top_logprobs is for logprobs: true only", "top_logprobs")
        top = Integer(0, MAX_TOP_LOGPROBS).check("top_logprobs", top)
        return top if wanted else None

    def _logprobs(self) -> int | None:
        top = self.take("logprobs")
        return None if top is None else Integer(0, MAX_TOP_LOGPROBS).check("logprobs", top)

    def _tokens(self, chat: bool) -> dict[str, Any]:
        """max_tokens, in chats max_completion_tokens too; within the server's limit, which is also the default."""
        limit = self._options.max_completion_tokens
        given = self.take("max_tokens")
        later_name = self.take("max_completion_tokens") if chat else None
        n = given if later_name is None else later_name
        if n is None:
            n = limit if chat else min(DEFAULT_MAX_TOKENS, limit or DEFAULT_MAX_TOKENS)
        elif limit is not None:
            n = Integer(1, limit).check("max_tokens", n)
        return {} if n is None else {"max_tokens": n}

    def _logit_bias(self) -> dict[str, Any]:
        given = self.take("logit_bias")
        if given is None:
            return {}
        if not isinstance(given, Mapping) or len(given) > MAX_LISTED:
            raise wrong(f"logit_bias is {seen(given)}, expected an object of at most {MAX_LISTED} biases", "logit_bias")
        for token in given:
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise wrong(f"logit_bias has {seen(token)}, expected token ids", "logit_bias")
        return {"logit_bias": {int(token): bias for token, bias in given.items()}}

    def _structured(self) -> dict[str, Any]:
        """vLLM's structured_outputs, and its older names guided_json and so on."""
        given = self.take("structured_outputs", {})
        if not isinstance(given, Mapping):
            raise wrong(f"structured_outputs is {seen(given)}, expected an object", "structured_outputs")
        kinds = {name: value for name, value in given.items() if value is not None}
        kinds |= {kind: value for kind in STRUCTURED if (value := self.take(f"guided_{kind}")) is not None}
        if not kinds:
            return {}
        if len(kinds) > 1 or not kinds.keys() <= STRUCTURED.keys():
            raise wrong(
                f"structured_outputs has {seen(sorted(kinds))}, expected one of {', '.join(STRUCTURED)}",
                "structured_outputs",
            )
        ((kind, value),) = kinds.items()
        if kind == "json":
            value = {"type": "json_schema", "json_schema": {"name": "schema", "schema": value}}
        return {STRUCTURED[kind]: value}

    def _reasoning_effort(self) -> None:
        """OpenAI's word for what templates call enable_thinking."""
        effort = self.take("reasoning_effort")
        if effort is None:
            return
        if effort not in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
            raise wrong(
                f"reasoning_effort is {seen(effort)}, expected none, minimal, low, medium, high", "reasoning_effort"
            )
        given = self._left.get("chat_template_kwargs", {})
        if isinstance(given, Mapping):
            self._left["chat_template_kwargs"] = {"enable_thinking": effort != "none"} | dict(given)

    def _drop_choice(self) -> None:
        """Clients choose among tools that they do not have, too."""
        if not self._left.get("tools"):
            self._left.pop("tools", None)
            if self._left.get("tool_choice") in ("none", "auto"):
                del self._left["tool_choice"]

    def prompt_options(self) -> dict[str, Any]:
        """How messages become a prompt, for Model.prompt_ids."""
        options = {name: value for name in PROMPT_OPTIONS if (value := self.take(name)) is not None}
        self._check_template(options)
        return options

    def _check_lengths(self, options: Mapping[str, Any]) -> None:
        """What grows the work of each token, or the sandbox's."""
        stop = options.get("stop", ())
        stops = [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and (len(stops) > MAX_STOPS or any(len(str(s)) > MAX_STOP_CHARS for s in stops)):
            raise wrong(
                f"stop has more than {MAX_STOPS} strings, or one of more than {MAX_STOP_CHARS} characters", "stop"
            )
        ids = options.get("stop_token_ids", ())
        if isinstance(ids, list) and len(ids) > MAX_LISTED:
            raise wrong(f"stop_token_ids has {len(ids)} ids, expected at most {MAX_LISTED}", "stop_token_ids")
        self._check_template(options)

    def _check_template(self, options: Mapping[str, Any]) -> None:
        if "chat_template" in options and not self._options.trust_request_chat_template:
            raise wrong(
                "chat_template is refused: a template is a program. The server takes them from requests if it is "
                "started with --trust-request-chat-template",
                "chat_template",
            )

    def check_rest(self) -> None:
        for name, value in sorted(self._left.items()):
            if name in NO_EFFECT or any(_same(value, neutral) for neutral in NEUTRAL.get(name, ())):
                continue
            if name in NEUTRAL:
                raise wrong(f"{name} is {seen(value)}, which is not supported", name, "unsupported_parameter")
            raise wrong(f"{seen(name)} is no parameter of this request", seen(name), "unknown_parameter")
