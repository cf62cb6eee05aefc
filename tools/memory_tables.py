"""Prints the tables of docs/models.md: bytes of weights, assistants and KV caches, from the released shapes alone.

    python tools/memory_tables.py            the tables
    python tools/memory_tables.py --check    whether docs/models.md has them

The cache is what Model.estimate() gives for a CPU build, where cells that no token was in take no memory.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyllama_mtp.estimate import estimate
from pyllama_mtp.gguf.format import TENSOR_TYPES, GGUFFile, TensorInfo, tensor_bytes
from pyllama_mtp.gguf.gemma4 import SHAPES, Gemma4Shape
from pyllama_mtp.gguf.random_weights import assistant_config
from pyllama_mtp.options import LoadOptions

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- tools/memory_tables.py -->", "<!-- end of tables -->"
NAMES = {"e2b": "E2B", "e4b": "E4B", "12b": "12B", "26b-a4b": "26B-A4B", "31b": "31B"}
WEIGHTS = ("q4_0", "q8_0", "f16")
CONTEXTS = (4096, 8192, 32768, 131072)
CACHES: dict[str, dict[str, Any]] = {
    "f16": {},
    "q8_0": {"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    "turbo4, sliding layers q8_0": {
        "cache_type_k": "turbo4",
        "cache_type_v": "turbo4",
        "cache_type_k_swa": "q8_0",
        "cache_type_v_swa": "q8_0",
    },
}


def header(shape: Gemma4Shape, weights: str) -> GGUFFile:
    """Of a file that need not be there."""
    entries = shape.metadata()
    metadata = {k: np.array(e.value) if isinstance(e.value, list) else e.value for k, e in entries.items()}
    tensors = {}
    for tensor in shape.tensors():
        kind = _type_of(tensor.shape, weights if tensor.kind in ("matrix", "embedding") else "f32")
        size = tensor_bytes(kind, tensor.shape)
        tensors[tensor.name] = TensorInfo(Path("model.gguf"), tensor.name, tensor.shape, kind, 0, size)
    return GGUFFile(Path("model.gguf"), 3, metadata, {key: entry.type for key, entry in entries.items()}, tensors)


def _type_of(shape: tuple[int, ...], kind: str) -> str:
    return kind if shape[0] % TENSOR_TYPES[kind][1] == 0 else "f16"


def target_bytes(shape: Gemma4Shape, weights: str) -> int:
    return sum(tensor.n_bytes for tensor in header(shape, weights).tensors.values())


def assistant_bytes(shape: Gemma4Shape, weights: str) -> int:
    """Of the file: the centroids and the order of tokens lie in its metadata."""
    config = assistant_config(shape)
    specs = [(spec.shape[::-1], weights if spec.kind == "matrix" else "f32") for spec in config.tensors().values()]
    centroids = 4 * (config.n_centroids * config.n_embd + (config.n_vocab if config.n_centroids else 0))
    return centroids + sum(tensor_bytes(_type_of(dims, kind), dims) for dims, kind in specs)


def cache_bytes(shape: Gemma4Shape, n_ctx: int, sequences: int, types: dict[str, Any]) -> int:
    options = LoadOptions(n_ctx=n_ctx, max_num_seqs=sequences, n_gpu_layers=0, **types)
    return estimate(header(shape, "q4_0"), None, options, n_ctx).cache_bytes


def size(n_bytes: int) -> str:
    return (
        f"{n_bytes / 1e9:.1f} GB"
        if n_bytes >= 1e10
        else f"{n_bytes / 1e9:.2f} GB"
        if n_bytes >= 1e9
        else (f"{n_bytes / 1e6:.0f} MB")
    )


def table(head: list[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables() -> str:
    weights = table(
        ["", *(f"target {w}" for w in WEIGHTS), "assistant f16", "assistant q8_0"],
        (
            [name, *(size(target_bytes(SHAPES[key], w)) for w in WEIGHTS)]
            + [size(assistant_bytes(SHAPES[key], w)) for w in ("f16", "q8_0")]
            for key, name in NAMES.items()
        ),
    )
    contexts = [f"{n:,} tokens" for n in CONTEXTS]
    parts = [weights]
    for sequences, what in ((1, "One sequence"), (4, "Four sequences (the default), each as long")):
        rows = (
            [name, cache, *(size(cache_bytes(SHAPES[key], n, sequences, types)) for n in CONTEXTS)]
            for key, name in NAMES.items()
            for cache, types in CACHES.items()
        )
        parts += [f"{what}:", table(["", "KV cache", *contexts], rows)]
    return "\n\n".join(parts)


def main() -> int:
    if "--check" not in sys.argv[1:]:
        print(tables())
        return 0
    page = PAGE.read_text()
    same = page.partition(BEGIN)[2].partition(END)[0].strip() == tables()
    print("the same" if same else f"{PAGE} has other tables: put the output of this script into it")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
