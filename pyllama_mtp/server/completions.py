"""POST /v1/completions."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from pyllama_mtp.errors import seen
from pyllama_mtp.options import Prompt
from pyllama_mtp.results import Chunk, TokenLogprob
from pyllama_mtp.server.errors import ApiError, wrong
from pyllama_mtp.server.fields import Asked, Fields
from pyllama_mtp.server.generation import Choice, Generation
from pyllama_mtp.server.reading import read_json
from pyllama_mtp.server.state import State
from pyllama_mtp.server.usage import Usage
from pyllama_mtp.server.writing import Writer


async def completions(request: Request) -> ASGIApp:
    """Answers as soon as the request is understood; see Generation."""
    state: State = request.app.state.server
    body = await read_json(request, state.options)
    state.check_model(body.get("model"))
    fields = Fields(body, state.options)
    asked = fields.asked(read_prompts(fields.take("prompt"), state.options.max_choices), chat=False)
    return Generation(state, asked, TextShape(state, asked))


def read_prompts(given: object, most: int) -> list[Prompt]:
    """A text, token ids, or a list of either. Raises ApiError."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise _wrong_prompt(given)
    if isinstance(given[0], int):
        return [given]  # Model checks the ids
    if len(given) > most:
        raise wrong(f"{len(given)} prompts, expected at most {most}", "prompt", "too_many_prompts")
    for prompt in given:
        ids = isinstance(prompt, list) and prompt and not isinstance(prompt[0], Mapping | list | str)
        if not isinstance(prompt, str) and not ids:
            raise _wrong_prompt(prompt)
    return given


def _wrong_prompt(value: object) -> ApiError:
    return wrong(f"prompt is {seen(value)}, expected a text, a list of token ids, or a list of those", "prompt")


class _Text:
    """What was collected of one text, or written of it. length: characters."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.rows: list[list[TokenLogprob]] = []
        self.prompt_rows: list[list[TokenLogprob]] = []
        self.ending: dict[str, Any] = {}
        self.length = 0


class TextShape:
    """Writes texts and their parts."""

    def __init__(self, state: State, asked: Asked):
        self._asked = asked
        self._writer = Writer(state, asked, "cmpl", "text_completion", "text_completion")
        self._model = state.model
        self._texts: dict[int, _Text] = {}

    def _rows(self, chunk: Chunk) -> list[list[TokenLogprob]] | None:
        """None: no logprobs are wanted. With echo those of the prompt come first."""
        if chunk.logprobs is None:
            return None
        return ((chunk.prompt_logprobs or []) if self._asked.options.get("echo") else []) + chunk.logprobs

    def _logprobs(self, choice: Choice, rows: list[list[TokenLogprob]], offset: int) -> dict[str, Any]:
        first = ""
        if [] in rows:  # of the prompt's first token, which nothing comes before
            prompt = self._asked.prompts[choice.prompt_index]
            first = self._model.detokenize(self._model.prompt_ids(prompt)[:1])
        return self._writer.logprobs.completion(rows, offset, first)

    def opening(self, choice: Choice) -> bytes:
        return b""

    def part(self, choice: Choice, chunk: Chunk, usage: Usage) -> bytes:
        if not (chunk.text or chunk.logprobs or chunk.finish_reason or self._asked.continuous_usage):
            return b""
        logprobs = "null"
        if (rows := self._rows(chunk)) is not None:
            text = self._texts.setdefault(choice.index, _Text())
            logprobs = json.dumps(self._logprobs(choice, rows, text.length))
            text.length += len(chunk.text)
        rest = f'"logprobs": {logprobs}, "finish_reason": null'
        if chunk.finish_reason is not None:
            rest = f'"logprobs": {logprobs}, {json.dumps(self._writer.ending(choice, chunk))[1:-1]}'
        return self._writer.event(choice, f'"text": {json.dumps(chunk.text)}', rest, usage)

    def closing(self, choices: list[Choice], usage: Usage) -> bytes:
        return self._writer.closing(choices, usage)

    def keep(self, choice: Choice, chunk: Chunk) -> None:
        text = self._texts.setdefault(choice.index, _Text())
        text.parts.append(chunk.text)
        text.rows += self._rows(chunk) or []
        text.prompt_rows += chunk.prompt_logprobs or []
        if chunk.finish_reason is not None:
            text.ending = self._writer.ending(choice, chunk)

    def whole(self, choices: list[Choice], usage: Usage) -> bytes:
        return self._writer.whole([self._choice(one, self._texts[one.index]) for one in choices], choices, usage)

    def _choice(self, choice: Choice, kept: _Text) -> dict[str, Any]:
        wanted = self._asked.top_logprobs is not None
        logprobs = self._logprobs(choice, kept.rows, 0) if wanted else None
        told = {"index": choice.index, "text": "".join(kept.parts), "logprobs": logprobs} | kept.ending
        if kept.prompt_rows and not self._asked.options.get("echo"):
            told["prompt_logprobs"] = self._writer.logprobs.prompt(kept.prompt_rows)
        return told
