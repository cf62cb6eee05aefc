"""The only module that touches cffi: libpyllama_mtp.so and its errors, as Python objects.

Every function here raises a subclass of PyllamaMtpError with the library's own message. Times are seconds, sizes are
bytes.
"""

import atexit
import json
import logging
import os
import platform
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import cffi
import numpy as np
import numpy.typing as npt

from pyllama_mtp.errors import (
    ContextOverflowError,
    IncompatibleHeadError,
    InternalError,
    InvalidRequestError,
    ModelBusyError,
    ModelClosedError,
    ModelLoadError,
    NativeLibraryError,
    OutOfMemoryError,
    PyllamaMtpError,
    one_line,
    shown,
)
from pyllama_mtp.names import AcceptanceRule, FinishReason
from pyllama_mtp.paths import get_include, get_library
from pyllama_mtp.task import run

if TYPE_CHECKING:  # options take their limits from here
    from pyllama_mtp.options import LoadOptions, SamplingOptions

_LOG_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_MAX_ERROR_CHARS = 600  # what a file or a caller says may be long
_PACKAGE = Path(__file__).parent

_SHORT_TEXT = 1 << 16  # bytes, tokenised in some 0.1 s

T = TypeVar("T")

logger = logging.getLogger("pyllama_mtp")
logger.addHandler(logging.NullHandler())


def declarations() -> str:
    """The marked, preprocessor-free region of pyllama_mtp.h."""
    header = (get_include() / "pyllama_mtp.h").read_text(encoding="utf-8")
    return header.split("/* cffi: begin */")[1].split("/* cffi: end */")[0]


