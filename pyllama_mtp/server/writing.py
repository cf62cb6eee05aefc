"""What answers of both endpoints have in common: an identity, events, and the figures at their end.

Events are put together from text that is made once for a request, so that a chunk costs the encoding of its own text.
"""

import json
import secrets
import time
from typing import Any

from pyllama_mtp.results import Chunk
from pyllama_mtp.server.fields import Asked
from pyllama_mtp.server.generation import Choice
from pyllama_mtp.server.parts import Logprobs
from pyllama_mtp.server.state import State
from pyllama_mtp.server.usage import Usage, speculative_decoding, timings

FINGERPRINT = "pyllama-mtp"


class Writer:
    """Of one request. kind: the object's name in whole answers; part_kind: in events."""

    def __init__(self, state: State, asked: Asked, prefix: str, kind: str, part_kind: str):
        self.asked = asked
        self.logprobs = Logprobs()
        self._drafts = state.model.info.drafter != "none"
        self._head = {
            "id": f"{prefix}-{secrets.token_hex(16)}",
            "object": kind,
            "created": int(time.time()),
            "model": state.names[0],
            "system_fingerprint": FINGERPRINT,
        }
        self._event_head = "data: " + json.dumps(self._head | {"object": part_kind})[:-1] + ', "choices": ['

    def event(self, choice: Choice, content: str, rest: str, usage: Usage) -> bytes:
        """content, rest: members of a choice, as JSON."""
        tail = f', "usage": {json.dumps(usage.as_object())}' if self.asked.continuous_usage else ""
        return f'{self._event_head}{{"index": {choice.index}, {content}, {rest}}}]{tail}}}\n\n'.encode()

    def ending(self, choice: Choice, chunk: Chunk) -> dict[str, Any]:
        """What a choice says of its end. The seed and the rule give the text again."""
        reason = chunk.stop_reason
        stats = choice.stream.stats
        told = {"finish_reason": chunk.finish_reason, "stop_reason": reason}
        return told | {"seed": stats.seed, "acceptance": stats.acceptance}

    def closing(self, choices: list[Choice], usage: Usage) -> bytes:
        """The figures, if they are wanted, and the end."""
        data = b""
        if self.asked.include_usage:
            figures = {"usage": usage.as_object()} | self._figures(choices)
            data = f"{self._event_head}], {json.dumps(figures)[1:]}\n\n".encode()
        return data + b"data: [DONE]\n\n"

    def whole(self, choices: list[dict[str, Any]], texts: list[Choice], usage: Usage) -> bytes:
        answer = self._head | {"choices": choices, "usage": usage.as_object()} | self._figures(texts)
        return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")

    def _figures(self, choices: list[Choice]) -> dict[str, Any]:
        """As in vLLM and llama-server only of a single text: steps of several are not told apart."""
        if len(choices) != 1:
            return {}
        stats = choices[0].stream.stats
        metrics = {"metrics": {"speculative_decoding": speculative_decoding(stats)}} if self._drafts else {}
        return metrics | {"timings": timings(stats)}
