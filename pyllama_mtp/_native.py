"""The library's models and sequences as Python objects.

Every function here raises a subclass of PyllamaMtpError with the library's own message. Times are seconds, sizes are
bytes.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from pyllama_mtp._library import DRAFTERS, MAX_SEQS, check, ffi, lib, logged, set_numbers, text_of
from pyllama_mtp._sequence import Burst, NativeSequence, Segment
from pyllama_mtp._vocabulary import NativeVocabulary
from pyllama_mtp.errors import ModelClosedError, ModelLoadError, OutOfMemoryError, StateFileError
from pyllama_mtp.task import run

if TYPE_CHECKING:  # options take their limits from the library
    from pyllama_mtp.options import LoadOptions, Request

T = TypeVar("T")


class NativeModel(NativeVocabulary):
    """Owns a pmtp_model.

    Ownership is never in doubt, whatever instruction a signal handler interrupts: the handle lies in a slot that is
    there before the model is loaded, and that frees it, without a line of Python, when nobody holds the slot. Calls
    under way are listed, so that close() can stop them and wait for them. Where a handler calls close() while its own
    thread is in a call, that call frees the model when it has ended.

    One thread at a time steps: it alone frees sequences, so what a burst names is there. After close(), which is
    idempotent, and in a forked child every call raises ModelClosedError.
    """

    def __init__(
        self,
        target: str,
        head: str | None,
        options: "LoadOptions",
        n_cells: int = 0,
        progress: Callable[[int, float], None] | None = None,
    ):
        """options: n_ctx and n_threads are numbers. n_cells: of the KV cache; 0: n_ctx for each sequence.
        progress: called with a pmtp_stage and the share of it that is done. What it or a signal handler raises ends the
        load.
        """
        self._calls: dict[object, tuple[int, Any]] = {}  # under way: the thread of each, and its pmtp_watch or NULL
        self._closed = False
        self._process = os.getpid()
        self._sequences: dict[NativeSequence, None] = {}  # that began and are not closed
        self._named: dict[int, NativeSequence] = {}  # some of them by their handles
        self._bursts = ffi.new("pmtp_burst[]", MAX_SEQS)
        self._step = _Step(0, ffi.new("int32_t *"))
        self._numbers = itertools.count(1)
        self._slot = ffi.gc(ffi.new("pmtp_model **"), lib.pmtp_model_release)
        params = ffi.new("pmtp_model_params *", lib.pmtp_default_model_params())
        set_numbers(params, options)
        params.n_cells = n_cells
        params.drafter = DRAFTERS.index(options.drafter)
        names = [name for name, _ in ffi.typeof("pmtp_model_params").fields if name.startswith("cache_type_")]
        types = {name: ffi.new("char[]", getattr(options, name).encode()) for name in names if getattr(options, name)}
        for name, value in types.items():
            setattr(params, name, value)
        watch = params.watch = ffi.new("pmtp_watch *")
        head_path = ffi.NULL if head is None else ffi.new("char[]", os.fsencode(head))
        path = os.fsencode(target)

        def load(_kept: object = types) -> None:
            try:
                check(lib.pmtp_model_load(path, head_path, params, self._slot), ModelLoadError)
            finally:
                if self._closed:  # nobody waits for it any more
                    lib.pmtp_model_release(self._slot)

        def poll() -> None:
            if progress is not None:
                progress(watch.stage, watch.per_mille / 1000)

        try:
            poll()
            logged(lambda: run(load, stop=lambda: setattr(watch, "stop", 1), poll=poll))
            if progress is not None:
                progress(lib.PMTP_STAGE_CONTEXT if head is None else lib.PMTP_STAGE_HEAD, 1.0)
        except OutOfMemoryError as error:
            raise ModelLoadError(str(error)) from error
        except BaseException:
            self._closed = True
            lib.pmtp_model_release(self._slot)
            raise

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child, where the model's threads are missing and locks may be held for ever."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Raises ModelClosedError in a forked child."""
        if self.foreign:
            raise ModelClosedError("the model was loaded before this process was forked: load it in the child")

    def call(self, function: Callable[..., T], *arguments: Any, watch: Any = ffi.NULL) -> T:
        """function(handle, *arguments), which may be a native one.

        close() frees nothing while the call is listed, be it a signal handler's in the middle of what follows.
        """
        self.check_process()
        key = object()
        self._calls[key] = (threading.get_ident(), watch)
        try:
            handle = self._slot[0]
            if self._closed or not handle:
                raise ModelClosedError("the model was closed: load it again")
            return function(handle, *arguments)
        finally:
            self._calls.pop(key, None)
            if self._closed:
                self._free_unused()

    def _free_unused(self) -> None:
        if not self._calls:
            lib.pmtp_model_release(self._slot)

    def close(self) -> None:
        self._closed = True
        if self.foreign:
            return
        for sequence in list(self._sequences):
            sequence.cancel()
        for _, watch in list(self._calls.values()):
            if watch != ffi.NULL:
                watch.stop = 1
        while any(thread != threading.get_ident() for thread, _ in list(self._calls.values())):
            time.sleep(0.001)
        self._free_unused()

    def info(self) -> dict[str, int]:
        """The fields of pmtp_model_info by name."""
        out = ffi.new("pmtp_model_info *")
        check(self.call(lib.pmtp_model_get_info, out))
        return {name: getattr(out, name) for name, _ in ffi.typeof("pmtp_model_info").fields}

    def usage(self) -> dict[str, int]:
        """The fields of pmtp_usage by name. Waits for a step that is under way."""
        out = ffi.new("pmtp_usage *")
        check(self.call(lib.pmtp_model_get_usage, out))
        return {name: getattr(out, name) for name, _ in ffi.typeof("pmtp_usage").fields}

    def placement(self) -> str:
        return self.call(lambda handle: text_of(lib.pmtp_model_placement(handle)))

    def batch_dependence(self) -> str:
        return self.call(lambda handle: text_of(lib.pmtp_model_batch_dependence(handle)))

    def metadata(self, key: str) -> str | None:
        def read(handle: Any) -> str | None:
            value = lib.pmtp_model_metadata(handle, key.encode())
            return None if value == ffi.NULL else text_of(value)

        return self.call(read)

    def logits(self, tokens: Sequence[int], n_vocab: int, n_batch: int) -> npt.NDArray[np.float32]:
        """float32 [len(tokens), n_vocab]. Raises NoRoomError while other sequences take it."""
        out = np.empty((len(tokens), n_vocab), dtype=np.float32)
        ids, rows = ffi.new("int32_t[]", list(tokens)), ffi.from_buffer("float *", out)
        watch = ffi.new("pmtp_watch *")

        def evaluate() -> None:
            check(self.call(lib.pmtp_logits, ids, len(ids), n_batch, rows, watch, watch=watch))

        run(evaluate, stop=lambda: setattr(watch, "stop", 1), patience=None)
        return out

    def save_state(self, path: str) -> None:
        """Overwrites the file. Raises StateFileError."""
        name = os.fsencode(path)

        def write() -> None:
            check(self.call(lib.pmtp_model_save_state, name))

        self._with_state_file(write)

    def load_state(self, path: str) -> int:
        """Returns the number of texts. Raises StateFileError."""
        name = os.fsencode(path)
        n = ffi.new("int32_t *")

        def read() -> None:
            check(self.call(lib.pmtp_model_load_state, name, n))

        self._with_state_file(read)
        return int(n[0])

    @staticmethod
    def _with_state_file(call: Callable[[], None]) -> None:
        try:
            run(call, stop=lambda: None, patience=None)
        except ModelLoadError as error:
            raise StateFileError(str(error)) from error

    def start(self, sequence: NativeSequence, prompt: Sequence[Segment], options: "Request") -> None:
        """Begins a sequence; it is this model's until it is closed. Raises ContextOverflowError, InvalidRequestError.

        It is listed before steps may give it bursts, and where this is interrupted it stays listed.
        """
        self._sequences[sequence] = None
        self.call(sequence.begin, prompt, options)

    def step(self) -> None:
        """Computes one step, whose bursts are there until stepped() is called.

        Where that calls Python, it is on a thread on which no signal handler runs: what one raised there would be lost.
        """

        def compute() -> None:
            check(self.call(lib.pmtp_step, self._bursts, len(self._bursts), self._step.n))

        if any(sequence.calls_python for sequence in list(self._sequences)):
            run(compute, stop=lambda: None, patience=None)
        else:
            compute()

    @property
    def n_bursts(self) -> int:
        return int(self._step.n[0])

    def bursts(self) -> list[Burst]:
        """Those of the last step, read from the library once: taking one may end what another call would read."""
        step = self._step
        if step.bursts is None:
            step.bursts = list(self._read(step))
        return step.bursts

    def _read(self, step: "_Step") -> Iterator[Burst]:
        for i in range(step.n[0]):
            burst = self._bursts[i]
            sequence = self._sequence_of(int(ffi.cast("intptr_t", burst.sequence)))
            if sequence is not None:
                yield sequence.read(burst, step.number)

    def stepped(self) -> None:
        """Whoever was to get the bursts has them."""
        self._step = _Step(next(self._numbers), ffi.new("int32_t *"))

    def _sequence_of(self, handle: int) -> NativeSequence | None:
        """None: its start was interrupted and nobody holds it."""
        found = self._named.get(handle)
        while found is None:
            listed = list(self._sequences)
            handles = [sequence.handle for sequence in listed]
            if handle in handles:
                found = self._named[handle] = listed[handles.index(handle)]
            elif 0 not in handles:
                return None
            else:
                time.sleep(1e-5)  # another thread's start is about to return
        return found

    def free(self, sequence: NativeSequence) -> None:
        """Frees a sequence, ended or not. By the thread that steps."""
        if not self.foreign:
            self._named.pop(sequence.handle, None)
            sequence.close()
            self._sequences.pop(sequence, None)


@dataclass(slots=True)
class _Step:
    """One call of pmtp_step. n: its bursts, 0 before it."""

    number: int
    n: Any
    bursts: list[Burst] | None = None


def quantize(path: Path, out: Path, mixture: str, n_threads: int) -> None:
    """Writes `path` with llama.cpp's own quantiser to `out`. Raises InvalidRequestError, ModelLoadError."""
    watch = ffi.new("pmtp_watch *")
    arguments = (os.fsencode(path), os.fsencode(out), mixture.encode(), n_threads, watch)

    def write() -> None:
        check(lib.pmtp_quantize(*arguments), ModelLoadError)

    logged(lambda: run(write, stop=lambda: setattr(watch, "stop", 1), patience=None))
