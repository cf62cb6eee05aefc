"""GGUF files: a strict, bounded header reader, and a streaming writer.

The reader is what stands between an untrusted file and everything else: each count, length, type, dimension and span is
checked against the file's size, in Python integers that cannot overflow, before anything is allocated for it. It reads
the file instead of mapping it: a mapped file that another process cuts short ends this one by SIGBUS. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from pyllama_mtp.errors import ModelLoadError, seen, shown

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_HEADER_BYTES = 1 << 28  # a vocabulary of 2^18 tokens takes some 2^24
MAX_KEY_BYTES = 1 << 16
MAX_STRINGS = 1 << 23  # in one array: a loop walks over them; the largest vocabularies have 2^18
READ_BYTES = 1 << 20  # at once, of arrays of strings
MAX_NAME_BYTES = 63  # ggml's GGML_MAX_NAME, less the terminator

# ggml type name -> (number, values per block, bytes per block)
TENSOR_TYPES = {
    "f32": (0, 1, 4),
    "f16": (1, 1, 2),
    "q4_0": (2, 32, 18),
    "q4_1": (3, 32, 20),
    "q5_0": (6, 32, 22),
    "q5_1": (7, 32, 24),
    "q8_0": (8, 32, 34),
    "q8_1": (9, 32, 36),
    "q2_k": (10, 256, 84),
    "q3_k": (11, 256, 110),
    "q4_k": (12, 256, 144),
    "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210),
    "q8_k": (15, 256, 292),
    "iq2_xxs": (16, 256, 66),
    "iq2_xs": (17, 256, 74),
    "iq3_xxs": (18, 256, 98),
    "iq1_s": (19, 256, 50),
    "iq4_nl": (20, 32, 18),
    "iq3_s": (21, 256, 110),
    "iq2_s": (22, 256, 82),
    "iq4_xs": (23, 256, 136),
    "i8": (24, 1, 1),
    "i16": (25, 1, 2),
    "i32": (26, 1, 4),
    "i64": (27, 1, 8),
    "f64": (28, 1, 8),
    "iq1_m": (29, 256, 56),
    "bf16": (30, 1, 2),
    "tq1_0": (34, 256, 54),
    "tq2_0": (35, 256, 66),
    "mxfp4": (39, 32, 17),
    "nvfp4": (40, 64, 36),
    "q1_0": (41, 128, 18),
    "q2_0": (42, 64, 18),
}
_TYPE_BY_NUMBER = {number: (name, values, size) for name, (number, values, size) in TENSOR_TYPES.items()}

_STRING, _ARRAY, _BOOL = 8, 9, 7
# metadata type number -> its name, which for arrays stands in brackets
_VALUE_TYPES = {
    0: "u8",
    1: "i8",
    2: "u16",
    3: "i16",
    4: "u32",
    5: "i32",
    6: "f32",
    _BOOL: "bool",
    _STRING: "string",
    10: "u64",
    11: "i64",
    12: "f64",
}
# metadata type number -> numpy dtype
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}

_U64 = struct.Struct("<Q").unpack_from

Scalar = str | int | float | bool


class StringArray(Sequence[str]):
    """An array of strings of a GGUF, kept as bytes and decoded one at a time."""

    def __init__(self, data: bytes, spans: np.ndarray):
        self._data = data
        self._spans = spans  # int64 [n + 1]: the end of each string's bytes, counted with its 8 bytes of length

    def __len__(self) -> int:
        return len(self._spans) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.raw(index % len(self)).decode("utf-8", "replace")

    def raw(self, index: int) -> bytes:
        return self._data[self._spans[index] + 8 : self._spans[index + 1]]

    def all_raw(self) -> list[bytes]:
        """raw() of each, in a tenth of the time."""
        ends = self._spans.tolist()
        return [self._data[begin + 8 : end] for begin, end in zip(ends, ends[1:], strict=False)]

    @property
    def encoded(self) -> bytes:
        """As a GGUF holds them, each behind its length."""
        return self._data

    def __repr__(self) -> str:
        return f"a list of {len(self)} strings"

    def holds(self, byte: int, begin: int = 0) -> np.ndarray:
        """bool [n]: which strings hold this byte after their first `begin` ones."""
        before = np.concatenate([[0], np.cumsum(np.frombuffer(self._data, np.uint8) == byte)])
        first = np.minimum(self._spans[:-1] + 8 + begin, self._spans[1:])
        found: np.ndarray = before[self._spans[1:]] > before[first]
        return found


Value = Scalar | np.ndarray | StringArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """shape is in ggml order, fastest dimension first; offset counts from the beginning of the file at path."""

    path: Path
    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The validated header of a GGUF. types: of each metadata value, as "u32", "string", "[f32]"."""

    path: Path
    version: int
    metadata: dict[str, Any]  # a Value each, of the type that `types` says
    types: dict[str, str]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str | None:
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None


