"""A callable of the caller's as what restricts a completion."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pyllama_mtp._library import ffi
from pyllama_mtp.errors import GrammarError, PyllamaMtpError, seen
from pyllama_mtp.ranges import as_integer


class CallableMask:
    """Calls `allowed` with the token ids of the completion so far: those that count, and for each draft those before
    it too. It returns the ids that may come next, or a bool for each token of the vocabulary, or None: all.

    What it raises ends the completion, whose reader gets a GrammarError with that as its cause.
    """

    calls_python = True

    def __init__(self, allowed: Callable[[list[int]], Any], n_vocab: int, is_end: Callable[[int], bool]):
        self._allowed = allowed
        self._n_vocab = n_vocab
        self._n_words = (n_vocab + 31) // 32
        self._is_end = is_end
        self._committed: list[int] = []
        self._error: BaseException | None = None
        self._callbacks = (
            ffi.callback("int32_t(void *, const int32_t *, int32_t, uint32_t *)", self._masks, error=-1),
            ffi.callback("int32_t(void *, const int32_t *, int32_t)", self._commit, error=-1),
        )

    def apply_to(self, params: Any) -> None:
        params.grammar.masks, params.grammar.commit = self._callbacks

    def error(self) -> PyllamaMtpError | None:
        if self._error is None:
            return None
        error = GrammarError(f"logits_mask failed: {type(self._error).__name__}: {seen(self._error)}")
        error.__cause__ = self._error
        return error

    def _masks(self, _user: Any, drafts: Any, n_drafts: int, out: Any) -> int:
        try:
            words = np.frombuffer(ffi.buffer(out, (n_drafts + 1) * self._n_words * 4), dtype=np.uint8)
            rows = words.reshape(n_drafts + 1, self._n_words * 4)
            tokens = list(self._committed)
            for n in range(n_drafts + 1):
                bits = self._bits(self._allowed(list(tokens)))
                rows[n, : len(bits)] = bits
                if n == n_drafts or not rows[n, drafts[n] // 8] >> drafts[n] % 8 & 1:
                    return n
                tokens.append(drafts[n])
                if self._is_end(drafts[n]):  # nothing follows
                    rows[n + 1] = 255
                    return n + 1
            return n_drafts
        except BaseException as error:
            self._error = error
            return -1

    def _bits(self, allowed: object) -> npt.NDArray[np.uint8]:
        if allowed is None:
            return np.full(self._n_words * 4, 255, np.uint8)
        if isinstance(allowed, np.ndarray) and allowed.dtype == np.bool_:
            if allowed.shape != (self._n_vocab,):
                raise ValueError(f"the array has the shape {allowed.shape}, expected ({self._n_vocab},)")
            return np.packbits(allowed, bitorder="little")
        if isinstance(allowed, str | bytes) or not isinstance(allowed, Iterable):
            raise TypeError(f"it returned {seen(allowed)}, expected token ids, an array of bool, or None")
        flags = np.zeros(self._n_vocab, np.bool_)
        for token in allowed:
            index = as_integer(token)
            if index is None or not 0 <= index < self._n_vocab:
                raise ValueError(f"it returned the token id {seen(token)}, expected 0..{self._n_vocab - 1}")
            flags[index] = True
        return np.packbits(flags, bitorder="little")

    def _commit(self, _user: Any, tokens: Any, n: int) -> int:
        self._committed += list(tokens[0:n])
        return 0
