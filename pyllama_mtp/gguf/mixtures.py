"""Mixtures of weight types, as files hold them that people download: which type each matrix has.

A mixture is a table from patterns of names to types; docs/benchmark.md says what is known of the files and what is
assumed. Two rules are those of llama.cpp's quantiser (src/llama-quant.cpp). Some matrices have a finer type in the
first and the last eighth of the layers and in every third one between. A row that is no whole number of a type's blocks
has a type of shorter blocks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyllama_mtp.gguf.format import TENSOR_TYPES

# Types of 256 values in a block, and what has 32 in its place.
_SHORTER = {"q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}


@dataclass(frozen=True, slots=True)
class Mixture:
    """file_type: llama.cpp's number for such files. rules: a pattern that is searched in a tensor's name, and the type
    of what has it, or a pair: that of most layers, and the finer one; the first pattern found counts, and the last is
    found in all. head: the type of an assistant that comes with such a file."""

    file_type: int
    rules: tuple[tuple[str, str | tuple[str, str]], ...]
    head: str = "q8_0"


# "token_embd" is in the name of the per-layer embeddings too.
MIXTURES = {
    "qat": Mixture(
        2,
        (
            ("token_embd", "q6_k"),
            ("per_layer_model_proj", "f16"),
            ("", "q4_0"),
        ),
    ),
    "q4_k_m": Mixture(
        15,
        (
            ("token_embd", "q6_k"),
            ("per_layer_model_proj", "bf16"),
            ("attn_v|ffn_down", ("q4_k", "q6_k")),
            ("", "q4_k"),
        ),
    ),
    "ud-q4_k_xl": Mixture(
        15,
        (
            ("token_embd", "q6_k"),
            ("per_layer_model_proj", "bf16"),
            ("attn_k|attn_v", "q8_0"),
            (r"attn_q|attn_output|inp_gate|\.proj\.", "q5_k"),
            ("ffn_down", ("q5_k", "q6_k")),
            ("", "q4_k"),
        ),
    ),
}


def fitting(type_name: str, n_in: int) -> str:
    """The type itself, or the one that llama.cpp's quantiser takes in its place for rows of n_in values."""
    for name in (type_name, _SHORTER.get(type_name, type_name)):
        if n_in % TENSOR_TYPES[name][1] == 0:
            return name
    return "f16"


def mixed_types(mixture: Mixture, matrices: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, str]:
    """Name -> type of all matrices of a file, given by name and shape in ggml order."""
    types = {}
    for name, shape in matrices:
        chosen = next(chosen for pattern, chosen in mixture.rules if re.search(pattern, name))
        if isinstance(chosen, tuple):
            alike = sorted(_layer(other) for other, _ in matrices if _kind(other) == _kind(name))
            chosen = chosen[_is_finer(alike.index(_layer(name)), len(alike))]
        types[name] = fitting(chosen, shape[0])
    return types


def _layer(name: str) -> int:
    """Of a tensor of a layer."""
    return int(name.split(".")[1])


def _kind(name: str) -> str:
    return name.split(".", 2)[-1]


def _is_finer(index: int, n: int) -> bool:
    """Of the layers that have such a matrix, this one has the finer type."""
    return index < n // 8 or index >= 7 * n // 8 or (index - n // 8) % 3 == 2