def tensor_bytes(type_name: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor; raises ValueError if its rows are not whole blocks."""
    _, values, size = TENSOR_TYPES[type_name]
    if shape[0] % values:
        raise ValueError(f"rows of {shape[0]} values are not whole blocks of {values}")
    return math.prod(shape) // values * size


class _Reader:
    def __init__(self, path: Path, file: BinaryIO, size: int):
        self.path = path
        self.file = file
        self.size = size
        self.at = 0
        self.types: dict[str, str] = {}

    def fail(self, what: str) -> ModelLoadError:
        return ModelLoadError(
            f"{self.path} is not a valid GGUF file: {shown(what)}. The file is damaged or incomplete: get it again."
        )

    def take(self, n: int, what: str) -> bytes:
        if n > self.size - self.at:
            raise self.fail(f"{what} needs {n} bytes at offset {self.at}, the file ends at {self.size}")
        if self.at + n > MAX_HEADER_BYTES:
            raise self.fail(f"the header ends at {self.at + n} with {what}, expected at most {MAX_HEADER_BYTES} bytes")
        data = self.file.read(n)
        if len(data) != n:
            raise self.fail(f"it ended within {what} at offset {self.at}: it was shortened while it was read")
        self.at += n
        return data

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, least_bytes: int) -> int:
        """A number of items that take at least so many bytes each, so it is at most what the rest of the file holds."""
        n = self.u64(what)
        if n > (self.size - self.at) // least_bytes:
            raise self.fail(f"{what} is {n}, more than fit into the {self.size - self.at} bytes left")
        return n

    def string(self, what: str, limit: int) -> str:
        n = self.u64(f"the length of {what}")
        if n > limit:
            raise self.fail(f"the length of {what} is {n}, expected at most {limit}")
        try:
            return self.take(n, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is no UTF-8 text") from error

    def value(self, kind: int, key: str) -> Value:
        if kind == _STRING:
            self.types[key] = "string"
            return self.string(f"the value of {key}", self.size)
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _SCALARS:
            raise self.fail(f"{key} has the unknown value type {kind}")
        self.types[key] = _VALUE_TYPES[kind]
        dtype = _SCALARS[kind]
        raw = self.take(dtype.itemsize, f"the value of {key}")
        if kind == _BOOL and raw[0] > 1:
            raise self.fail(f"{key} is a boolean of value {raw[0]}")
        value: Scalar = np.frombuffer(raw, dtype)[0].item()
        return value

    def array(self, key: str) -> np.ndarray | StringArray:
        kind = self.u32(f"the element type of {key}")
        if kind == _STRING:
            self.types[key] = "[string]"
            return self.strings(key)
        if kind not in _SCALARS:
            raise self.fail(f"{key} is an array of the unsupported element type {kind}")
        self.types[key] = f"[{_VALUE_TYPES[kind]}]"
        dtype = _SCALARS[kind]
        n = self.count(f"the length of {key}", dtype.itemsize)
        raw = self.take(n * dtype.itemsize, f"the elements of {key}")
        if kind == _BOOL and raw.translate(None, b"\0\1"):
            raise self.fail(f"{key} holds booleans other than 0 and 1")
        return np.frombuffer(raw, dtype)

    def strings(self, key: str) -> StringArray:
        n = self.count(f"the length of {key}", 8)
        if n > MAX_STRINGS:
            raise self.fail(f"the length of {key} is {n}, expected at most {MAX_STRINGS} strings")
        begin, data, ends, end = self.at, bytearray(), [0], 0
        what = f"a string of {key}"
        for _ in range(n):
            if end + 8 > len(data):
                self.extend(data, end + 8, what)
            (length,) = _U64(data, end)
            end += 8 + length
            ends.append(end)
        self.extend(data, end, what)
        del data[end:]
        self.at = self.file.seek(begin + end)
        return StringArray(bytes(data), np.array(ends, np.int64))

    def extend(self, data: bytearray, least: int, what: str) -> None:
        """Has data, what was read last, hold so many bytes, or more: a read for each string takes long."""
        if least > len(data):
            ahead = min(READ_BYTES, self.size - self.at, MAX_HEADER_BYTES - self.at)
            data += self.take(max(least - len(data), ahead), what)

    def metadata(self, n: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for i in range(n):
            key = self.string(f"metadata key {i}", MAX_KEY_BYTES)
            if not key or key in metadata:
                raise self.fail(f"metadata key {i} is {key!r}, which is {'there twice' if key else 'empty'}")
            metadata[key] = self.value(self.u32(f"the type of {key}"), key)
        return metadata

    def tensors(self, n: int, alignment_of: dict[str, Value]) -> dict[str, TensorInfo]:
        raw: list[tuple[str, tuple[int, ...], str, int, int]] = []
        for i in range(n):
            name = self.string(f"the name of tensor {i}", MAX_NAME_BYTES)
            n_dimensions = self.u32(f"the number of dimensions of {name}")
            if not 1 <= n_dimensions <= MAX_DIMENSIONS:
                raise self.fail(f"tensor {name} has {n_dimensions} dimensions, expected 1..{MAX_DIMENSIONS}")
            shape = tuple(self.u64(f"a dimension of {name}") for _ in range(n_dimensions))
            number = self.u32(f"the type of {name}")
            offset = self.u64(f"the offset of {name}")
            if number not in _TYPE_BY_NUMBER:
                raise self.fail(f"tensor {name} has the unknown type {number}")
            type_name = _TYPE_BY_NUMBER[number][0]
            if 0 in shape or math.prod(shape) >= 1 << 62:
                raise self.fail(f"tensor {name} has the impossible shape {shape}")
            try:
                raw.append((name, shape, type_name, offset, tensor_bytes(type_name, shape)))
            except ValueError as error:
                raise self.fail(f"tensor {name} of type {type_name} has shape {shape}: {error}") from error
        alignment = alignment_of.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise self.fail(f"general.alignment is {alignment!r}, expected a power of two from 8 on")
        begin = -(-self.at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        end = 0
        for name, shape, type_name, offset, n_bytes in sorted(raw, key=lambda t: t[3]):
            if name in tensors:
                raise self.fail(f"tensor {name} is there twice")
            if offset % alignment or offset < end:
                raise self.fail(
                    f"tensor {name} at {offset} is not aligned to {alignment} or overlaps the one before it"
                )
            end = offset + n_bytes
            if begin + end > self.size:
                raise self.fail(f"tensor {name} ends at {begin + end}, the file at {self.size}")
            tensors[name] = TensorInfo(self.path, name, shape, type_name, begin + offset, n_bytes)
        return tensors


def read_header(path: str | os.PathLike[str]) -> GGUFFile:
    """Reads and checks the header of a GGUF file: metadata and where each tensor lies.

    Raises ModelLoadError if the file cannot be read or anything in its header is not as it must be.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise ModelLoadError(f"the path of a model is {seen(path)}, expected str or os.PathLike[str]")
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait
            raise ModelLoadError(f"cannot read {shown(path)}: it is not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise ModelLoadError(f"{path} is not a GGUF file: it has fewer than 24 bytes")
            return _read(path, _Reader(path, file, size))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ModelLoadError(f"cannot read {shown(path)}: {reason or shown(error)}") from error


def _read(path: Path, reader: _Reader) -> GGUFFile:
    magic = reader.take(4, "the magic number")
    if magic != MAGIC:
        raise ModelLoadError(f"{path} is not a GGUF file: it begins with {magic!r}, expected {MAGIC!r}")
    version = reader.u32("the version")
    if version not in (2, 3):
        raise ModelLoadError(
            f"{path} has GGUF version {version}, expected 2 or 3 (little-endian): convert the model again"
        )
    n_tensors = reader.count("the number of tensors", 24)
    metadata = reader.metadata(reader.count("the number of metadata entries", 13))
    return GGUFFile(path, version, metadata, reader.types, reader.tensors(n_tensors, metadata))


@dataclass(frozen=True, slots=True)
class Entry:
    """A metadata value with its GGUF type, as in GGUFFile.types."""

    type: str
    value: Value | Sequence[Scalar]


_NUMBER_BY_NAME = {name: number for number, name in _VALUE_TYPES.items()}


def _string_bytes(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value_bytes(entry: Entry) -> bytes:
    value: Any = entry.value  # of entry.type
    if entry.type.startswith("["):
        number = _NUMBER_BY_NAME[entry.type[1:-1]]
        head = struct.pack("<IIQ", _ARRAY, number, len(value))
        if isinstance(value, StringArray):
            return head + value.encoded
        if number == _STRING:
            return head + b"".join(_string_bytes(text) for text in value)
        return head + np.asarray(value).astype(_SCALARS[number]).tobytes()
    number = _NUMBER_BY_NAME[entry.type]
    if number == _STRING:
        return struct.pack("<I", number) + _string_bytes(value)
    return struct.pack("<I", number) + np.asarray(value).astype(_SCALARS[number]).tobytes()


class Writer:
    """Writes a GGUF of version 3 in one pass: the header, then each tensor's data in the order of its declaration.

    The same metadata, tensors and data give the same bytes.
    """

    def __init__(self, file: BinaryIO, metadata: dict[str, Entry], tensors: Sequence[tuple[str, tuple[int, ...], str]]):
        """tensors: (name, shape in ggml order, type) each."""
        self._file = file
        self._left = [(name, tensor_bytes(type_name, shape)) for name, shape, type_name in tensors]
        header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
        for key, entry in metadata.items():
            header += [_string_bytes(key), _value_bytes(entry)]
        offset = 0
        for (name, shape, type_name), (_, n_bytes) in zip(tensors, self._left, strict=True):
            number = TENSOR_TYPES[type_name][0]
            header += [_string_bytes(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)]
            offset += -(-n_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
        data = b"".join(header)
        file.write(data)
        self._pad(len(data))

    def _pad(self, n_bytes: int) -> None:
        self._file.write(bytes(-n_bytes % DEFAULT_ALIGNMENT))

    def write_tensor(self, name: str, data: bytes | memoryview | np.ndarray) -> None:
        """The data of the next tensor. Raises ValueError if it is not the one declared next, or has another size."""
        view = np.ascontiguousarray(data).data.cast("B") if isinstance(data, np.ndarray) else memoryview(data)
        expected_name, n_bytes = self._left.pop(0)
        if name != expected_name or view.nbytes != n_bytes:
            raise ValueError(f"got {view.nbytes} bytes of {name}, expected {n_bytes} of {expected_name}")
        self._file.write(view)
        self._pad(n_bytes)
