"""Messages, tools and template variables as callers give them, checked and brought into what templates rely on.

Shapes are OpenAI's. Templates want arguments of calls as objects, which clients keep as JSON text, and reasoning under
one of several names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyllama_mtp.errors import ChatTemplateError, InvalidRequestError, seen
from pyllama_mtp.ranges import of_json_types

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of it, as transformers knows them
_OPTIONS = ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is given, of JSON's types. variables: by name, tools among them. opens_turn: with the beginning
    of the model's turn. continues: the last message is left open instead. texts: (message, call, text) of arguments
    that were given as text and are an object in messages.
    """

    messages: list[dict[str, Any]]
    variables: dict[str, Any] = field(default_factory=dict)
    opens_turn: bool = True
    continues: bool = False
    texts: list[tuple[int, int, str]] = field(default_factory=list)


def conversation(
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool | None = None,
) -> Conversation:
    """continue_final_message None: if the last message is the model's and has text. Raises ChatTemplateError for what
    is no list of messages, InvalidRequestError for what is wrong with one of them or cannot be shown to the model.
    """
    _check_list(messages)
    plain: list[dict[str, Any]] = _of_json_types(list(messages), "messages are")
    texts: list[tuple[int, int, str]] = []
    for index, message in enumerate(plain):
        if "content" in message:
            message["content"] = _content(message["content"], message["role"], f"the content of message {index}")
        texts += [(index, call, text) for call, text in _calls(message, f"tool call {{}} of message {index}")]
        _name_reasoning(message, index)
    variables = _variables(chat_template_kwargs) | {"tools": None if tools is None else plain_tools(tools)}
    has_text = _has_text(plain[-1])
    if continue_final_message and not has_text:
        raise InvalidRequestError(f"the last message has no text to continue: it is {seen(messages[-1])}")
    continues = continue_final_message
    if continues is None:
        is_models = plain[-1]["role"] in ("assistant", "model") and not plain[-1].get("tool_calls")
        continues = add_generation_prompt and has_text and is_models
    return Conversation(plain, variables, add_generation_prompt and not continues, continues, texts)


def _check_list(messages: Sequence[Message]) -> None:
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ChatTemplateError(f"messages are {seen(messages)}, expected a list")
    if not messages:
        raise ChatTemplateError("messages is empty, expected at least one {'role': ..., 'content': ...}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ChatTemplateError(f"message {index} is {seen(message)}, expected {{'role': str, 'content': ...}}")
        if "content" not in message and "tool_calls" not in message:
            keys = seen(list(message))
            raise ChatTemplateError(f"message {index} has the keys {keys}, expected 'content' among them")


def _of_json_types(value: Any, what: str) -> Any:
    try:
        return of_json_types(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatTemplateError(f"{what} not of JSON's types (str, int, list, dict ...): {error}") from error


def _content(content: Any, role: str, what: str) -> Any:
    if content is None or isinstance(content, str) or (role == "tool" and isinstance(content, dict)):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{what} is {seen(content)}, expected text, None or a list of parts")
    return [_part(part, f"part {index} of {what}") for index, part in enumerate(content)] or ""


def _part(part: Any, what: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict) or not isinstance(part.get("type", "text"), str):
        raise InvalidRequestError(f"{what} is {seen(part)}, expected {{'type': 'text', 'text': ...}}")
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS:
        raise InvalidRequestError(
            f"{what} is of type {seen(kind)}, expected 'text': models are given text only here, so pictures, sound and "
            "files cannot be shown to them"
        )
    if not isinstance(part.get("text"), str):
        raise InvalidRequestError(f"{what} has the text {seen(part.get('text'))}, expected str")
    return part | {"type": "text"}


def _has_text(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return bool(content) and not isinstance(content, dict)


def _calls(message: dict[str, Any], what: str) -> list[tuple[int, str]]:
    """Makes objects of arguments that are JSON text; returns the texts by the numbers of the calls."""
    calls = message.get("tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise InvalidRequestError(f"tool_calls are {seen(calls)}, expected a list")
    texts = []
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequestError(
                f"{what.format(index)} is {seen(call)}, expected {{'function': {{'name': str, 'arguments': ...}}}}"
            )
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str | dict):
            raise InvalidRequestError(
                f"{what.format(index)} has the arguments {seen(arguments)}, expected an object or its JSON text"
            )
        function["arguments"] = value = _arguments(arguments)
        if isinstance(value, dict) and function is not call:
            texts.append((index, arguments if isinstance(arguments, str) else json.dumps(value, ensure_ascii=False)))
    return texts


def _arguments(arguments: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """What is no JSON object stays the text that it is: a model may have written it."""
    if not arguments:
        return {}
    if isinstance(arguments, dict):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _name_reasoning(message: dict[str, Any], index: int) -> None:
    """Under every name that templates know, as transformers does it."""
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return
    if not isinstance(reasoning, str):
        raise InvalidRequestError(f"the reasoning of message {index} is {seen(reasoning)}, expected text")
    message |= {"thinking": message.get("thinking", reasoning), "reasoning_content": reasoning}


def plain_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Of JSON's types, each with a name. Raises InvalidRequestError, ChatTemplateError."""
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise InvalidRequestError(f"tools are {seen(tools)}, expected a list")
    plain: list[Any] = _of_json_types(list(tools), "tools are")
    for index, tool in enumerate(plain):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequestError(
                f"tool {index} is {seen(tools[index])}, expected {{'type': 'function', 'function': {{'name': ..., "
                "'description': ..., 'parameters': a JSON schema}}}"
            )
    return plain


def _variables(given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is None:
        return {"documents": None}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidRequestError(f"chat_template_kwargs are {seen(given)}, expected a mapping with names as keys")
    for name in _OPTIONS:
        if name in given:
            raise InvalidRequestError(f"chat_template_kwargs have {name!r}, which is an option of its own: pass it so")
    variables: dict[str, Any] = _of_json_types(dict(given), "chat_template_kwargs are")
    return {"documents": None} | variables
