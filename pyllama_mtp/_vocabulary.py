"""The tokens of the library's models: texts to tokens, tokens to bytes."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pyllama_mtp._library import check, ffi, lib, logged
from pyllama_mtp.errors import ContextOverflowError
from pyllama_mtp.task import run

_SHORT_TEXT = 1 << 16  # bytes, tokenised in some 0.1 s

T = TypeVar("T")


class NativeVocabulary(ABC):
    """Of a pmtp_model, which call() gives to functions of the library."""

    @abstractmethod
    def call(self, function: Callable[..., T], *arguments: Any, watch: Any = ffi.NULL) -> T:
        """function(handle, *arguments). watch: what ends it early, if it has one."""

    @abstractmethod
    def info(self) -> dict[str, int]:
        """The fields of pmtp_model_info by name."""

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool, limit: int | None = None) -> list[int]:
        """limit: raises ContextOverflowError if there are more tokens, at once if the text is very long."""
        arguments = text, len(text), add_special, parse_special
        return self._tokens(lib.pmtp_tokenize, arguments, len(text), limit)

    def tokenize_parts(self, parts: Sequence[tuple[bytes, bool]], limit: int | None = None) -> list[int]:
        """The tokens of one text, whose parts say whether they may have special tokens. limit: see tokenize()."""
        texts = [ffi.from_buffer("char[]", text) for text, _ in parts]
        values = [(text, len(text), is_literal) for text, (_, is_literal) in zip(texts, parts, strict=True)]
        arguments = ffi.new("pmtp_text[]", values), len(parts), False
        return self._tokens(lib.pmtp_tokenize_parts, arguments, sum(len(text) for text, _ in parts), limit)

    def _tokens(self, tokenize: Any, arguments: tuple[Any, ...], size: int, limit: int | None) -> list[int]:
        """arguments: those of the function up to the room for tokens. size: of the text in bytes."""
        watch = ffi.new("pmtp_watch *")
        n = ffi.new("int32_t *")
        capacity = size + 8  # enough for most
        while True:
            capacity = capacity if limit is None else min(capacity, limit)
            tokens = ffi.new("int32_t[]", capacity)

            def split(capacity: int = capacity, tokens: Any = tokens) -> int:
                status = self.call(tokenize, *arguments, tokens, capacity, n, watch, watch=watch)
                if status != lib.PMTP_ERROR_INVALID_ARGUMENT or n[0] <= capacity:
                    check(status)
                return int(n[0])

            if size <= _SHORT_TEXT:
                needed = logged(split)
            else:
                needed = logged(functools.partial(run, split, stop=lambda: setattr(watch, "stop", 1)))
            if needed <= capacity:
                return list(tokens[0:needed])
            if limit is not None and needed > limit:
                raise ContextOverflowError(
                    f"the prompt has {needed} tokens or more, the context holds {limit + 1} and needs room for one "
                    "more: shorten the prompt or load the model with a larger n_ctx"
                )
            capacity = needed

    def token_bytes(self, token: int, special: bool) -> bytes:
        return self._bytes(64, "int32_t *", lambda *room: self.call(lib.pmtp_token_bytes, token, special, *room))

    def vocabulary(self, special: bool) -> tuple[bytes, npt.NDArray[np.uint32]]:
        """token_bytes() of all tokens, one after another, and their lengths."""
        sizes = np.empty(self.info()["n_vocab"], dtype=np.uint32)
        lengths = ffi.from_buffer("uint32_t *", sizes)

        def read(data: Any, capacity: int, needed: Any) -> int:
            return int(self.call(lib.pmtp_vocabulary_bytes, special, data, capacity, lengths, needed))

        return self._bytes(16 * len(sizes), "size_t *", read), sizes

    @staticmethod
    def _bytes(capacity: int, counter: str, read: Callable[..., int]) -> bytes:
        """What read(room, its capacity, how much is needed) writes and returns a status for. capacity: enough for
        most.
        """
        needed = ffi.new(counter)
        while True:
            data = ffi.new("char[]", capacity)
            status = read(data, capacity, needed)
            if status == lib.PMTP_OK or needed[0] <= capacity:
                check(status)
                return bytes(ffi.buffer(data, needed[0]))
            capacity = needed[0]

    def token_is_end(self, token: int) -> bool:
        return bool(self.call(lib.pmtp_token_is_end, token))

    def end_tokens(self) -> list[int]:
        n_vocab = self.info()["n_vocab"]
        return self.call(lambda handle: [t for t in range(n_vocab) if lib.pmtp_token_is_end(handle, t)])
