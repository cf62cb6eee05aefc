"""The only module that touches cffi: libpyllama_mtp.so and its errors, as Python objects.

Every function here raises a subclass of PyllamaMtpError with the library's own message. Times are seconds, sizes are
bytes.
"""

import json
import logging
import os
import platform
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cffi
import numpy as np

from pyllama_mtp.errors import (
    ContextOverflowError,
    IncompatibleHeadError,
    InternalError,
    InvalidRequestError,
    ModelBusyError,
    ModelLoadError,
    NativeLibraryError,
    PyllamaMtpError,
)

ABI_VERSION = 1
DRAFT_AUTO = -1
MAX_DRAFT = 16
MAX_LOGPROBS = 64
FINISH_REASONS = (None, "stop", "length", "cancelled")

_ERRORS: dict[int, type[PyllamaMtpError]] = {
    1: InvalidRequestError,
    2: ModelLoadError,
    3: IncompatibleHeadError,
    4: ContextOverflowError,
    5: ModelLoadError,  # out of memory
    6: ModelBusyError,
    7: InternalError,
}
_LOG_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_PACKAGE = Path(__file__).parent

logger = logging.getLogger("pyllama_mtp")
logger.addHandler(logging.NullHandler())


def library_path() -> Path:
    """The shared library that belongs to this package."""
    return _PACKAGE / "libpyllama_mtp.so"


def include_dir() -> Path:
    """The folder that holds pyllama_mtp.h."""
    return _PACKAGE


def declarations() -> str:
    """The marked, preprocessor-free region of pyllama_mtp.h."""
    header = (_PACKAGE / "pyllama_mtp.h").read_text(encoding="utf-8")
    return header.split("/* cffi: begin */")[1].split("/* cffi: end */")[0]


def _cpu_features() -> set[str]:
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        for line in cpuinfo:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(value.split())
    return set()


def check_cpu(build_info: dict, machine: str, features: set[str]) -> None:
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


def _load() -> tuple[cffi.FFI, object]:
    path = library_path()
    if not path.is_file():
        raise NativeLibraryError(
            f"{path.name} is missing from {path.parent}: install the package (pip install .); a "
            f"checkout alone does not hold it."
        )
    check_cpu(json.loads((_PACKAGE / "_build_info.json").read_text()), platform.machine(), _cpu_features())
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    try:
        lib = ffi.dlopen(str(path))
    except OSError as error:
        raise NativeLibraryError(f"cannot load {path}: {error}") from error
    if lib.pmtp_abi_version() != ABI_VERSION:
        raise NativeLibraryError(
            f"{path.name} has ABI version {lib.pmtp_abi_version()}, this package needs {ABI_VERSION}: "
            f"install the package again."
        )
    return ffi, lib


_ffi, _lib = _load()


@_ffi.callback("void(int32_t, const char *, void *)", onerror=lambda *_: None)
def _on_log(level: int, text, _user) -> None:
    message = _ffi.string(text).decode("utf-8", "replace").rstrip()
    if message:
        logger.log(_LOG_LEVELS.get(level, logging.INFO), "%s", message)


_lib.pmtp_set_log(_on_log, _ffi.NULL)


def _check(status: int) -> None:
    if status != 0:
        message = _ffi.string(_lib.pmtp_last_error()).decode("utf-8", "replace")
        raise _ERRORS.get(status, InternalError)(message)


@dataclass(frozen=True, slots=True)
class Burst:
    """What one native step brought; see pmtp_burst. `logprobs` has per emitted token a list of (token, logprob)."""

    is_round: bool
    drafted: list[int]
    accepted: int
    emitted: list[int]
    finish_reason: str | None
    logprobs: list[list[tuple[int, float]]] | None


