"""Changed copies of GGUF files."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pyllama_mtp.gguf import Entry, Writer, read_header


def edit_tensor(source: Path, out: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Copies a file with one f32 tensor replaced by `change` of its values."""
    tensor = read_header(source).tensors[name]
    assert tensor.type == "f32", tensor
    shutil.copyfile(source, out)
    values = np.memmap(out, np.float32, "r+", offset=tensor.offset, shape=(int(np.prod(tensor.shape)),))
    values[:] = change(values)
    values.flush()
    return out


def rewrite(
    source: Path,
    out: Path,
    metadata: Mapping[str, Entry | None] = {},
    tensors: Mapping[str, tuple[str, tuple[int, ...], str, bytes] | None] = {},
) -> Path:
    """Copies a file with some metadata and tensors (name, shape, type, data) replaced, added, or left out (None)."""
    header = read_header(source)
    entries = {key: Entry(header.types[key], value) for key, value in header.metadata.items()} | dict(metadata)
    kept = {}
    for tensor in header.tensors.values():
        data = np.fromfile(source, np.uint8, tensor.n_bytes, offset=tensor.offset).tobytes()
        kept[tensor.name] = (tensor.name, tensor.shape, tensor.type, data)
    kept = {name: tensor for name, tensor in (kept | dict(tensors)).items() if tensor is not None}
    with open(out, "wb") as file:
        writer = Writer(
            file,
            {key: entry for key, entry in entries.items() if entry is not None},
            [(name, shape, type_name) for name, shape, type_name, _ in kept.values()],
        )
        for name, _, _, data in kept.values():
            writer.write_tensor(name, data)
    return out
