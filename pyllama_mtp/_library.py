"""libpyllama_mtp.so, loaded: its constants, its errors as exceptions, its log as Python's.

This module, _native.py, _sequence.py, _matcher.py and grammar/masks.py are the only ones that touch cffi.
"""

import atexit
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import cffi

from pyllama_mtp.builds import current_build
from pyllama_mtp.errors import (
    ContextOverflowError,
    IncompatibleHeadError,
    InternalError,
    InvalidRequestError,
    ModelClosedError,
    ModelLoadError,
    NativeLibraryError,
    OutOfMemoryError,
    PyllamaMtpError,
    one_line,
    shown,
)
from pyllama_mtp.names import AcceptanceRule, DrafterName, FinishReason
from pyllama_mtp.paths import get_include

_LOG_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_MAX_ERROR_CHARS = 600  # what a file or a caller says may be long

T = TypeVar("T")

logger = logging.getLogger("pyllama_mtp")
logger.addHandler(logging.NullHandler())


def declarations() -> str:
    """The marked, preprocessor-free region of pyllama_mtp.h."""
    header = (get_include() / "pyllama_mtp.h").read_text(encoding="utf-8")
    return header.split("/* cffi: begin */")[1].split("/* cffi: end */")[0]


def _load(path: Path) -> tuple[cffi.FFI, Any]:
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


BUILD = current_build()
ffi, lib = _load(BUILD.library)

# What the header says, as cffi has parsed it.
ABI_VERSION: int = lib.PMTP_ABI_VERSION
MAX_DRAFT: int = lib.PMTP_MAX_DRAFT
MAX_LOGPROBS: int = lib.PMTP_MAX_LOGPROBS
MAX_SEQS: int = lib.PMTP_MAX_SEQS

HAS_CUDA: bool = BUILD.cuda  # the library was built with it


def _names(enum: str, prefix: str) -> list[str]:
    """The constants of an enum by value, in lower case and without their prefix."""
    constants: Mapping[int, str] = ffi.typeof(enum).elements
    return [constants[value].removeprefix(prefix).lower() for value in range(len(constants))]


# Of those that end without an error.
FINISH_REASONS = cast(list[FinishReason | None], [None, *_names("pmtp_finish", "PMTP_FINISH_")[1:-1]])
ACCEPTANCE_RULES = cast(list[AcceptanceRule], _names("pmtp_acceptance", "PMTP_ACCEPTANCE_"))
DRAFTERS = cast(list[DrafterName], _names("pmtp_drafter", "PMTP_DRAFTER_"))


class NoRoomError(PyllamaMtpError):
    """There is no room beside the sequences that run. Never seen by callers of this package, who wait instead."""


_ERRORS: dict[int, type[PyllamaMtpError]] = {
    lib.PMTP_ERROR_INVALID_ARGUMENT: InvalidRequestError,
    lib.PMTP_ERROR_MODEL_LOAD: ModelLoadError,
    lib.PMTP_ERROR_INCOMPATIBLE_HEAD: IncompatibleHeadError,
    lib.PMTP_ERROR_CONTEXT_OVERFLOW: ContextOverflowError,
    lib.PMTP_ERROR_BUSY: NoRoomError,
    lib.PMTP_ERROR_INTERNAL: InternalError,
    lib.PMTP_ERROR_CANCELLED: ModelClosedError,
    lib.PMTP_ERROR_OTHER_PROCESS: ModelClosedError,
}


# Native code never calls back: a callback may run in the middle of anything, and what a signal handler raises within
# one is lost. The library keeps its log until a call that may log has ended.
lib.pmtp_set_log(lib.pmtp_log_keep, ffi.NULL)

# Daemon threads may be in the library when Python ends.
atexit.register(lib.pmtp_shutdown)


def text_of(chars: Any) -> str:
    return bytes(ffi.string(chars)).decode("utf-8", "replace")


_level = ffi.new("int32_t *")
_nothing = ffi.new("char[1]")


def logged(call: Callable[[], T]) -> T:
    """call(), and then what the library has kept for the log.

    For the thread that asked for the work, where it holds no lock of this package: a handler may load a model, wait for
    a thread that closes one, and whatever else. Costs half a microsecond if there is nothing to log.
    """
    try:
        return call()
    finally:
        if lib.pmtp_log_take(_nothing, 0, _level) >= 0:  # there is a line; an empty one is taken
            _hand_out_log()


def _hand_out_log() -> None:
    level = ffi.new("int32_t *")
    capacity = 1 << 12
    while True:
        line = ffi.new("char[]", capacity)
        size = lib.pmtp_log_take(line, capacity, level)
        if size < 0:
            return
        if size > capacity:
            capacity = size
            continue
        text = bytes(ffi.buffer(line, size)).decode("utf-8", "replace").strip()
        if text:
            logger.log(_LOG_LEVELS.get(level[0], logging.INFO), "%s", shown(text))


def error_of(status: int, message: str, out_of_memory: type[PyllamaMtpError] = OutOfMemoryError) -> PyllamaMtpError:
    """What a status that is not OK is in Python. out_of_memory: the exception that stands for that."""
    kind = out_of_memory if status == lib.PMTP_ERROR_OUT_OF_MEMORY else _ERRORS.get(status, InternalError)
    return kind(one_line(message)[:_MAX_ERROR_CHARS])


def check(status: int, out_of_memory: type[PyllamaMtpError] = OutOfMemoryError) -> None:
    """Raises the last error of this thread unless the status is OK; see error_of()."""
    if status != lib.PMTP_OK:
        raise error_of(status, text_of(lib.pmtp_last_error()), out_of_memory)


def set_numbers(params: Any, options: object) -> None:
    """Gives the fields of a C struct the numbers of the options that are named like them."""
    for name, _ in ffi.typeof(params).item.fields:
        value = getattr(options, name, None)
        if isinstance(value, int | float):
            setattr(params, name, value)
