"""What a chunk holds, as the API's objects."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyllama_mtp.results import Chunk, TokenLogprob


def reasoning_of(chunk: Chunk) -> str:
    """What was thought."""
    return getattr(chunk, "reasoning", None) or ""


def tool_calls_of(chunk: Chunk) -> list[Any]:
    """Calls that are complete."""
    return getattr(chunk, "tool_calls", None) or []


def stop_reason_of(chunk: Chunk) -> str | int | None:
    """Which stop string or token ended the text."""
    return getattr(chunk, "stop_reason", None)


def only_first_call(chunk: Chunk) -> Chunk:
    """As the last one of a text that may call once."""
    changes: dict[str, Any] = {"tool_calls": tool_calls_of(chunk)[:1], "finish_reason": "tool_calls"}
    return replace(chunk, **changes)


def tool_call(call: Any) -> dict[str, Any]:
    """call: a ToolCall."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


class Logprobs:
    """Writes logprobs. text: the text of a token."""

    def __init__(self, text: Callable[[int], str]):
        self._text = text

    def _token(self, entry: TokenLogprob) -> str:
        text = getattr(entry, "text", None)
        return self._text(entry.token_id) if text is None else text

    def chat(self, rows: list[list[TokenLogprob]]) -> list[dict[str, Any]]:
        """The content of a chat's logprobs."""

        def entry(one: TokenLogprob) -> dict[str, Any]:
            token = self._token(one)
            return {"token": token, "logprob": one.logprob, "bytes": list(token.encode())}

        return [entry(row[0]) | {"top_logprobs": [entry(one) for one in row[1:]]} for row in rows]

    def completion(self, rows: list[list[TokenLogprob]], offset: int) -> dict[str, Any]:
        """The logprobs of a completion. offset: characters of the text before them."""
        tokens = [self._token(row[0]) for row in rows]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [row[0].logprob for row in rows],
            "top_logprobs": [{self._token(one): one.logprob for one in row[1:]} for row in rows],
            "text_offset": offsets,
        }
