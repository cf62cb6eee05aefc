"""Reads the files of a checkpoint, safetensors single or sharded, without torch and without trusting them: regular
files of the folder only, of bounded size, and their headers checked by the safetensors library.
"""

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401, with it numpy knows bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from pyllama_mtp.errors import ConversionError, shown

MAX_JSON_BYTES = 256 << 20  # the tokenizer.json of 2^18 tokens has 32 MiB
VALUES_AT_ONCE = 1 << 22
FLOATS = ("F32", "F16", "BF16", "F64")
INTEGERS = ("I64", "I32")
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
    """A tensor of an open safetensors file. A scalar counts as one value of one dimension."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    file: safe_open

    def read(self) -> np.ndarray:
        """The values: finite float32, or int64 for integers."""
        return np.concatenate([*self.parts()]).reshape(self.shape)

    def parts(self) -> Iterator[np.ndarray]:
        """read(), some rows at a time."""
        rows = max(1, VALUES_AT_ONCE // max(1, math.prod(self.shape[1:])))
        try:
            slices = self.file.get_slice(self.name)
            for begin in range(0, self.shape[0], rows):
                if slices.get_shape():
                    raw = slices[begin : min(begin + rows, self.shape[0])]
                else:
                    raw = self.file.get_tensor(self.name).reshape(1)
                yield self._checked(raw)
        except (OSError, SafetensorError) as error:
            raise ConversionError(f"cannot read tensor {self.name} of {self.path}: {shown(error)}") from error

    def _checked(self, raw: np.ndarray) -> np.ndarray:
        if self.dtype in INTEGERS:
            return raw.astype(np.int64)
        if not np.isfinite(raw).all():
            raise ConversionError(f"tensor {self.name} holds values that are not finite numbers")
        with np.errstate(over="ignore"):
            values = raw.astype(np.float32)
        if not np.isfinite(values).all():
            raise ConversionError(
                f"tensor {self.name} holds values beyond {np.finfo(np.float32).max:g}, float32's last"
            )
        return values


def open_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in `folder` by name; headers are checked completely, no data is read."""
    index_path, single = folder / INDEX_NAME, folder / SINGLE_NAME
    if is_there(single):
        return _open(single)
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
        for name, tensor in _open(folder / shard).items():
            if weight_map.get(name) != shard:
                raise ConversionError(
                    f"{shard} holds tensor {name}, which {INDEX_NAME} places in {weight_map.get(name)!r}"
                )
            tensors[name] = tensor
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise ConversionError(f"tensor {missing[0]} is in {INDEX_NAME} but not in {weight_map[missing[0]]}")
    return tensors


def _open(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file. The library checks its header: spans without holes that end with the file."""
    try:
        _require_regular(path)
        file = safe_open(path, "numpy", backend="pread")  # a mapped file that is cut short ends the process
        tensors = {}
        for name in file.keys():
            tensor = file.get_slice(name)
            tensors[name] = StoredTensor(path, name, tensor.get_dtype(), tuple(tensor.get_shape()) or (1,), file)
        return tensors
    except FileNotFoundError as error:
        raise ConversionError(f"{path} is missing") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ConversionError(f"{path} is not a valid safetensors file: {shown(error)}") from error
