"""Writes a transformers target as a float32 GGUF, through the layout table of the package."""

from pathlib import Path

import numpy as np
import torch

from pyllama_mtp.gguf.format import Writer
from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from pyllama_mtp.gguf.random_weights import synthetic_tokenizer


def write_target_gguf(path: Path, shape: Gemma4Shape, model: torch.nn.Module) -> Path:
    state = model.state_dict()
    tensors = list(shape.tensors())
    declared = [("rope_freqs.weight", (shape.head_size_full // 2,), "f32")]
    declared += [(t.name, t.shape, "f32") for t in tensors]
    used = {t.checkpoint_name for t in tensors} | {"lm_head.weight"}
    assert used >= set(state), sorted(set(state) - used)
    with open(path, "wb") as file:
        writer = Writer(file, shape.metadata() | synthetic_tokenizer(shape.n_vocab), declared)
        writer.write_tensor("rope_freqs.weight", np.array(shape.rope_factors(), "<f4"))
        for tensor in tensors:
            data = state[tensor.checkpoint_name].float().numpy()
            assert data.shape == tensor.shape[::-1], (tensor, data.shape)
            writer.write_tensor(tensor.name, data)
    return path
