"""JSON schemas of what the API takes and gives. Every field of a request may be null, which means: not given."""

from typing import Any

from pyllama_mtp.options import SamplingOptions
from pyllama_mtp.ranges import Drafts, Falling, Integer, Number, OneOf, legal_of
from pyllama_mtp.server.fields import MAX_LISTED, MAX_STOP_CHARS, MAX_STOPS, MAX_TOP_LOGPROBS, NEUTRAL
from pyllama_mtp.server.state import State

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}


def integer(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def array(items: Schema, low: int = 0, high: int | None = None) -> Schema:
    return {"type": "array", "items": items, "minItems": low} | ({} if high is None else {"maxItems": high})


def closed(properties: dict[str, Schema], *required: str) -> Schema:
    """An object of these fields, of which those that are not required may be null, and of no others that are not."""
    fields = {name: s if name in required else {"anyOf": [s, {"type": "null"}]} for name, s in properties.items()}
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": {"type": "null"},
    }


def _option(legal: object) -> Schema | None:
    """None: of this kind there is a schema by name."""
    match legal:
        case Integer(low, high):
            return integer(low, high)
        case Number(low, high, open_low):
            return {"type": "number", "exclusiveMinimum" if open_low else "minimum": low, "maximum": high}
        case Drafts(high):
            return {"anyOf": [integer(0, high), {"const": "auto"}]}
        case OneOf(names):
            return {"enum": list(names)}
        case Falling():
            return None
    return None


TOKEN = integer(0, 2**31 - 1)
STOP = {**STRING, "minLength": 1, "maxLength": MAX_STOP_CHARS}
BIASES: Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -1e4, "maximum": 1e4},
    "maxProperties": MAX_LISTED,
}
STREAM_OPTIONS = closed({"include_usage": FLAG, "continuous_usage_stats": FLAG, "include_obfuscation": FLAG})
MESSAGE: Schema = {
    "type": "object",
    "properties": {"role": STRING, "content": {"type": ["string", "array", "null"]}},
    "required": ["role", "content"],
}
TEMPLATE: dict[str, Schema] = {
    "tools": array(OBJECT),
    "chat_template": STRING,
    "chat_template_kwargs": OBJECT,
    "add_generation_prompt": FLAG,
    "continue_final_message": FLAG,
}
EVENT: Schema = {"type": "object", "properties": {"data": STRING}, "required": ["data"]}
STRUCTURED = {"json": {}, "regex": STRING, "choice": {"anyOf": [array(STRING, 1), STRING]}, "grammar": STRING}


def _common(state: State) -> dict[str, Schema]:
    sampling = {name: _option(legal_of(field)) for name, field in SamplingOptions.__dataclass_fields__.items()}
    neutral: dict[str, Schema] = {name: {"enum": list(values)} for name, values in NEUTRAL.items()}
    limit = state.options.max_completion_tokens or 2**31 - 1
    return {
        **neutral,
        **{name: schema for name, schema in sampling.items() if schema is not None},
        "model": {"enum": list(state.names)},
        "n": integer(1, state.options.max_choices),
        "max_tokens": integer(1, limit),
        "stop": {"anyOf": [STOP, array(STOP, 0, MAX_STOPS)]},
        "stop_token_ids": array(TOKEN, 0, MAX_LISTED),
        "ignore_eos": FLAG,
        "logit_bias": BIASES,
        "stream": FLAG,
        "stream_options": STREAM_OPTIONS,
        "response_format": OBJECT,
        "structured_outputs": closed(STRUCTURED),
        **{f"guided_{kind}": schema for kind, schema in STRUCTURED.items()},
        "echo": FLAG,
        "prompt_logprobs": integer(0, MAX_TOP_LOGPROBS),
        "user": {},
        "metadata": {},
        "safety_identifier": {},
        "prompt_cache_key": {},
        "prompt_cache_retention": {},
        "request_id": {},
    }


def requests(state: State) -> tuple[Schema, Schema]:
    """Of a chat completion, and of a completion."""
    common = _common(state)
    chat = common | {
        "messages": array(MESSAGE, 1, state.options.max_messages),
        "logprobs": FLAG,
        "top_logprobs": integer(0, MAX_TOP_LOGPROBS),
        "max_completion_tokens": common["max_tokens"],
        **TEMPLATE,
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, OBJECT]},
        "parallel_tool_calls": FLAG,
        "reasoning_effort": {"enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max"]},
    }
    ids = array(integer(0, state.model.info.n_vocab - 1), 1)
    several = array({"anyOf": [STRING, ids]}, 1, state.options.max_choices)
    completion = common | {
        "prompt": {"anyOf": [STRING, ids, several]},
        "logprobs": integer(0, MAX_TOP_LOGPROBS),
    }
    return closed(chat, "messages"), closed(completion, "prompt")


def tokenize(state: State) -> Schema:
    """Either a prompt or messages."""
    fields: dict[str, Schema] = {"prompt": STRING, "messages": array(MESSAGE, 1, state.options.max_messages)}
    fields |= {"model": {"enum": list(state.names)}, "add_special_tokens": FLAG, "return_token_strs": FLAG}
    return closed(fields | TEMPLATE)


def detokenize(state: State) -> Schema:
    names: Schema = {"enum": list(state.names)}
    return closed({"model": names, "tokens": array(integer(0, state.model.info.n_vocab - 1))}, "tokens")


def _open(properties: dict[str, Schema]) -> Schema:
    """An object with at least these fields."""
    return {"type": "object", "properties": properties, "required": list(properties)}


NAMED = {**STRING, "minLength": 1}
COUNT = integer(0, 2**53)
USAGE = _open(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": _open({"cached_tokens": COUNT}),
        "completion_tokens_details": _open({"reasoning_tokens": COUNT}),
    }
)
ENDING = {
    "index": COUNT,
    "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
    "stop_reason": {"type": ["string", "integer", "null"]},
    "logprobs": {"type": ["object", "null"]},
    "seed": COUNT | {"maximum": 2**64 - 1},
}


def _completion(kind: str, content: dict[str, Schema]) -> Schema:
    head = {"id": NAMED, "object": {"const": kind}, "created": COUNT, "model": NAMED, "usage": USAGE}
    return _open(head | {"choices": array(_open(ENDING | content), 1)})


SAID = _open({"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}})
MODEL = _open({"id": NAMED, "object": {"const": "model"}, "created": COUNT, "owned_by": STRING, "max_model_len": COUNT})

ANSWERS: dict[str, Schema] = {
    "Error": _open(
        {
            "error": _open(
                {
                    "message": NAMED,
                    "type": NAMED,
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                }
            )
        }
    ),
    "ChatCompletion": _completion("chat.completion", {"message": SAID}),
    "Completion": _completion("text_completion", {"text": STRING}),
    "Tokens": _open({"count": COUNT, "max_model_len": COUNT, "tokens": array(TOKEN)}),
    "Text": _open({"prompt": STRING}),
    "Model": MODEL,
    "Models": _open({"object": {"const": "list"}, "data": array(MODEL, 1)}),
    "Health": _open({"status": STRING}),
}
