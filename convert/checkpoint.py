"""Reads tensors out of safetensors checkpoints, single or sharded, without torch and without trusting the files.

Format: 8 bytes of header length, a JSON header with dtype, shape and data_offsets of each tensor, then the data,
without holes. Specification: https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyllama_mtp.errors import ConversionError
from pyllama_mtp.gguf.quantize import from_bf16

MAX_HEADER_BYTES = 100 << 20
MAX_JSON_BYTES = 256 << 20  # the tokenizer.json of 2^18 tokens has 32 MiB
MAX_DIMENSIONS = 8
MAX_VALUES = 1 << 48
DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


def _require_regular(path: Path) -> int:
    """Bytes of a file. ConversionError for pipes and devices, which have no end; OSError, ValueError."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConversionError(f"{path} is not a regular file: get the checkpoint again")
    return status.st_size


def is_there(path: Path) -> bool:
    """Also a pipe, a folder or a link that leads nowhere: its reader says what is wrong with it."""
    return os.path.lexists(path)


def read_file(path: Path, most: int) -> bytes:
    """All of a file; ConversionError if it is none, or has more than `most` bytes."""
    try:
        _require_regular(path)
        with open(path, "rb") as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
    except FileNotFoundError as error:
        raise ConversionError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise ConversionError(f"cannot read {path}: {error}") from error
    if len(data) > most:
        raise ConversionError(f"{path} has more than {most} bytes: get the checkpoint again")
    return data


def read_json(path: Path) -> dict:
    """A JSON object out of a file; ConversionError if it is anything else."""
    data = read_file(path, MAX_JSON_BYTES)
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


@dataclass(frozen=True, slots=True)
class StoredTensor:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the file's beginning

    def read(self) -> np.ndarray:
        """The values: float32, or int64 for integers."""
        dtype = DTYPES[self.dtype]
        count = math.prod(self.shape)
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                raw = np.fromfile(file, dtype, count)
        except OSError as error:
            raise ConversionError(f"cannot read {self.path}: {error}") from error
        if raw.size != count:
            raise ConversionError(f"{self.path} ended while it was read")
        raw = raw.reshape(self.shape)
        if self.dtype == "BF16":
            return from_bf16(raw)
        return raw.astype(np.int64 if dtype.kind == "i" else np.float32)


def open_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in `folder` by name; the headers are checked completely, no data is read."""
    index_path, single = folder / INDEX_NAME, folder / SINGLE_NAME
    if is_there(single):
        return _read_header(single)
    if is_there(index_path):
        return _open_shards(folder, read_json(index_path).get("weight_map"))
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickles:
        raise ConversionError(
            f"{folder} holds the pickle checkpoint {pickles[0]}, which could run code when read, and no {SINGLE_NAME}: "
            "get the safetensors version of the model"
        )
    raise ConversionError(f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}")


def _open_shards(folder: Path, weight_map: object) -> dict[str, StoredTensor]:
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ConversionError(f"{folder / INDEX_NAME} has no weight_map")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        if os.path.basename(shard) != shard or not shard.endswith(".safetensors"):
            raise ConversionError(f"{INDEX_NAME} points to {shard!r}, expected a .safetensors file in the same folder")
        for name, tensor in _read_header(folder / shard).items():
            if weight_map.get(name) != shard:
                raise ConversionError(
                    f"{shard} holds tensor {name}, which {INDEX_NAME} places in {weight_map.get(name)!r}"
                )
            tensors[name] = tensor
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise ConversionError(f"tensor {missing[0]} is in {INDEX_NAME} but not in {weight_map[missing[0]]}")
    return tensors


def _read_header(path: Path) -> dict[str, StoredTensor]:
    def bad(what: str) -> ConversionError:
        return ConversionError(f"{path} is not a valid safetensors file: {what}")

    try:
        size = _require_regular(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise bad(f"the header has {length} bytes, the file {size}")
            header = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise ConversionError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise bad(str(error)) from error
    if not isinstance(header, dict):
        raise bad("the header is no JSON object")

    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict):
            raise bad(f"the entry of {name} is no object")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise bad(f"{name} has the dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
        if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise bad(f"{name} has shape {shape!r} and data_offsets {offsets!r}")
        if math.prod(max(v, 1) for v in shape) > MAX_VALUES:  # numpy refuses it, even where a 0 makes it empty
            raise bad(f"{name} has the impossible shape {shape}")
        begin, end = offsets
        if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
            raise bad(f"{name} of shape {shape} and dtype {dtype} spans {end - begin} bytes")
        spans.append((begin, end, name))
        tensors[name] = StoredTensor(path, dtype, tuple(shape), 8 + length + begin)
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise bad(f"{name} begins at {begin}, the tensor before it ends at {at}")
        at = end
    if 8 + length + at != size:
        raise bad(f"the tensors end at {8 + length + at}, the file at {size}")
    return tensors


def _naturals(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= MAX_DIMENSIONS
        and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 62 for v in values)
    )
