"""The smallest pairs that have every part of a Gemma 4 pair: they load in some 10 ms. Random weights."""

from dataclasses import dataclass
from pathlib import Path

from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from pyllama_mtp.gguf.random_weights import write_assistant, write_target

_COMMON = {
    "n_embd": 32,
    "n_head": 2,
    "n_head_kv_full": 1,
    "n_ff": 32,
    "window": 16,
    "head_size": 32,
    "head_size_full": 64,
    "n_vocab": 288,
    "context_length": 256,
    "assistant_n_embd": 64,
    "assistant_n_ff": 32,
    "assistant_n_head": 2,
    "centroid_top_k": 4,
}
SHAPES = {
    "e2b": Gemma4Shape(n_layer=4, full_every=2, n_head_kv=1, n_ple=32, n_shared=2, n_centroids=16, **_COMMON),
    "moe": Gemma4Shape(
        n_layer=2, full_every=2, n_head_kv=2, v_is_k=True, n_expert=4, n_expert_used=2, n_ff_expert=32, **_COMMON
    ),
}


@dataclass(frozen=True, slots=True)
class TinyPair:
    target: Path
    head: Path


def write_tiny_pair(kind: str, folder: Path) -> TinyPair:
    """The pair of a kind ("e2b": per-layer embeddings, shared K/V, centroid head; "moe": experts, dense head)."""
    return TinyPair(
        write_target(folder / f"{kind}.gguf", SHAPES[kind], weights="q8_0"),
        write_assistant(folder / f"{kind}-assistant.gguf", SHAPES[kind], weights="q8_0"),
    )
