"""POST /v1/chat/completions."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from pyllama_mtp.errors import seen
from pyllama_mtp.results import Chunk, TokenLogprob
from pyllama_mtp.server.errors import wrong
from pyllama_mtp.server.fields import Asked, Fields
from pyllama_mtp.server.generation import Choice, Generation
from pyllama_mtp.server.parts import tool_call
from pyllama_mtp.server.reading import read_json
from pyllama_mtp.server.state import State
from pyllama_mtp.server.usage import Usage
from pyllama_mtp.server.writing import Writer

NO_END = '"logprobs": null, "finish_reason": null'


async def chat_completions(request: Request) -> ASGIApp:
    """Answers as soon as the request is understood; see Generation."""
    state: State = request.app.state.server
    body = await read_json(request, state.options)
    state.check_model(body.get("model"))
    fields = Fields(body, state.options)
    messages = checked_messages(fields.take("messages"), state.options.max_messages)
    asked = fields.asked([messages], chat=True)
    return Generation(state, asked, ChatShape(state, asked))


def checked_messages(messages: object, most: int) -> list[Mapping[str, Any]]:
    """Raises ApiError. What is in a message is for Model to judge."""
    if not isinstance(messages, list) or not messages:
        raise wrong(f"messages is {seen(messages)}, expected a list of at least one message", "messages")
    if len(messages) > most:
        raise wrong(f"{len(messages)} messages, expected at most {most}", "messages", "too_many_messages")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise wrong(f"messages[{index}] is {seen(message)}, expected an object with a role", "messages")
        content = message.get("content")
        if not isinstance(content, str | list | None):
            raise wrong(f"the content of messages[{index}] is {seen(content)}, expected text or parts", "messages")
    return messages


class _Message:
    """What was collected of one text."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls: list[Any] = []
        self.rows: list[list[TokenLogprob]] = []
        self.prompt_rows: list[list[TokenLogprob]] = []
        self.ending: dict[str, Any] = {}


class ChatShape:
    """Writes messages and their deltas."""

    def __init__(self, state: State, asked: Asked):
        self._asked = asked
        self._writer = Writer(state, asked, "chatcmpl", "chat.completion", "chat.completion.chunk")
        self._messages: dict[int, _Message] = {}

    def opening(self, choice: Choice) -> bytes:
        return self._writer.event(choice, '"delta": {"role": "assistant", "content": ""}', NO_END, Usage())

    def part(self, choice: Choice, chunk: Chunk, usage: Usage) -> bytes:
        delta: dict[str, Any] = {}
        if reasoning := chunk.reasoning:
            delta["reasoning_content"] = reasoning
        if chunk.text:
            delta["content"] = chunk.text
        if calls := chunk.tool_calls:
            delta["tool_calls"] = [{"index": choice.n_tool_calls + i} | tool_call(c) for i, c in enumerate(calls)]
            choice.n_tool_calls += len(calls)
        data = b""
        if delta or chunk.logprobs or (self._asked.continuous_usage and chunk.token_ids):
            rest = NO_END
            if chunk.logprobs is not None:
                logprobs = json.dumps({"content": self._writer.logprobs.chat(chunk.logprobs)})
                rest = f'"logprobs": {logprobs}, "finish_reason": null'
            data = self._writer.event(choice, f'"delta": {json.dumps(delta)}', rest, usage)
        if chunk.finish_reason is not None:
            ending = json.dumps({"logprobs": None} | self._writer.ending(choice, chunk))[1:-1]
            data += self._writer.event(choice, '"delta": {}', ending, usage)
        return data

    def closing(self, choices: list[Choice], usage: Usage) -> bytes:
        return self._writer.closing(choices, usage)

    def keep(self, choice: Choice, chunk: Chunk) -> None:
        message = self._messages.setdefault(choice.index, _Message())
        message.text.append(chunk.text)
        message.reasoning.append(chunk.reasoning)
        message.tool_calls += [tool_call(call) for call in chunk.tool_calls]
        message.rows += chunk.logprobs or []
        message.prompt_rows += chunk.prompt_logprobs or []
        if chunk.finish_reason is not None:
            message.ending = self._writer.ending(choice, chunk)

    def whole(self, choices: list[Choice], usage: Usage) -> bytes:
        return self._writer.whole([self._choice(i, self._messages[i]) for i in range(len(choices))], choices, usage)

    def _choice(self, index: int, kept: _Message) -> dict[str, Any]:
        text = "".join(kept.text)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if kept.tool_calls else "")}
        if reasoning := "".join(kept.reasoning):
            message["reasoning_content"] = reasoning
        if kept.tool_calls:
            message["tool_calls"] = kept.tool_calls
        wanted = self._asked.top_logprobs is not None
        logprobs = {"content": self._writer.logprobs.chat(kept.rows)} if wanted else None
        told = {"index": index, "message": message, "logprobs": logprobs} | kept.ending
        if kept.prompt_rows:
            told["prompt_logprobs"] = self._writer.logprobs.prompt(kept.prompt_rows)
        return told