def cpu_features(cpuinfo: str) -> set[str]:
    """Instruction sets that a /proc/cpuinfo names for its first CPU."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def check_cpu(build_info: dict[str, Any], machine: str, features: set[str]) -> None:
    """Raises NativeLibraryError if this CPU lacks an instruction set that the library was built with."""
    fix = (
        "Rebuild on this machine (pip install --force-reinstall --no-cache-dir .) or for any machine "
        "(pip install . -C cmake.define.PYLLAMA_MTP_PORTABLE=ON)."
    )
    if build_info["machine"] != machine:
        raise NativeLibraryError(f"libpyllama_mtp.so was built for {build_info['machine']}, this is {machine}. {fix}")
    missing = sorted(set(build_info["cpu_features"]) - features)
    if missing:
        raise NativeLibraryError(
            f"libpyllama_mtp.so was built for a CPU with {', '.join(missing)}, which this CPU lacks. {fix}"
        )


def _load() -> tuple[cffi.FFI, Any]:
    path = get_library()
    if not path.is_file():
        raise NativeLibraryError(
            f"{path.name} is missing from {path.parent}, as in a checkout: install the package (pip install .)"
        )
    build_info = json.loads((_PACKAGE / "_build_info.json").read_text(encoding="utf-8"))
    check_cpu(build_info, platform.machine(), cpu_features(Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    try:
        lib = ffi.dlopen(str(path))
    except OSError as error:
        raise NativeLibraryError(f"cannot load {path}: {error}") from error
    if lib.pmtp_abi_version() != lib.PMTP_ABI_VERSION:
        raise NativeLibraryError(
            f"{path.name} has ABI version {lib.pmtp_abi_version()}, this package needs {lib.PMTP_ABI_VERSION}: install "
            "the package again."
        )
    return ffi, lib


_ffi, _lib = _load()

# What the header says, as cffi has parsed it.
ABI_VERSION: int = _lib.PMTP_ABI_VERSION
MAX_DRAFT: int = _lib.PMTP_MAX_DRAFT
MAX_LOGPROBS: int = _lib.PMTP_MAX_LOGPROBS


def _names(enum: str, prefix: str) -> list[str]:
    """The constants of an enum by value, in lower case and without their prefix."""
    constants: Mapping[int, str] = _ffi.typeof(enum).elements
    return [constants[value].removeprefix(prefix).lower() for value in range(len(constants))]


FINISH_REASONS = cast(list[FinishReason | None], [None, *_names("pmtp_finish", "PMTP_FINISH_")[1:]])
ACCEPTANCE_RULES = cast(list[AcceptanceRule], _names("pmtp_acceptance", "PMTP_ACCEPTANCE_"))

_ERRORS: dict[int, type[PyllamaMtpError]] = {
    _lib.PMTP_ERROR_INVALID_ARGUMENT: InvalidRequestError,
    _lib.PMTP_ERROR_MODEL_LOAD: ModelLoadError,
    _lib.PMTP_ERROR_INCOMPATIBLE_HEAD: IncompatibleHeadError,
    _lib.PMTP_ERROR_CONTEXT_OVERFLOW: ContextOverflowError,
    _lib.PMTP_ERROR_BUSY: ModelBusyError,
    _lib.PMTP_ERROR_INTERNAL: InternalError,
    _lib.PMTP_ERROR_CANCELLED: ModelClosedError,
    _lib.PMTP_ERROR_OTHER_PROCESS: ModelClosedError,
}


# Native code never calls back: a callback may run in the middle of anything, and what a signal handler raises within
# one is lost. The library keeps its log until a call that may log has ended.
_lib.pmtp_set_log(_lib.pmtp_log_keep, _ffi.NULL)

# Daemon threads may be in the library when Python ends.
atexit.register(_lib.pmtp_shutdown)


def _text(chars: Any) -> str:
    return bytes(_ffi.string(chars)).decode("utf-8", "replace")


_level = _ffi.new("int32_t *")
_nothing = _ffi.new("char[1]")


def logged(call: Callable[[], T]) -> T:
    """call(), and then what the library has kept for the log.

    For the thread that asked for the work, where it holds no lock of this package: a handler may load a model, wait for
    a thread that closes one, and whatever else. Costs a microsecond if there is nothing to log.
    """
    try:
        return call()
    finally:
        if _lib.pmtp_log_take(_nothing, 0, _level) >= 0:  # there is a line; an empty one is taken
            _hand_out_log()


def _hand_out_log() -> None:
    level = _ffi.new("int32_t *")
    capacity = 1 << 12
    while True:
        line = _ffi.new("char[]", capacity)
        size = _lib.pmtp_log_take(line, capacity, level)
        if size < 0:
            return
        if size > capacity:
            capacity = size
            continue
        text = bytes(_ffi.buffer(line, size)).decode("utf-8", "replace").strip()
        if text:
            logger.log(_LOG_LEVELS.get(level[0], logging.INFO), "%s", shown(text))


def _check(status: int, out_of_memory: type[PyllamaMtpError] = OutOfMemoryError) -> None:
    """out_of_memory: the exception that this call raises then."""
    if status != _lib.PMTP_OK:
        message = one_line(_text(_lib.pmtp_last_error()))[:_MAX_ERROR_CHARS]
        kind = out_of_memory if status == _lib.PMTP_ERROR_OUT_OF_MEMORY else _ERRORS.get(status, InternalError)
        raise kind(message)


@dataclass(frozen=True, slots=True)
class Burst:
    """What one native step brought; see pmtp_burst. `logprobs` has per emitted token a list of (token, logprob)."""

    is_round: bool
    drafted: list[int]
    accepted: int
    emitted: list[int]
    finish_reason: FinishReason | None
    logprobs: list[list[tuple[int, float]]] | None


@dataclass(frozen=True, slots=True)
class NativeStats:
    """The fields of pmtp_stats."""

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    acceptance: int
    rounds: int
    drafted: int
    accepted: int
    drafting_rounds: int
    drafting_rounds_emitted: int
    drafted_per_position: list[int]
    accepted_per_position: list[int]
    prompt_seconds: float
    decode_seconds: float
    draft_seconds: float
    verify_seconds: float
    sample_seconds: float


def _set_numbers(params: Any, options: object) -> None:
    """Gives the fields of a C struct the numbers of the options that are named like them."""
    for name, _ in _ffi.typeof(params).item.fields:
        value = getattr(options, name, None)
        if isinstance(value, int | float):
            setattr(params, name, value)


class NativeModel:
    """Owns a pmtp_model.

    Ownership is never in doubt, whatever instruction a signal handler interrupts: the handle lies in a slot that is
    there before the model is loaded, and that frees it, without a line of Python, when nobody holds the slot. Calls
    under way are listed, so that close() can stop them and wait for them. Where a handler calls close() while its own
    thread is in a call, that call frees the model when it has ended.

    Calls that compute on the KV cache are serialised; those on the vocabulary run beside them. After close(), which is
    idempotent, and in a forked child every call raises ModelClosedError.
    """

    def __init__(
        self,
        target: str,
        head: str | None,
        options: "LoadOptions",
        progress: Callable[[int, float], None] | None = None,
    ):
        """options: n_ctx and n_threads are numbers. progress: called with a pmtp_stage and the share of it that is
        done. What it or a signal handler raises ends the load.
        """
        self.lock = threading.RLock()
        self._calls: dict[object, tuple[int, Any]] = {}  # under way: the thread of each, and its pmtp_watch or NULL
        self._closed = False
        self._process = os.getpid()
        self._generation: weakref.ref[NativeGeneration] | None = None
        self._slot = _ffi.gc(_ffi.new("pmtp_model **"), _lib.pmtp_model_release)
        params = _ffi.new("pmtp_model_params *", _lib.pmtp_default_model_params())
        _set_numbers(params, options)
        names = [name for name, _ in _ffi.typeof("pmtp_model_params").fields if name.startswith("cache_type_")]
        types = {name: _ffi.new("char[]", getattr(options, name).encode()) for name in names if getattr(options, name)}
        for name, value in types.items():
            setattr(params, name, value)
        watch = params.watch = _ffi.new("pmtp_watch *")
        head_path = _ffi.NULL if head is None else _ffi.new("char[]", os.fsencode(head))
        path = os.fsencode(target)

        def load(_kept: object = types) -> None:
            try:
                _check(_lib.pmtp_model_load(path, head_path, params, self._slot), ModelLoadError)
            finally:
                if self._closed:  # nobody waits for it any more
                    _lib.pmtp_model_release(self._slot)

        def poll() -> None:
            if progress is not None:
                progress(watch.stage, watch.per_mille / 1000)

        try:
            poll()
            logged(lambda: run(load, stop=lambda: setattr(watch, "stop", 1), poll=poll))
            if progress is not None:
                progress(_lib.PMTP_STAGE_CONTEXT if head is None else _lib.PMTP_STAGE_HEAD, 1.0)
        except OutOfMemoryError as error:
            raise ModelLoadError(str(error)) from error
        except BaseException:
            self._closed = True
            _lib.pmtp_model_release(self._slot)
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

    def call(self, function: Callable[..., T], *arguments: Any, slot: Any = None, watch: Any = _ffi.NULL) -> T:
        """function(handle, *arguments), which may be a native one. slot: of the handle; default: the model's.

        close() frees nothing while the call is listed, be it a signal handler's in the middle of what follows.
        """
        self.check_process()
        slot = self._slot if slot is None else slot
        key = object()
        self._calls[key] = (threading.get_ident(), watch)
        try:
            handle = slot[0]
            if self._closed or not handle:
                raise ModelClosedError("the model was closed: load it again")
            return function(handle, *arguments)
        finally:
            self._calls.pop(key, None)
            if self._closed:
                self._free_unused()

    def _free_unused(self) -> None:
        if not self._calls:
            _lib.pmtp_model_release(self._slot)

    def close(self) -> None:
        self._closed = True
        if self.foreign:
            return
        generation = self._generation() if self._generation is not None else None
        if generation is not None:
            generation.close()
        for _, watch in list(self._calls.values()):
            if watch != _ffi.NULL:
                watch.stop = 1
        while any(thread != threading.get_ident() for thread, _ in list(self._calls.values())):
            time.sleep(0.001)
        self._free_unused()

    def info(self) -> dict[str, int]:
        """The fields of pmtp_model_info by name."""
        out = _ffi.new("pmtp_model_info *")
        with self.lock:
            _check(self.call(_lib.pmtp_model_get_info, out))
        return {name: getattr(out, name) for name, _ in _ffi.typeof("pmtp_model_info").fields}

    def placement(self) -> str:
        return self.call(lambda handle: _text(_lib.pmtp_model_placement(handle)))

    def batch_dependence(self) -> str:
        return self.call(lambda handle: _text(_lib.pmtp_model_batch_dependence(handle)))

    def metadata(self, key: str) -> str | None:
        def read(handle: Any) -> str | None:
            value = _lib.pmtp_model_metadata(handle, key.encode())
            return None if value == _ffi.NULL else _text(value)

        return self.call(read)

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool, limit: int | None = None) -> list[int]:
        """limit: raises ContextOverflowError if there are more tokens, at once if the text is very long."""
        watch = _ffi.new("pmtp_watch *")
        n = _ffi.new("int32_t *")
        capacity = len(text) + 8  # enough for most
        while True:
            capacity = capacity if limit is None else min(capacity, limit)
            tokens = _ffi.new("int32_t[]", capacity)

            def split(capacity: int = capacity, tokens: Any = tokens) -> int:
                arguments = (text, len(text), add_special, parse_special, tokens, capacity, n, watch)
                status = self.call(_lib.pmtp_tokenize, *arguments, watch=watch)
                if status != _lib.PMTP_ERROR_INVALID_ARGUMENT or n[0] <= capacity:
                    _check(status)
                return int(n[0])

            if len(text) <= _SHORT_TEXT:
                needed = logged(split)
            else:
                needed = logged(lambda split=split: run(split, stop=lambda: setattr(watch, "stop", 1)))
            if needed <= capacity:
                return list(tokens[0:needed])
            if limit is not None and needed > limit:
                raise ContextOverflowError(
                    f"the prompt has {needed} tokens or more, the context holds {limit + 1} and needs room for one "
                    "more: shorten the prompt or load the model with a larger n_ctx"
                )
            capacity = needed

    def token_bytes(self, token: int, special: bool) -> bytes:
        needed = _ffi.new("int32_t *")
        capacity = 64
        while True:
            data = _ffi.new("char[]", capacity)
            status = self.call(_lib.pmtp_token_bytes, token, special, data, capacity, needed)
            if status == _lib.PMTP_OK or needed[0] <= capacity:
                _check(status)
                return bytes(_ffi.buffer(data, needed[0]))
            capacity = needed[0]

    def logits(self, tokens: Sequence[int], n_vocab: int, n_batch: int) -> npt.NDArray[np.float32]:
        """float32 [len(tokens), n_vocab]."""
        out = np.empty((len(tokens), n_vocab), dtype=np.float32)
        ids, rows = _ffi.new("int32_t[]", list(tokens)), _ffi.from_buffer("float *", out)
        watch = _ffi.new("pmtp_watch *")

        def evaluate() -> None:
            _check(self.call(_lib.pmtp_logits, ids, len(ids), n_batch, rows, watch, watch=watch))

        def locked() -> None:
            with self.lock:
                run(evaluate, stop=lambda: setattr(watch, "stop", 1), patience=None)

        logged(locked)
        return out

    def start(self, prompt: Sequence[int], options: "SamplingOptions") -> "NativeGeneration":
        """Begins a generation. Raises ModelBusyError (another one lives), ContextOverflowError, InvalidRequestError."""
        self.check_process()
        return logged(lambda: NativeGeneration(self, prompt, options))

    def adopt(self, generation: "NativeGeneration") -> None:
        """The generation that close() closes first."""
        self._generation = weakref.ref(generation)


def quantize(path: Path, out: Path, mixture: str, n_threads: int) -> None:
    """Writes `path` with llama.cpp's own quantiser to `out`. Raises InvalidRequestError, ModelLoadError."""
    watch = _ffi.new("pmtp_watch *")
    arguments = (os.fsencode(path), os.fsencode(out), mixture.encode(), n_threads, watch)

    def write() -> None:
        _check(_lib.pmtp_quantize(*arguments), ModelLoadError)

    logged(lambda: run(write, stop=lambda: setattr(watch, "stop", 1), patience=None))