class NativeModel:
    """Owns a pmtp_model. Calls are serialised; `close()` is idempotent and waits for the running call."""

    def __init__(
        self,
        target: str,
        head: str | None,
        *,
        n_ctx: int,
        n_batch: int,
        n_threads: int,
        n_gpu_layers: int,
        flash_attention: int,
        cache_type_k: str,
        cache_type_v: str,
    ):
        self._lock = threading.RLock()
        self._handle = None
        params = _ffi.new("pmtp_model_params *", _lib.pmtp_default_model_params())
        type_k = _ffi.new("char[]", cache_type_k.encode())
        type_v = _ffi.new("char[]", cache_type_v.encode())
        params.n_ctx = n_ctx
        params.n_batch = n_batch
        params.n_threads = n_threads
        params.n_gpu_layers = n_gpu_layers
        params.flash_attention = flash_attention
        params.cache_type_k = type_k
        params.cache_type_v = type_v
        out = _ffi.new("pmtp_model **")
        _check(
            _lib.pmtp_model_load(
                os.fsencode(target), _ffi.NULL if head is None else _ffi.new("char[]", os.fsencode(head)), params, out
            )
        )
        self._handle = out[0]

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                _lib.pmtp_model_free(handle)

    def info(self) -> dict[str, int]:
        """The fields of pmtp_model_info by name."""
        with self._lock:
            out = _ffi.new("pmtp_model_info *")
            _check(_lib.pmtp_model_get_info(self._handle, out))
            return {name: getattr(out, name) for name, _ in _ffi.typeof("pmtp_model_info").fields}

    def placement(self) -> str:
        with self._lock:
            return _ffi.string(_lib.pmtp_model_placement(self._handle)).decode("utf-8", "replace")

    def metadata(self, key: str) -> str | None:
        with self._lock:
            value = _lib.pmtp_model_metadata(self._handle, key.encode())
            return None if value == _ffi.NULL else _ffi.string(value).decode("utf-8", "replace")

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8")
        needed = _ffi.new("int32_t *")
        capacity = len(data) + 8
        with self._lock:
            tokens = _ffi.new("int32_t[]", capacity)
            _check(
                _lib.pmtp_tokenize(self._handle, data, len(data), add_special, parse_special, tokens, capacity, needed)
            )
            return list(tokens[0 : needed[0]])

    def token_bytes(self, token: int, special: bool) -> bytes:
        needed = _ffi.new("int32_t *")
        capacity = 64
        with self._lock:
            while True:
                data = _ffi.new("char[]", capacity)
                status = _lib.pmtp_token_bytes(self._handle, token, special, data, capacity, needed)
                if status == 0 or needed[0] <= capacity:
                    _check(status)
                    return bytes(_ffi.buffer(data, needed[0]))
                capacity = needed[0]

    def is_end(self, token: int) -> bool:
        with self._lock:
            return bool(_lib.pmtp_token_is_end(self._handle, token))

    def logits(self, tokens: Sequence[int], n_vocab: int, n_batch: int) -> np.ndarray:
        """float32 [len(tokens), n_vocab]."""
        out = np.empty((len(tokens), n_vocab), dtype=np.float32)
        with self._lock:
            _check(_lib.pmtp_logits(self._handle, list(tokens), len(tokens), n_batch, _ffi.from_buffer("float *", out)))
        return out

    def start(self, prompt: Sequence[int], **params) -> "NativeGeneration":
        """Begins a generation; params are the fields of pmtp_generation_params, lists for the two pointers."""
        return NativeGeneration(self, prompt, params)


class NativeGeneration:
    """Owns a pmtp_generation, and keeps its model's handle alive while a step runs."""

    def __init__(self, model: NativeModel, prompt: Sequence[int], params: dict):
        self._model = model
        self._handle = None
        self._cancel_lock = threading.Lock()  # orders cancel(), from any thread, before free
        self._n_logprobs = params["n_logprobs"]
        native = _ffi.new("pmtp_generation_params *", _lib.pmtp_default_generation_params())
        stop_tokens = _ffi.new("int32_t[]", params.pop("stop_tokens"))
        logit_bias = _ffi.new("pmtp_logit_bias[]", params.pop("logit_bias"))
        for name, value in params.items():
            setattr(native, name, value)
        native.stop_tokens = stop_tokens
        native.n_stop_tokens = len(stop_tokens)
        native.logit_bias = logit_bias
        native.n_logit_bias = len(logit_bias)
        out = _ffi.new("pmtp_generation **")
        with model._lock:
            _check(_lib.pmtp_generation_start(model._handle, list(prompt), len(prompt), native, out))
        self._handle = out[0]
        self._burst = _ffi.new("pmtp_burst *")

    def step(self) -> Burst:
        with self._model._lock:
            _check(_lib.pmtp_generation_step(self._handle, self._burst))
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
        with self._cancel_lock:
            if self._handle is not None:
                _lib.pmtp_generation_cancel(self._handle)

    def truncate(self, n_completion: int) -> None:
        with self._model._lock:
            _check(_lib.pmtp_generation_truncate(self._handle, n_completion))

    def stats(self) -> dict[str, object]:
        """The fields of pmtp_stats by name."""
        with self._model._lock:
            out = _ffi.new("pmtp_stats *")
            _check(_lib.pmtp_generation_get_stats(self._handle, out))
            values = {name: getattr(out, name) for name, _ in _ffi.typeof("pmtp_stats").fields}
            return {name: list(v) if isinstance(v, _ffi.CData) else v for name, v in values.items()}

    def close(self) -> None:
        with self._model._lock, self._cancel_lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                _lib.pmtp_generation_free(handle)
