"""Tool results for templates that have no branch for them, as Gemma 4's first ones.

They know results as a field `tool_responses` of the model's own message, and of a message with the role `tool` they
make a turn of its own, which the model has never seen. Later templates collect those messages themselves, as it is done
here.
"""

import re
from typing import Any

_KNOWS_THE_ROLE = re.compile(r"""role['"]?\]?\)?\s*(?:==|!=|(?:not\s+)?in\b[^}]*?)\s*['"]tool['"]""")


def takes_results_in_calls(template: str) -> bool:
    return "tool_responses" in template and _KNOWS_THE_ROLE.search(template) is None


def collected(messages: list[dict[str, Any]]) -> list[int]:
    """Moves the results behind a message with calls into it, and the answer that follows. Returns the numbers that the
    messages had which are left.
    """
    left: list[int] = []
    last: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool" and last.get("tool_calls"):
            results.append(message)
            last.setdefault("tool_responses", []).append(_response(message, last["tool_calls"], len(results) - 1))
            continue
        if results and message["role"] == "assistant" and not message.get("tool_calls") and not last.get("content"):
            last["content"] = message.get("content")
            last, results = {}, []
            continue
        last, results = message, []
        kept.append(message)
        left.append(index)
    messages[:] = kept
    return left


def _response(message: dict[str, Any], calls: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """index: among the results of these calls."""
    named = [call for call in calls if call.get("id") is not None and call["id"] == message.get("tool_call_id")]
    call = (named or calls[index : index + 1] or [{}])[0]
    name = call.get("function", call).get("name") or message.get("name") or "unknown"
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    return {"name": name, "response": content}
