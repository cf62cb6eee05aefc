"""A random Gemma 4 target whose keys are hard to quantise: heads of 256 and 512, outlier channels, a common offset.

Random weights alone flatter every format: their keys are isotropic noise and their attention is nearly uniform.
"""

from pathlib import Path

import numpy as np

from pyllama_mtp.gguf.format import read_header
from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from pyllama_mtp.gguf.random_weights import write_target

SHAPE = Gemma4Shape(
    n_layer=4,
    full_every=2,
    n_embd=256,
    n_head=4,
    n_head_kv=1,
    n_head_kv_full=1,
    n_ff=256,
    head_size=256,
    head_size_full=512,
    window=128,
    n_vocab=512,
    context_length=2048,
    assistant_n_embd=64,
    assistant_n_ff=128,
    assistant_n_head=4,
)
LOGIT_DEVIATION = 2.5  # of attention's logits, about: some keys matter and most do not
OUTLIERS, OUTLIER_SIZE = 4, 6.0  # channels of a head, and how much wider they are
COMMON, OFFSET = 0.7, 1.0  # of every embedding's length; length of a key's offset over that of the rest


def write_difficult_target(path: Path, seed: int = 0) -> Path:
    """Writes an f32 target of SHAPE.

    Every embedding has a common part, which the key matrices map to one vector in the unrotated half of a head. In
    k_norm four channels stand out. q_norm makes the logits' deviation LOGIT_DEVIATION at any head size.
    """
    write_target(path, SHAPE, weights="f32", seed=seed)
    random = np.random.default_rng(seed + 1)
    direction = random.standard_normal(SHAPE.n_embd)
    direction /= np.linalg.norm(direction)
    for name, tensor in read_header(path).tensors.items():
        values = np.memmap(path, np.float32, "r+", offset=tensor.offset, shape=tensor.shape[::-1])
        if name == "token_embd.weight":
            lengths = np.linalg.norm(values, axis=1, keepdims=True)
            values[:] = np.sqrt(1 - COMMON**2) * values + COMMON * lengths * direction
        elif name.endswith("attn_k.weight"):
            size = len(values)
            offset = np.zeros(size)
            offset[size // 4 : size // 2] = 1  # NeoX pairs of the lowest frequencies: hardly rotated by position
            offset *= OFFSET * np.sqrt(size) / np.linalg.norm(offset) / (COMMON * np.sqrt(SHAPE.n_embd))
            values[:] += np.outer(offset, direction)
        elif name.endswith("attn_k_norm.weight"):
            values[random.choice(len(values), OUTLIERS, replace=False)] = OUTLIER_SIZE
        elif name.endswith("attn_q_norm.weight"):
            values[:] = LOGIT_DEVIATION / np.sqrt(len(values) + OUTLIERS * (OUTLIER_SIZE**2 - 1))
        values.flush()
    return path