class NativeGeneration:
    """Owns a pmtp_generation, as NativeModel owns a model. After close(), step(), truncate() and stats() raise
    ModelClosedError.

    seed: the one given, or the one drawn.
    """

    def __init__(self, model: NativeModel, prompt: Sequence[int], options: "SamplingOptions"):
        self._model: NativeModel | None = model
        self._lock = model.lock
        self._closed = False
        self._stepper = 0  # the thread that is in step()
        self._cancel_lock = threading.RLock()  # orders cancel(), from any thread or signal handler, before free
        self._slot = _ffi.gc(_ffi.new("pmtp_generation **"), _lib.pmtp_generation_release)
        self.seed = secrets.randbits(63) if options.seed is None else options.seed
        self._n_logprobs = -1 if options.logprobs is None else options.logprobs
        stop_tokens = _ffi.new("int32_t[]", list(options.stop_token_ids or ()))
        logit_bias = _ffi.new("pmtp_logit_bias[]", list((options.logit_bias or {}).items()))
        synthetic = _ffi.new("double[]", list(options.synthetic_acceptance))
        native = _ffi.new("pmtp_generation_params *", _lib.pmtp_default_generation_params())
        _set_numbers(native, options)  # what is None or "auto" stays as it is by default
        native.top_k = max(0, options.top_k)
        native.seed = self.seed
        native.reproducible = options.seed is not None
        native.acceptance = ACCEPTANCE_RULES.index(options.acceptance)
        native.n_logprobs = self._n_logprobs
        native.stop_tokens = stop_tokens
        native.n_stop_tokens = len(stop_tokens)
        native.logit_bias = logit_bias
        native.n_logit_bias = len(logit_bias)
        native.synthetic_acceptance = synthetic
        native.n_synthetic_acceptance = len(synthetic)
        self._burst = _ffi.new("pmtp_burst *")
        ids = _ffi.new("int32_t[]", list(prompt))
        try:
            with self._lock:
                _check(model.call(_lib.pmtp_generation_start, ids, len(ids), native, self._slot))
                model.adopt(self)
        except BaseException:
            self.close()
            raise

    def _open(self) -> NativeModel:
        model = self._model
        if model is None or self._closed:
            raise ModelClosedError("the completion was closed: start another one")
        model.check_process()
        return model

    def step(self) -> Burst:
        model = self._open()
        with self._lock:
            self._stepper = threading.get_ident()
            try:
                _check(model.call(_lib.pmtp_generation_step, self._burst, slot=self._slot))
                burst = self._burst
                return Burst(
                    is_round=bool(burst.is_round),
                    drafted=list(burst.drafted[0 : burst.n_drafted]),
                    accepted=burst.n_accepted,
                    emitted=list(burst.emitted[0 : burst.n_emitted]),
                    finish_reason=FINISH_REASONS[burst.finish],
                    logprobs=list(self._logprobs()) if self._n_logprobs >= 0 else None,
                )
            finally:
                self._stepper = 0
                if self._closed:
                    self._free()

    def _logprobs(self) -> Iterator[list[tuple[int, float]]]:
        width = 1 + self._n_logprobs
        for row in range(self._burst.n_emitted):
            entries = self._burst.logprobs[row * width : (row + 1) * width]
            yield [(entry.token, entry.logprob) for entry in entries]

    def cancel(self) -> None:
        """Makes the running or next step end the generation. From any thread; does not wait."""
        model = self._model
        if model is not None and not model.foreign:
            with self._cancel_lock:
                _lib.pmtp_generation_cancel(self._slot[0])

    def truncate(self, n_completion: int) -> None:
        """Ends the generation with its first n_completion tokens."""
        model = self._open()
        with self._lock:
            _check(model.call(_lib.pmtp_generation_truncate, n_completion, slot=self._slot))

    def stats(self) -> NativeStats:
        model = self._open()
        out = _ffi.new("pmtp_stats *")
        with self._lock:
            _check(model.call(_lib.pmtp_generation_get_stats, out, slot=self._slot))
        values: dict[str, Any] = {f.name: getattr(out, f.name) for f in fields(NativeStats)}
        values |= {name: list(value) for name, value in values.items() if isinstance(value, _ffi.CData)}
        return NativeStats(**values)

    def close(self) -> None:
        """Idempotent; waits for the running step, unless it is this thread's, which then frees the generation."""
        self._closed = True
        model = self._model
        if model is None or model.foreign:
            return
        self.cancel()
        if self._stepper == threading.get_ident():
            return
        with self._lock:
            self._free()

    def _free(self) -> None:
        with self._cancel_lock:
            _lib.pmtp_generation_release(self._slot)
        self._model = None  # may be the last that keeps its memory
