"""Changed copies of GGUF files."""

import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyllama_mtp.gguf.format import Entry, GGUFFile, Writer, read_header

Tensor = tuple[str, tuple[int, ...], str, bytes]  # name, shape, type, data


@dataclass(slots=True)
class Parts:
    """What a GGUF file is made of."""

    metadata: dict[str, Entry]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Parts":
        header, data = read_header(path), path.read_bytes()
        metadata = {key: Entry(header.types[key], value) for key, value in header.metadata.items()}
        tensors = header.tensors.values()
        return cls(
            metadata, {t.name: (t.name, t.shape, t.type, data[t.offset : t.offset + t.n_bytes]) for t in tensors}
        )

    def to_bytes(self) -> bytes:
        file = io.BytesIO()
        writer = Writer(file, self.metadata, [tensor[:3] for tensor in self.tensors.values()])
        for name, _, _, data in self.tensors.values():
            writer.write_tensor(name, data)
        return file.getvalue()


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
    tensors: Mapping[str, Tensor | None] = {},
) -> Path:
    """Copies a file with some metadata and tensors replaced, added, or left out (None)."""
    parts = Parts.read(source)
    parts.metadata = {k: entry for k, entry in (parts.metadata | dict(metadata)).items() if entry is not None}
    parts.tensors = {k: tensor for k, tensor in (parts.tensors | dict(tensors)).items() if tensor is not None}
    out.write_bytes(parts.to_bytes())
    return out


def with_vocabulary(source: Path, out: Path, vocabulary: GGUFFile, more: Mapping[str, Entry] = {}) -> Path:
    """Copies a file with the tokenizer of another, and the rows of its embeddings again and again for all tokens. more:
    metadata.
    """
    parts = Parts.read(source)
    n_old, n = (len(m["tokenizer.ggml.tokens"]) for m in (read_header(source).metadata, vocabulary.metadata))
    metadata: dict[str, Entry | None] = {key: None for key in parts.metadata if key.startswith("tokenizer.")}
    metadata |= {
        key: Entry(vocabulary.types[key], value)
        for key, value in vocabulary.metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    embeddings = [tensor for tensor in parts.tensors.values() if tensor[1][1:] == (n_old,)]
    return rewrite(source, out, metadata | dict(more), {tensor[0]: _with_rows(tensor, n) for tensor in embeddings})


def _with_rows(tensor: Tensor, n: int) -> Tensor:
    name, (width, n_old), kind, data = tensor
    size = len(data) // n_old * n
    return name, (width, n), kind, (data * (n // n_old + 1))[:size]
