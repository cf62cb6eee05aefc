"""llama.cpp's KV cache with several sequences, as the patches leave it (tests/native/pages)."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from support.cmake import cmake

PAGE = 64
WINDOW = 64  # of the demo pair's target


def build_library(folder: Path) -> ctypes.CDLL:
    """Built in a build folder of this tree."""
    built = cmake("--build", folder, "--target", "pages_check")
    assert built.returncode == 0, (built.stdout + built.stderr)[-2000:]
    library = ctypes.CDLL(str(folder / "tests" / "native" / "pages" / "libpages_check.so"))
    for name in ("load", "open"):
        getattr(library, f"pages_{name}").restype = ctypes.c_void_p
    for name in ("save", "restore"):
        getattr(library, f"pages_{name}").restype = ctypes.c_size_t
    return library


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch."""

    sequence: int
    position: int
    token: int


@dataclass(slots=True)
class Target:
    """A loaded model; close() it after its caches."""

    library: ctypes.CDLL
    path: Path
    handle: ctypes.c_void_p = field(init=False)
    n_vocab: int = field(init=False)

    def __post_init__(self) -> None:
        self.handle = ctypes.c_void_p(self.library.pages_load(str(self.path).encode()))
        assert self.handle
        self.n_vocab = self.library.pages_vocabulary(self.handle)

    def close(self) -> None:
        self.library.pages_unload(self.handle)


class Cache:
    """A context; a context manager. `sliding`: cells of the sliding layers, None: as many as always suffice."""

    def __init__(
        self,
        target: Target,
        *,
        cells: int = 1024,
        sliding: int | None = None,
        sequences: int = 4,
        n_batch: int = 32,
        k: str = "f16",
        v: str = "f16",
        threads: int = 1,
    ) -> None:
        self.target, self.library = target, target.library
        if sliding is None:
            sliding = self.library.pages_sliding_cells(WINDOW, sequences, n_batch)
        handle = self.library.pages_open(
            target.handle, cells, sliding, sequences, n_batch, k.encode(), v.encode(), threads
        )
        assert handle, "no context"
        self.handle = ctypes.c_void_p(handle)

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.library.pages_close(self.handle)

    def try_decode(self, rows: Sequence[Row]) -> tuple[int, np.ndarray]:
        """llama_decode's result, and logits [rows][vocabulary] where it is 0."""
        arrays = [
            np.array([getattr(row, name) for row in rows], np.int32) for name in ("token", "position", "sequence")
        ]
        logits = np.full((len(rows), self.target.n_vocab), np.nan, np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, logits)]
        return self.library.pages_decode(self.handle, len(rows), *pointers), logits

    def decode(self, rows: Sequence[Row]) -> np.ndarray:
        status, logits = self.try_decode(rows)
        assert status == 0, (status, rows)
        return logits

    def set_threads(self, n: int) -> None:
        self.library.pages_set_threads(self.handle, n)

    def remove(self, sequence: int, begin: int = -1, end: int = -1) -> None:
        self.library.pages_remove(self.handle, sequence, begin, end)

    def share(self, source: int, sequence: int, begin: int = -1, end: int = -1) -> None:
        self.library.pages_share(self.handle, source, sequence, begin, end)

    def save(self, sequence: int, *, window: bool) -> bytes:
        """With `window` the sliding layers' part alone."""
        size = self.library.pages_save(self.handle, sequence, window, None, ctypes.c_size_t(0))
        data = ctypes.create_string_buffer(size)
        assert self.library.pages_save(self.handle, sequence, window, data, ctypes.c_size_t(size)) == size
        return data.raw

    def restore(self, sequence: int, data: bytes, *, window: bool) -> bool:
        read = self.library.pages_restore(self.handle, sequence, window, data, ctypes.c_size_t(len(data)))
        return read == len(data)

    def cells(self, *, sliding: bool) -> list[tuple[int, frozenset[int]]]:
        """Of every cell its position, -1: empty, and the sequences that it belongs to."""
        n = self.library.pages_n_cells(self.handle, sliding)
        positions, owners = np.zeros(n, np.int32), np.zeros(n, np.uint32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (positions, owners)]
        self.library.pages_cells(self.handle, sliding, *pointers)
        return [
            (position, frozenset(s for s in range(32) if bits >> s & 1))
            for position, bits in zip(positions.tolist(), owners.tolist(), strict=True)
        ]
