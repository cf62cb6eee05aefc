"""From what a caller passes as a prompt to token ids: text, ids, or messages for the model's own chat template.

Only what a template wrote itself becomes control tokens. Text of messages, tools and variables that reads like one
stays text, and is otherwise tokenised as if it were not told apart.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from pyllama_mtp import chat
from pyllama_mtp._native import NativeModel
from pyllama_mtp._sequence import Segment
from pyllama_mtp.errors import ContextOverflowError, InvalidRequestError, seen
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.info import ModelInfo, SpecialTokens
from pyllama_mtp.options import ChatOptions, Prompt
from pyllama_mtp.ranges import Flag, as_integer


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens at the beginning of both."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# What templates call special tokens, with the word for each in a GGUF's keys.
_NAMED_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # as llama.cpp spells it
    "pad_token": "padding",
    "mask_token": "mask",
}


def named_tokens(header: GGUFFile) -> dict[str, int]:
    """Ids of special tokens, by the names of the variables that templates are given."""
    ids = {name: header.metadata.get(f"tokenizer.ggml.{word}_token_id") for name, word in _NAMED_TOKENS.items()}
    return {name: value for name, value in ids.items() if isinstance(value, int)}


class Made(NamedTuple):
    """A prompt as tokens."""

    segments: list[Segment]

    @property
    def tokens(self) -> list[int]:
        return [token for segment in self.segments for token in segment.tokens]


def is_messages(prompt: object) -> bool:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


class Prompts:
    """The prompts of one model. Raises ModelClosedError after that was closed."""

    def __init__(self, native: NativeModel, info: ModelInfo, special: SpecialTokens, named: Mapping[str, int]) -> None:
        """named: see named_tokens()."""
        self._native = native
        self._info = info
        self._special = special
        self._n_bytes: dict[int, int] = {}  # of the texts of tokens that prompts had
        self._named = {name: token for name, token in named.items() if 0 <= token < info.n_vocab}

    def made(self, prompt: Prompt, options: ChatOptions) -> Made:
        """At least one token. Raises InvalidRequestError, ChatTemplateError, and ContextOverflowError for a prompt that
        the context cannot hold.
        """
        limit = self._info.n_ctx - 1  # and one to generate
        if is_messages(prompt):
            return self._made_of_chat(self.render(cast(Sequence[chat.Message], prompt), options), limit)
        for option in fields(ChatOptions):
            if getattr(options, option.name) != option.default:
                raise InvalidRequestError(f"{option.name} is for messages, the prompt is a {type(prompt).__name__}")
        if isinstance(prompt, str):
            ids = self.tokenize(prompt, limit=limit)
            if self._special.add_bos and ids[:2] == [self._special.bos] * 2:  # it was rendered by a template
                del ids[0]
        elif isinstance(prompt, np.ndarray):
            ids = self.checked_ids(prompt, limit)
        elif isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray | memoryview):
            ids = self.checked_ids(cast(Sequence[int], prompt), limit)
        else:
            raise InvalidRequestError(
                f"prompt is a {type(prompt).__name__}, expected text, a list of token ids or a list of messages"
            )
        if not ids:
            raise InvalidRequestError("the prompt is empty, expected at least one token")
        return Made([Segment(ids, branches=True)])

    def _made_of_chat(self, rendered: chat.Rendered, limit: int) -> Made:
        ids = self._chat_ids(rendered.pieces, limit)
        if not ids:
            raise InvalidRequestError("the chat template made an empty prompt of the messages: pass text or token ids")
        ends = sorted({*self._branches(rendered, ids), len(ids)} - {0})
        segments = [Segment(ids[begin:end], branches=True) for begin, end in zip([0, *ends], ends, strict=False)]
        return Made(segments)

    def _branches(self, rendered: chat.Rendered, ids: list[int]) -> list[int]:
        """Tokens before each branch: those of which nothing lies behind it, or some less if the tokenizer leaves out a
        part of the text.
        """
        sizes = self._n_bytes
        for token in set(ids).difference(sizes):
            sizes[token] = len(self._native.token_bytes(token, special=True))
        text = rendered.text
        ends = list(itertools.accumulate(map(sizes.__getitem__, ids)))
        added = ends[-1] - len(text.encode())  # a <bos> in front, or a space
        return [bisect.bisect_right(ends, added + len(text[:n].encode())) for n in rendered.branches]

    def _chat_ids(self, pieces: Sequence[tuple[str, bool]], limit: int) -> list[int]:
        """A template writes the tokens that begin a text itself, or leaves them out."""
        ids = self._native.tokenize_parts([(text.encode(), is_own) for text, is_own in pieces], limit)
        if self._special.add_bos and ids[:1] != [self._special.bos]:
            ids.insert(0, self._special.bos)
        return ids

    def checked_ids(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]], limit: int | None = None) -> list[int]:
        """limit: raises ContextOverflowError if there are more."""
        if not isinstance(ids, Sequence | np.ndarray) or getattr(ids, "ndim", 1) != 1:
            shape = f" of shape {ids.shape}" if isinstance(ids, np.ndarray) else ""
            raise InvalidRequestError(f"token ids are a {type(ids).__name__}{shape}, expected a list of integers")
        if limit is not None and len(ids) > limit:
            raise ContextOverflowError(
                f"{len(ids)} tokens, expected at most {limit} with an n_ctx of {self._info.n_ctx}: pass fewer or load "
                "the model with a larger n_ctx"
            )
        n_vocab = self._info.n_vocab
        checked = []
        if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
            ids = ids.tolist()
        for index, token in enumerate(ids):
            integer = as_integer(token)
            if integer is None or not 0 <= integer < n_vocab:
                raise self._wrong_id(index, token)
            checked.append(integer)
        return checked

    def _wrong_id(self, index: int, token: object) -> InvalidRequestError:
        if isinstance(token, Sequence | Mapping | np.ndarray):
            return InvalidRequestError(
                f"index {index} of the prompt holds a {type(token).__name__}, {seen(token)}, expected token ids, "
                "or only messages: a call takes one prompt, so call once for each"
            )
        return InvalidRequestError(f"token id {seen(token)} at index {index}, expected 0..{self._info.n_vocab - 1}")

    def render(self, messages: Sequence[chat.Message], options: ChatOptions) -> chat.Rendered:
        """What the model's own chat template, or the one given, makes of messages. Raises InvalidRequestError,
        ChatTemplateError.
        """
        given = chat.conversation(
            messages,
            tools=options.tools,
            chat_template_kwargs=options.chat_template_kwargs,
            add_generation_prompt=options.add_generation_prompt,
            continue_final_message=options.continue_final_message,
        )
        template = options.chat_template
        if template is None and options.tools:
            template = self._native.metadata("tokenizer.chat_template.tool_use")
        if template is None:
            template = self._native.metadata("tokenizer.chat_template")
        return chat.rendered(template, given, {name: self._text_of(token) for name, token in self._named.items()})

    def _text_of(self, token: int) -> str:
        return self._native.token_bytes(token, special=True).decode("utf-8", "replace")

    def tokenize(
        self, text: str, add_special: bool = True, parse_special: bool = True, limit: int | None = None
    ) -> list[int]:
        """limit: raises ContextOverflowError if there are more tokens."""
        if not isinstance(text, str):
            raise InvalidRequestError(f"text is a {type(text).__name__}, expected str")
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"text is no valid Unicode: {error}") from error
        flag = Flag()
        special = flag.check("add_special", add_special), flag.check("parse_special", parse_special)
        return self._native.tokenize(data, *special, limit)
