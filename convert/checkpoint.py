"""Reads the files of a checkpoint, safetensors single or sharded, without torch and without trusting them: regular
files of the folder only, of bounded size, and their headers checked by the safetensors library.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401, with it numpy knows bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from pyllama_mtp.errors import ConversionError, shown

MAX_JSON_BYTES = 256 << 20  # the tokenizer.json of 2^18 tokens has 32 MiB
MAX_NAME = 255  # characters
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


def _reason(error: Exception) -> str:
    """Without the path, which the message names once."""
    return shown(getattr(error, "strerror", None) or error)


def _missing(path: Path) -> ConversionError:
    return ConversionError(f"{path} is {'a link that leads nowhere' if is_there(path) else 'missing'}")


def as_path(value: object, what: str) -> Path:
    """Raises ConversionError if it is no path."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise ConversionError(f"the path of {what} is {shown(repr(value))}, expected str or os.PathLike[str]")
    return Path(value)


def require_folder(path: Path) -> None:
    """Raises ConversionError, with the cause, unless it is a folder or a link to one."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError) as error:
        raise ConversionError(f"cannot read {path}: {_reason(error)}") from error
    if not is_folder:
        raise ConversionError(f"{path} is not a folder")


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
        raise _missing(path) from error
    except (OSError, ValueError) as error:
        raise ConversionError(f"cannot read {path}: {_reason(error)}") from error
    if len(data) > most:
        raise ConversionError(f"{path} has more than {most} bytes: get the checkpoint again")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file; ConversionError if it is anything else."""
    data = read_file(path, MAX_JSON_BYTES)
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"cannot read {path}: {shown(error)}") from error
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
    file: Any  # a safe_open, which has no types

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
            raise ConversionError(f"cannot read tensor {self.name} of {self.path}: {_reason(error)}") from error

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
    if is_there(folder / SINGLE_NAME):
        return _open(folder / SINGLE_NAME)
    if is_there(folder / INDEX_NAME):
        return _open_shards(folder, read_json(folder / INDEX_NAME).get("weight_map"))
    tensors: dict[str, StoredTensor] = {}
    for name in _without_index(folder):
        for tensor in _open(folder / name).values():
            if tensor.name in tensors:
                raise ConversionError(f"{name} repeats tensor {shown(tensor.name)}: get the checkpoint again")
            tensors[tensor.name] = tensor
    return tensors


def _without_index(folder: Path) -> list[str]:
    """The names of one model.VARIANT.safetensors, or of a whole set of model-*-of-*.safetensors."""
    names = sorted(name for name in os.listdir(folder) if re.fullmatch(r"model\b.*\.safetensors", name, re.DOTALL))
    sets = {re.sub(r"-\d{5}-of-(\d{5})\.safetensors$", r"-of-\1.safetensors", name) for name in names}
    if len(sets) > 1:
        raise ConversionError(f"{folder} holds several models, {names[0]} and {names[-1]}: keep the files of one")
    if sets:
        part = re.search(r"-of-(\d{5})\.safetensors$", sets.pop())
        if part and len(names) != int(part[1]):
            raise ConversionError(
                f"{folder} holds {len(names)} of the {int(part[1])} files of {names[0]}: get the rest"
            )
        return names
    pickles = sorted(name for name in os.listdir(folder) if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
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
        if os.path.basename(shard) != shard or not shard.endswith(".safetensors") or len(shard) > MAX_NAME:
            raise ConversionError(
                f"{INDEX_NAME} points to {shown(repr(shard))}, expected a .safetensors file in the same folder"
            )
        for name, tensor in _open(folder / shard).items():
            if weight_map.get(name) != shard:
                raise ConversionError(
                    f"{shard} holds tensor {shown(name)}, which {INDEX_NAME} places in "
                    f"{shown(repr(weight_map.get(name)))}"
                )
            tensors[name] = tensor
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise ConversionError(
            f"tensor {shown(missing[0])} is in {INDEX_NAME} but not in {shown(weight_map[missing[0]])}"
        )
    return tensors


def _open(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file. The library checks its header: spans without holes that end with the file."""
    try:
        _require_regular(path)
        file: Any = safe_open(path, "numpy", backend="pread")  # a mapped file that is cut short ends the process
        tensors = {}
        for name in file.keys():
            tensor = file.get_slice(name)
            tensors[name] = StoredTensor(path, name, tensor.get_dtype(), tuple(tensor.get_shape()) or (1,), file)
        return tensors
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ConversionError(f"{path} is not a valid safetensors file: {_reason(error)}") from error
