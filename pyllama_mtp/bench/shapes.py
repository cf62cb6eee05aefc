"""Pairs with random weights at a released model's shape, written once and kept."""

import sys
from pathlib import Path

from tqdm import tqdm

from pyllama_mtp.errors import BenchmarkError
from pyllama_mtp.gguf.gemma4 import SHAPES
from pyllama_mtp.gguf.random_weights import Progress, write_assistant, write_target
from pyllama_mtp.part_files import remove_remains
from pyllama_mtp.paths import get_cache_dir

WEIGHTS = ("q4_0", "q4_k", "q6_k", "q8_0", "f16")
_GENERATION = "random-weights-1"  # files of another generation are not used: count up when the bytes change


def random_pair(shape: str, weights: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Target and head of a shape, from the cache folder or written into it; progress on stderr.

    A file gets its name when it is complete, so a run that was killed leaves nothing that a later one would use; its
    remains are removed. Raises BenchmarkError if the folder cannot be written or is full.
    """
    folder = (get_cache_dir() if folder is None else folder) / _GENERATION
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_remains(folder)
        for role, write in (("target", write_target), ("assistant", write_assistant)):
            path = folder / f"gemma4-{shape}-{weights}-{role}.gguf"
            if not path.exists():
                print(f"writing {path}", file=sys.stderr, flush=True)
                with tqdm(unit=" tensors", disable=None) as bar:  # on a terminal only
                    write(path, SHAPES[shape], weights=weights, progress=_drawn_in(bar))
            files.append(path)
    except OSError as error:
        raise BenchmarkError(
            f"cannot write random weights to {folder}: {error.strerror or error}; set PYLLAMA_MTP_CACHE to a folder "
            "with room for the model"
        ) from error
    return files[0], files[1]


def _drawn_in(bar: tqdm) -> Progress:
    def draw(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return draw
