"""GGUF files through the gguf package's writer, one tensor at a time."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from pyllama_mtp.gguf.format import TENSOR_TYPES, Entry, StringArray, tensor_bytes

_ARCHITECTURE = "general.architecture"  # which GGUFWriter writes first, by itself
_VALUE_TYPES = {
    "u8": GGUFValueType.UINT8,
    "i8": GGUFValueType.INT8,
    "u16": GGUFValueType.UINT16,
    "i16": GGUFValueType.INT16,
    "u32": GGUFValueType.UINT32,
    "i32": GGUFValueType.INT32,
    "f32": GGUFValueType.FLOAT32,
    "bool": GGUFValueType.BOOL,
    "string": GGUFValueType.STRING,
    "u64": GGUFValueType.UINT64,
    "i64": GGUFValueType.INT64,
    "f64": GGUFValueType.FLOAT64,
}


class _Writer(GGUFWriter):
    """GGUFWriter refuses arrays of no elements, as a tokenizer without merges has."""

    def _pack_val(self, val: Any, vtype: GGUFValueType, add_vtype: bool, sub_type: Any = None) -> bytes:
        if vtype == GGUFValueType.ARRAY and len(val) == 0:
            assert add_vtype and sub_type is not None
            return self._pack("I", vtype) + self._pack("I", sub_type) + self._pack("Q", 0)
        return super()._pack_val(val, vtype, add_vtype, sub_type)


class _Data(np.ndarray):
    """numpy's tofile() loses what its own buffer could not write to a full disk."""

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        fid.write(self.data.cast("B"))


@contextlib.contextmanager
def gguf_file(
    path: Path, metadata: dict[str, Entry], declared: Sequence[tuple[str, tuple[int, ...], str]]
) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes the header of a GGUF of version 3 to `path`; what it gives writes the bytes of the next tensor.

    metadata: the architecture first. declared: (name, shape in ggml order, type) each, in the order of the data. The
    same arguments and data give the same bytes. Raises OSError.
    """
    assert next(iter(metadata)) == _ARCHITECTURE
    writer = _Writer(path, str(metadata[_ARCHITECTURE].value))
    for key, entry in metadata.items():
        if key == _ARCHITECTURE:
            continue
        if entry.type.startswith("["):
            writer.add_key_value(key, _elements(entry), GGUFValueType.ARRAY, _VALUE_TYPES[entry.type[1:-1]])
        else:
            writer.add_key_value(key, entry.value, _VALUE_TYPES[entry.type])
    for name, shape, type_name in declared:
        number = cast(GGMLQuantizationType, TENSOR_TYPES[type_name][0])  # of types that the package does not name, too
        n_bytes = tensor_bytes(type_name, shape)
        writer.add_tensor_info(name, shape[::-1], np.dtype(np.float32), n_bytes, raw_dtype=number)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        yield lambda data: writer.write_tensor_data(data.view(_Data))
    except BaseException:
        with contextlib.suppress(OSError):  # what is left in its buffer has no room either
            writer.close()
        raise
    writer.close()


def _elements(entry: Entry) -> Sequence[Any]:
    elements: Any = entry.value
    if isinstance(elements, StringArray):
        return [elements.raw(i) for i in range(len(elements))]  # also what is no UTF-8 text
    listed: Sequence[Any] = elements.tolist() if isinstance(elements, np.ndarray) else elements
    return listed
