"""How one model's completions are read: which tokens have a text, and what of it is thought or called."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyllama_mtp._native import NativeModel
from pyllama_mtp._sequence import NativeSequence
from pyllama_mtp.chat.formats import output_format
from pyllama_mtp.chat.gemma4 import Gemma4Reader
from pyllama_mtp.chat.reader import PlainReader, Reader
from pyllama_mtp.chat.response_template import is_template, read_template
from pyllama_mtp.chat.schema_reader import SchemaReader
from pyllama_mtp.chat.template_reader import TemplateReader
from pyllama_mtp.completion import Producer
from pyllama_mtp.grammar.options import restricts
from pyllama_mtp.options import ModelOptions, Request


class Outputs:
    """The completions of one model."""

    def __init__(self, native: NativeModel) -> None:
        self._native = native
        self.format = form = output_format(native)
        self._marks = {form.thought_begin, form.thought_end, form.call_begin, form.call_end, form.quote} - {-1}

    def default_schema(self, options: ModelOptions) -> Mapping[str, Any] | None:
        """Of completions that name none: a reader that knows the vocabulary's own marks tells more, as it streams."""
        return options.response_schema if self.format.name == "plain" else None

    def producer(self, sequence: NativeSequence, request: Request) -> Producer:
        """What reads a sequence; follow() tells it of the prompt."""
        raw = request.raw or request.response_schema is not None
        return Producer(
            sequence,
            token_bytes=self._raw_bytes if raw else self._token_bytes,
            raw=raw,
            stop=request.stop or (),
            stop_token_ids=request.stop_token_ids or (),
            min_tokens=request.min_tokens,
            trace=request.trace,
            logprobs=None if request.logprobs is None else self._raw_bytes,
            prompt_logprobs=None if request.prompt_logprobs is None else self._raw_bytes,
        )

    def follow(self, producer: Producer, request: Request, prompt: Sequence[int]) -> None:
        """The sequence completes this prompt. To be called before it gives bursts."""
        producer.follow(self._reader(request, prompt), self._echo(request, prompt) if request.echo else "")

    def _echo(self, request: Request, prompt: Sequence[int]) -> str:
        return request.prompt if isinstance(request.prompt, str) else self._text(prompt)

    def _text(self, prompt: Sequence[int]) -> str:
        return b"".join(map(self._raw_bytes, prompt)).decode("utf-8", "replace")

    def _raw_bytes(self, token: int) -> bytes:
        return self._native.token_bytes(token, special=True)

    def _token_bytes(self, token: int) -> bytes:
        """Marks have a text, for a call that is none after all."""
        return self._native.token_bytes(token, special=token in self._marks)

    def _reader(self, request: Request, prompt: Sequence[int]) -> Reader:
        """One that has read the end of the prompt: there a thought or a call may be open, or a thought have ended."""
        schema = request.response_schema
        if schema is not None and not request.raw:
            return (
                TemplateReader(read_template(schema), self._text(prompt))
                if is_template(schema)
                else SchemaReader(schema)
            )
        if request.raw or self.format.name != "gemma4":
            return PlainReader()
        reader = Gemma4Reader(self.format, self._raw_bytes, unmarked_calls=not restricts(request))
        for token in prompt[self.format.open_at(prompt) :]:
            reader.feed(token, self._token_bytes(token), 0)
        return reader
