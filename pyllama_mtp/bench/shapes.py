"""Pairs with random weights at a released model's shape, or at that of its first layers, written once and kept."""

import dataclasses
import sys
from pathlib import Path

from tqdm import tqdm

from pyllama_mtp.errors import BenchmarkError, InvalidRequestError
from pyllama_mtp.gguf.gemma4 import SHAPES, Gemma4Shape
from pyllama_mtp.gguf.random_weights import Progress, check_weights, write_assistant, write_target
from pyllama_mtp.part_files import remove_remains
from pyllama_mtp.paths import get_cache_dir

_GENERATION = "random-weights-2"  # files of another generation are not used: count up when the bytes change


def random_pair(
    shape: str, weights: str, folder: Path | None = None, *, n_layers: int | None = None
) -> tuple[Path, Path]:
    """Target and head of a shape, from the cache folder or written into it; progress on stderr. n_layers: fewer than
    the shape has.

    A file gets its name when it is complete, so a run that was killed leaves nothing that a later one would use; its
    remains are removed. Raises InvalidRequestError for weights and numbers of layers that there are not, BenchmarkError
    if the folder cannot be written or is full.
    """
    check_weights(weights)
    sizes = SHAPES[shape] if n_layers is None else with_layers(shape, n_layers)
    name = f"gemma4-{shape}-{weights}" if n_layers is None else f"gemma4-{shape}-{n_layers}-layers-{weights}"
    folder = (get_cache_dir() if folder is None else folder) / _GENERATION
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_remains(folder)
        for role, write in (("target", write_target), ("assistant", write_assistant)):
            path = folder / f"{name}-{role}.gguf"
            if not path.exists():
                print(f"writing {path}", file=sys.stderr, flush=True)
                with tqdm(unit=" tensors", disable=None) as bar:  # on a terminal only
                    write(path, sizes, weights=weights, progress=_drawn_in(bar))
            files.append(path)
    except OSError as error:
        raise BenchmarkError(
            f"cannot write random weights to {folder}: {error.strerror or error}; set PYLLAMA_MTP_CACHE to a folder "
            "with room for the model"
        ) from error
    return files[0], files[1]


def with_layers(name: str, n: int) -> Gemma4Shape:
    """The shape with n layers, of which as large a part as before has no own K/V, but never all that have full
    attention. Raises InvalidRequestError."""
    shape = SHAPES[name]
    if not shape.full_every <= n <= shape.n_layer:
        raise InvalidRequestError(f"layers is {n}, expected {shape.full_every} to {shape.n_layer} for {name}")
    n_shared = min(round(shape.n_shared * n / shape.n_layer), n - shape.full_every)
    return dataclasses.replace(shape, n_layer=n, n_shared=n_shared)


def _drawn_in(bar: tqdm) -> Progress:
    def draw(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return draw
