"""Gemma 4 with multi-token prediction on llama.cpp.

Model loads a target and its MTP head; Model.generate streams a completion; generate() does both in one call. See
docs/python.md. get_include() and its neighbours say where the C library lies: docs/c.md.
"""

from pyllama_mtp.errors import (
    BenchmarkError,
    ChatTemplateError,
    ContextOverflowError,
    ConversionError,
    DownloadError,
    GrammarError,
    IncompatibleHeadError,
    InternalError,
    InvalidRequestError,
    ModelClosedError,
    ModelLoadError,
    NativeLibraryError,
    OutOfMemoryError,
    PyllamaMtpError,
    QueueFullError,
    ServerError,
    StateFileError,
    StreamError,
)
from pyllama_mtp.estimate import MemoryEstimate
from pyllama_mtp.generate import clear_cache, generate
from pyllama_mtp.info import ModelInfo
from pyllama_mtp.model import Model
from pyllama_mtp.paths import get_cmake_dir, get_include, get_library, get_pkgconfig_dir
from pyllama_mtp.results import Chunk, Completion, Round, Stats, TokenLogprob, ToolCall, Usage
from pyllama_mtp.stream import AsyncStream, Stream

__all__ = [
    "AsyncStream",
    "BenchmarkError",
    "ChatTemplateError",
    "Chunk",
    "Completion",
    "ContextOverflowError",
    "ConversionError",
    "DownloadError",
    "GrammarError",
    "IncompatibleHeadError",
    "InternalError",
    "InvalidRequestError",
    "MemoryEstimate",
    "Model",
    "ModelClosedError",
    "ModelInfo",
    "ModelLoadError",
    "NativeLibraryError",
    "OutOfMemoryError",
    "PyllamaMtpError",
    "QueueFullError",
    "Round",
    "Stats",
    "Stream",
    "ServerError",
    "StateFileError",
    "StreamError",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "clear_cache",
    "generate",
    "get_cmake_dir",
    "get_include",
    "get_library",
    "get_pkgconfig_dir",
]
