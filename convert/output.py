"""Where a converted file goes: checked before anything is read, then written whole or not at all."""

import contextlib
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pyllama_mtp.convert.quants import DECODED_TYPES, decode_parts
from pyllama_mtp.convert.writer import gguf_file
from pyllama_mtp.errors import ConversionError, ModelLoadError, seen, shown
from pyllama_mtp.gguf.format import Entry, TensorInfo, read_header
from pyllama_mtp.gguf.gemma4_checks import check_head
from pyllama_mtp.gguf.hyperparameters import HyperParameters
from pyllama_mtp.part_files import destination, replacing, scratch

logger = logging.getLogger("pyllama_mtp")

# Squared, over the values squared: of values of nine distributions q2_k left .13, q3_k .03 and the others .02 at most;
# other values than those given are 1 and more away.
_LARGEST_ERROR = {"q2_k": 0.3, "q3_k": 0.15}
_LARGEST_ERROR_OF_OTHERS = 0.05
_SMALL = 1e-4  # values of which f16 scales, and the products of scales of k types, may leave nothing


def check_destination(out: Path, inputs: Iterable[Path]) -> None:
    """Raises ConversionError if `out` cannot be a file's name, or is one of the inputs."""
    if "\0" in str(out):
        raise ConversionError(f"the destination {seen(str(out))} holds a NUL character")
    with _writable(out, "it"):
        destination(out)
    if os.path.exists(out) and any(os.path.exists(path) and out.samefile(path) for path in inputs):
        raise ConversionError(
            f"{shown(out)} is part of the checkpoint and would be overwritten: name another destination"
        )


def write_gguf(
    out: Path,
    metadata: dict[str, Entry],
    declared: Sequence[tuple[str, tuple[int, ...], str]],
    tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Writes a GGUF under a temporary name, reads it back and renames it to `out`. declared: (name, shape in ggml
    order, type) each; tensors: their names and data in the same order.

    Raises ConversionError if the file cannot be written. Whatever is raised, also by `tensors`, nothing is left behind.
    """
    checksums: dict[str, int] = {}
    with _writable(out, "it"), replacing(out) as file:
        with gguf_file(Path(file.name), metadata, declared) as write:
            for name, data in tensors:
                checksums[name] = zlib.crc32(data.data)
                write(data)
        _verify(Path(file.name), checksums)


def write_mixture(
    out: Path,
    mixture: str,
    metadata: dict[str, Entry],
    declared: Sequence[tuple[str, tuple[int, ...], str]],
    tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
    """write_gguf() for one of llama.cpp's mixtures: its quantiser turns a scratch file with the tensors, in f32, into
    `out`. Raises ConversionError likewise.
    """
    from pyllama_mtp import _native  # the other types do not need the library

    with _writable(out, "it and for the unquantised tensors"), scratch(out) as plain, replacing(out) as file:
        with gguf_file(Path(plain.name), metadata, declared) as write:
            for _, data in tensors:
                write(data)
        try:
            _native.quantize(Path(plain.name), Path(file.name), mixture, os.cpu_count() or 1)
        except ModelLoadError as error:
            reason = str(error).replace(file.name, str(out)).replace(plain.name, "the scratch file")
            raise ConversionError(
                f"cannot write {shown(out)}: {reason}; name a file in a writable folder that has room for it and for "
                "the unquantised tensors, or another --outtype"
            ) from error
        _compare(Path(plain.name), Path(file.name))


@contextlib.contextmanager
def _writable(out: Path, what: str) -> Iterator[None]:
    """OSErrors of the block become ConversionErrors. what: there must be room for."""
    try:
        yield
    except OSError as error:
        raise ConversionError(
            f"cannot write {shown(out)}: {error.strerror or error}; name a file in an existing, writable folder that "
            f"has room for {what}"
        ) from error


def _checked_tensors(path: Path) -> dict[str, TensorInfo]:
    """Reads a head as its loader does."""
    try:
        header = read_header(path)
        check_head(HyperParameters(header, header.architecture or ""))
    except ModelLoadError as error:
        raise ConversionError(f"what was written cannot be read back: {error}") from error
    return header.tensors


def _verify(path: Path, checksums: dict[str, int]) -> None:
    """Reads the file back: its header as any user of it would, and every tensor's bytes."""
    tensors = _checked_tensors(path)
    with open(path, "rb") as file:
        for name, checksum in checksums.items():
            file.seek(tensors[name].offset)
            if zlib.crc32(file.read(tensors[name].n_bytes)) != checksum:
                raise ConversionError(f"tensor {name} reads back differently from what was written: check the disk")


def _compare(plain: Path, mixture: Path) -> None:
    """Reads both files back, a tensor at a time: what stayed f32 is equal, and what became another type is near."""
    given, written = _checked_tensors(plain), _checked_tensors(mixture)
    if {name: t.shape for name, t in written.items()} != {name: t.shape for name, t in given.items()}:
        raise ConversionError("llama.cpp's quantiser wrote other tensors than it was given")
    for name, tensor in written.items():
        if tensor.type in DECODED_TYPES and not _is_near(given[name], tensor):
            raise ConversionError(f"tensor {name} in {tensor.type} is not what was given to llama.cpp's quantiser")
    if odd := [t.type for t in written.values() if len(t.shape) == 2 and t.shape[0] % 256]:
        types = ", ".join(sorted(set(odd)))
        logger.warning("%d matrices have rows that are not whole blocks of 256, and became %s", len(odd), types)


@np.errstate(invalid="ignore", over="ignore")  # of damaged data, which is not near
def _is_near(given: TensorInfo, written: TensorInfo) -> bool:
    if written.type == "f32":
        return np.array_equal(_read(given), _read(written))
    error = square = 0.0
    parts = (decode_parts(_read(tensor), tensor.type) for tensor in (given, written))
    for x, y in zip(*parts, strict=True):
        error += float(np.square(x - y, dtype=np.float64).sum())
        square += float(np.square(x, dtype=np.float64).sum())
    n_values, largest = math.prod(given.shape), _LARGEST_ERROR.get(written.type, _LARGEST_ERROR_OF_OTHERS)
    return error <= largest * square + _SMALL**2 * n_values  # never NaN


def _read(tensor: TensorInfo) -> np.ndarray:
    return np.fromfile(tensor.path, np.uint8, tensor.n_bytes, offset=tensor.offset)
