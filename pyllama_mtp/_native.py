"""The only module that touches cffi: libpyllama_mtp.so and its errors, as Python objects.

Every function here raises a subclass of PyllamaMtpError with the library's own message. Times are seconds, sizes are
bytes.
"""

import json
import logging
import os
import platform
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    PyllamaMtpError,
    one_line,
    shown,
)
from pyllama_mtp.names import AcceptanceRule, FinishReason
from pyllama_mtp.paths import get_include, get_library

if TYPE_CHECKING:  # options take their limits from here
    from pyllama_mtp.options import LoadOptions, SamplingOptions

_LOG_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_MAX_ERROR_CHARS = 600  # what a file or a caller says may be long
_PACKAGE = Path(__file__).parent

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
    _lib.PMTP_ERROR_OUT_OF_MEMORY: ModelLoadError,
    _lib.PMTP_ERROR_BUSY: ModelBusyError,
    _lib.PMTP_ERROR_INTERNAL: InternalError,
}


class _ThreadState(threading.local):
    log_line = ""
    log_level = logging.INFO
    held_back = False  # lines go nowhere: an exception tells what matters of them
    interrupted = False  # Ctrl-C arrived inside the log callback, which cannot raise it


_thread = _ThreadState()


def _on_log_error(kind: type[BaseException], _error: object, _traceback: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _thread.interrupted = True


def _on_log(level: int, text: Any, _user: object) -> None:
    """Logs whole lines; llama.cpp writes some of them in pieces. Line ends within a piece are a file's, and escaped."""
    if not _thread.log_line:
        _thread.log_level = _LOG_LEVELS.get(level, logging.INFO)
    _thread.log_line += _text(text)
    if _thread.log_line.endswith("\n"):  # others are a file's, which may not begin a line of the log
        line, _thread.log_line = _thread.log_line.strip(), ""
        if line and not _thread.held_back:
            logger.log(_thread.log_level, "%s", shown(line))


_log_callback = _ffi.callback("void(int32_t, const char *, void *)", _on_log, onerror=_on_log_error)
_lib.pmtp_set_log(_log_callback, _ffi.NULL)


def _text(chars: Any) -> str:
    return bytes(_ffi.string(chars)).decode("utf-8", "replace")


def _check(status: int) -> None:
    if _thread.interrupted:
        _thread.interrupted = False
        raise KeyboardInterrupt
    if status != _lib.PMTP_OK:
        raise _ERRORS.get(status, InternalError)(one_line(_text(_lib.pmtp_last_error()))[:_MAX_ERROR_CHARS])


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
    """Owns a pmtp_model and the generation that runs on it.

    Calls are serialised. `close()` is idempotent, waits for the running call and closes the generation first. After it
    every call raises ModelClosedError.
    """

    def __init__(self, target: str, head: str | None, options: "LoadOptions"):
        """options: n_ctx and n_threads are numbers."""
        self.lock = threading.RLock()
        self.generation: NativeGeneration | None = None
        self._handle: Any = None
        params = _ffi.new("pmtp_model_params *", _lib.pmtp_default_model_params())
        _set_numbers(params, options)
        names = [name for name, _ in _ffi.typeof("pmtp_model_params").fields if name.startswith("cache_type_")]
        types = {name: _ffi.new("char[]", getattr(options, name).encode()) for name in names if getattr(options, name)}
        for name, value in types.items():
            setattr(params, name, value)
        head_path = _ffi.NULL if head is None else _ffi.new("char[]", os.fsencode(head))
        out = _ffi.new("pmtp_model **")
        status = _lib.pmtp_model_load(os.fsencode(target), head_path, params, out)
        self._handle = out[0] or None
        try:
            _check(status)
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        return self._handle is None

    @property
    def handle(self) -> Any:
        """The pmtp_model; raises ModelClosedError after close(). For use under the lock."""
        if self._handle is None:
            raise ModelClosedError("the model was closed: load it again")
        return self._handle

    def close(self) -> None:
        with self.lock:
            if self.generation is not None:
                self.generation.close()
            handle, self._handle = self._handle, None
            if handle is not None:
                _lib.pmtp_model_free(handle)

    def info(self) -> dict[str, int]:
        """The fields of pmtp_model_info by name."""
        with self.lock:
            out = _ffi.new("pmtp_model_info *")
            _check(_lib.pmtp_model_get_info(self.handle, out))
            return {name: getattr(out, name) for name, _ in _ffi.typeof("pmtp_model_info").fields}

    def placement(self) -> str:
        with self.lock:
            return _text(_lib.pmtp_model_placement(self.handle))

    def metadata(self, key: str) -> str | None:
        with self.lock:
            value = _lib.pmtp_model_metadata(self.handle, key.encode())
            return None if value == _ffi.NULL else _text(value)

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        capacity = len(text) + 8  # a token for every byte, and some special ones
        tokens = _ffi.new("int32_t[]", capacity)
        n = _ffi.new("int32_t *")
        with self.lock:
            _check(_lib.pmtp_tokenize(self.handle, text, len(text), add_special, parse_special, tokens, capacity, n))
        return list(tokens[0 : n[0]])

    def token_bytes(self, token: int, special: bool) -> bytes:
        needed = _ffi.new("int32_t *")
        capacity = 64
        with self.lock:
            while True:
                data = _ffi.new("char[]", capacity)
                status = _lib.pmtp_token_bytes(self.handle, token, special, data, capacity, needed)
                if status == _lib.PMTP_OK or needed[0] <= capacity:
                    _check(status)
                    return bytes(_ffi.buffer(data, needed[0]))
                capacity = needed[0]

    def logits(self, tokens: Sequence[int], n_vocab: int, n_batch: int) -> npt.NDArray[np.float32]:
        """float32 [len(tokens), n_vocab]."""
        out = np.empty((len(tokens), n_vocab), dtype=np.float32)
        with self.lock:
            _check(_lib.pmtp_logits(self.handle, list(tokens), len(tokens), n_batch, _ffi.from_buffer("float *", out)))
        return out

    def start(self, prompt: Sequence[int], options: "SamplingOptions") -> "NativeGeneration":
        """Begins a generation. Raises ModelBusyError (another one lives), ContextOverflowError, InvalidRequestError."""
        return NativeGeneration(self, prompt, options)


def quantize(path: Path, out: Path, mixture: str, n_threads: int) -> None:
    """Writes `path` with llama.cpp's own quantiser to `out`. Its log, a line a tensor, is held back. Raises
    InvalidRequestError, ModelLoadError.
    """
    _thread.held_back = True
    try:
        _check(_lib.pmtp_quantize(os.fsencode(path), os.fsencode(out), mixture.encode(), n_threads))
    finally:
        _thread.held_back = False


class NativeGeneration:
    """Owns a pmtp_generation. After close(), step(), truncate() and stats() raise ModelClosedError.

    seed: the one given, or the one drawn.
    """

    def __init__(self, model: NativeModel, prompt: Sequence[int], options: "SamplingOptions"):
        self._model = model
        self._handle: Any = None
        self._cancel_lock = threading.RLock()  # orders cancel(), from any thread or signal handler, before free
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
        out = _ffi.new("pmtp_generation **")
        with model.lock:
            status = _lib.pmtp_generation_start(model.handle, list(prompt), len(prompt), native, out)
            if out[0] != _ffi.NULL:
                self._handle = out[0]
                model.generation = self
            try:
                _check(status)
            except BaseException:
                self.close()
                raise

    def _open(self) -> Any:
        if self._handle is None:
            raise ModelClosedError("the completion was closed: start another one")
        return self._handle

    def step(self) -> Burst:
        with self._model.lock:
            _check(_lib.pmtp_generation_step(self._open(), self._burst))
            burst = self._burst
            return Burst(
                is_round=bool(burst.is_round),
                drafted=list(burst.drafted[0 : burst.n_drafted]),
                accepted=burst.n_accepted,
                emitted=list(burst.emitted[0 : burst.n_emitted]),
                finish_reason=FINISH_REASONS[burst.finish],
                logprobs=list(self._logprobs()) if self._n_logprobs >= 0 else None,
            )

    def _logprobs(self) -> Iterator[list[tuple[int, float]]]:
        width = 1 + self._n_logprobs
        for row in range(self._burst.n_emitted):
            entries = self._burst.logprobs[row * width : (row + 1) * width]
            yield [(entry.token, entry.logprob) for entry in entries]

    def cancel(self) -> None:
        """Makes the running or next step end the generation. From any thread; does not wait."""
        with self._cancel_lock:
            if self._handle is not None:
                _lib.pmtp_generation_cancel(self._handle)

    def truncate(self, n_completion: int) -> None:
        """Ends the generation with its first n_completion tokens."""
        with self._model.lock:
            _check(_lib.pmtp_generation_truncate(self._open(), n_completion))

    def stats(self) -> NativeStats:
        with self._model.lock:
            out = _ffi.new("pmtp_stats *")
            _check(_lib.pmtp_generation_get_stats(self._open(), out))
            values: dict[str, Any] = {f.name: getattr(out, f.name) for f in fields(NativeStats)}
            values |= {name: list(value) for name, value in values.items() if isinstance(value, _ffi.CData)}
            return NativeStats(**values)

    def close(self) -> None:
        """Idempotent; waits for the running step."""
        with self._model.lock, self._cancel_lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                self._model.generation = None
                _lib.pmtp_generation_free(handle)
