"""Messages as callers give them, and what every template may rely on."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyllama_mtp.errors import ChatTemplateError, seen

Message = Mapping[str, Any]


def check_messages(messages: Sequence[Message]) -> None:
    """Raises ChatTemplateError unless every message is a mapping with a role and a content (or tool calls)."""
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
