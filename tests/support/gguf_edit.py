"""Changed copies of GGUF files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyllama_mtp.gguf import read_header


def edit_tensor(source: Path, out: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Copies a file with one f32 tensor replaced by `change` of its values."""
    tensor = read_header(source).tensors[name]
    assert tensor.type == "f32", tensor
    shutil.copyfile(source, out)
    values = np.memmap(out, np.float32, "r+", offset=tensor.offset, shape=(int(np.prod(tensor.shape)),))
    values[:] = change(values)
    values.flush()
    return out
