"""What a chunk holds, as the API's objects."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyllama_mtp.results import Chunk, TokenLogprob, ToolCall


def only_first_call(chunk: Chunk) -> Chunk:
    """As the last one of a text that may call once."""
    return replace(chunk, tool_calls=chunk.tool_calls[:1], finish_reason="tool_calls")


def tool_call(call: ToolCall) -> dict[str, Any]:
    """A call as messages have it."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def n_reasoning_tokens(chunk: Chunk, text_of: Callable[[int], str]) -> int:
    """How many of its tokens think. text_of: the text of a token."""
    left = len(chunk.reasoning)
    if not left or not (chunk.text or chunk.tool_calls):
        return len(chunk.token_ids) if left else 0
    for n, token in enumerate(chunk.token_ids):  # both: thoughts come first
        if left <= 0:
            return n
        left -= len(text_of(token))
    return len(chunk.token_ids)


class Logprobs:
    """Writes logprobs."""

    def _entry(self, entry: TokenLogprob) -> dict[str, Any]:
        return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.token_bytes)}

    def chat(self, rows: list[list[TokenLogprob]]) -> list[dict[str, Any]]:
        """The content of a chat's logprobs."""
        return [self._entry(row[0]) | {"top_logprobs": [self._entry(one) for one in row[1:]]} for row in rows]

    def completion(self, rows: list[list[TokenLogprob]], offset: int, first: str = "") -> dict[str, Any]:
        """The logprobs of a completion. offset: characters of the text before them. first: the text of a token that has
        no row, as nothing comes before it.
        """
        entries = [[self._entry(one) for one in row] for row in rows]
        tokens = [row[0]["token"] if row else first for row in entries]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [row[0]["logprob"] if row else None for row in entries],
            "top_logprobs": [{one["token"]: one["logprob"] for one in row[1:]} if row else None for row in entries],
            "text_offset": offsets,
        }

    def prompt(self, rows: list[list[TokenLogprob]]) -> list[dict[str, Any] | None]:
        """vLLM's prompt_logprobs: by token id, the token's own first."""
        told: list[dict[str, Any] | None] = []
        for row in rows:
            entries = [(one.token_id, self._entry(one)) for one in row]
            values = {str(token): {"logprob": e["logprob"], "decoded_token": e["token"]} for token, e in entries}
            told.append(values or None)
        return told
