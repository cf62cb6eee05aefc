"""From what a caller passes as a prompt to token ids: text, ids, or messages for the model's own chat template."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pyllama_mtp import chat
from pyllama_mtp._native import NativeModel
from pyllama_mtp._sequence import Segment
from pyllama_mtp.errors import ContextOverflowError, InvalidRequestError, seen
from pyllama_mtp.info import ModelInfo, SpecialTokens
from pyllama_mtp.options import Prompt
from pyllama_mtp.ranges import Flag, as_integer


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens at the beginning of both."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Prompts:
    """The prompts of one model. Raises ModelClosedError after that was closed."""

    def __init__(self, native: NativeModel, info: ModelInfo, special: SpecialTokens) -> None:
        self._native = native
        self._info = info
        self._special = special

    def segments(self, prompt: Prompt) -> list[Segment]:
        """At least one token. Raises InvalidRequestError, ChatTemplateError, and ContextOverflowError for a prompt that
        the context cannot hold.
        """
        limit = self._info.n_ctx - 1  # and one to generate
        branches: list[int] = []
        if isinstance(prompt, str):
            ids = self.tokenize(prompt, limit=limit)
        elif isinstance(prompt, np.ndarray):
            ids = self.checked_ids(prompt, limit)
        elif isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping):
            rendered = self.render(cast(Sequence[chat.Message], prompt))
            ids = self._chat_ids(rendered.text, limit)
            branches = [common_length(ids, self._chat_ids(rendered.text[:n], limit)) for n in rendered.branches]
        elif isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray | memoryview):
            ids = self.checked_ids(cast(Sequence[int], prompt), limit)
        else:
            raise InvalidRequestError(
                f"prompt is a {type(prompt).__name__}, expected text, a list of token ids or a list of messages"
            )
        if not ids:
            raise InvalidRequestError("the prompt is empty, expected at least one token")
        ends = sorted({*branches, len(ids)} - {0})
        return [Segment(ids[begin:end], branches=True) for begin, end in zip([0, *ends], ends, strict=False)]

    def _chat_ids(self, text: str, limit: int) -> list[int]:
        """A template writes the tokens that begin a text itself, or leaves them out."""
        ids = self.tokenize(text, add_special=False, limit=limit)
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

    def render(self, messages: Sequence[chat.Message]) -> chat.Rendered:
        """What the model's own chat template makes of messages. Raises ChatTemplateError."""

        def special(token: int) -> str:
            return self._native.token_bytes(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

        template = self._native.metadata("tokenizer.chat_template")
        return chat.render(
            template, messages, bos_token=special(self._special.bos), eos_token=special(self._special.eos)
        )

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
