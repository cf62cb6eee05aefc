"""Gemma 4 pairs with random weights at exact shapes: load time, memory and speed are those of the real models, the text
is not.

The same shape, weights and seed give the same bytes. Quantised matrices are written as random blocks: random codes
under a scale that gives the matrix a variance of 1 / n_in, so that activations stay of order one. The scale has a
random sign in each block, because codes are not centred: a matrix with a mean would send every token to the same state.
Logits have a standard deviation of about 3, which leaves sampling a few hundred probable tokens.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyllama_mtp.errors import InvalidRequestError
from pyllama_mtp.gguf.format import TENSOR_TYPES, Entry, Writer
from pyllama_mtp.gguf.gemma4 import ROTATED_SHARE, Gemma4Shape
from pyllama_mtp.gguf.gemma4_assistant import AssistantConfig, Layer
from pyllama_mtp.gguf.mixtures import MIXTURES, fitting, mixed_types
from pyllama_mtp.part_files import replacing

# name -> llama.cpp's number for files of that type, the K ones as a mixture
_FILE_TYPES = {
    **{"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q6_k": 18, "q5_k": 17, "q5_1": 9, "q5_0": 8, "q4_k": 15},
    **{"q4_1": 3, "q4_0": 2, "iq4_nl": 25, "iq4_xs": 30, "q3_k": 12},
}
WEIGHT_TYPES = tuple(_FILE_TYPES)
WEIGHTS = (*WEIGHT_TYPES, *MIXTURES)
# For blocks of uniform random bits: the deviation of their values in units of the scale, and where the block keeps its
# halves, as (byte, share of the scale). q4_1, q5_1, q4_k and q5_k have an offset, whose unit is a mean code, the latter
# two 6-bit factors for codes and for it; q6_k has 8-bit factors, q3_k and iq4_xs signed 6-bit ones.
_BLOCKS: dict[str, tuple[float, list[tuple[int, float]]]] = {
    "q8_0": (255 / 12**0.5, [(0, 1)]),
    "q6_k": (1368, [(208, 1)]),
    "q5_k": (873, [(0, 1), (2, 15.5)]),
    "q5_1": (23.8, [(0, 1), (2, 15.5)]),
    "q5_0": (32 / 12**0.5, [(0, 1)]),
    "q4_k": (422, [(0, 1), (2, 7.5)]),
    "q4_1": (11.6, [(0, 1), (2, 7.5)]),
    "q4_0": (16 / 12**0.5, [(0, 1)]),
    "iq4_nl": (67.5, [(0, 1)]),
    "iq4_xs": (1243, [(0, 1)]),
    "q3_k": (43.4, [(108, 1)]),
}
_LOGIT_DEVIATION = 3.0
_CHUNK_BYTES = 64 << 20

_Shaped = tuple[str, tuple[int, ...], str]  # name, shape in ggml order, kind
_Declared = tuple[str, tuple[int, ...], str, str]  # name, shape in ggml order, type, kind
Progress = Callable[[int, int], None]  # tensors done, tensors in all


def write_target(
    path: str | os.PathLike[str],
    shape: Gemma4Shape,
    *,
    weights: str = "q4_0",
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Writes a `gemma4` target. weights: one of WEIGHTS, the type of every matrix and embedding or a mixture; norms and
    routers are f32."""
    check_weights(weights)
    shaped: list[_Shaped] = [("rope_freqs.weight", (shape.head_size_full // 2,), "rope")]
    declared = _declared(shaped + [(t.name, t.shape, t.kind) for t in shape.tensors()], weights)
    metadata = _general(shape.metadata(), weights) | synthetic_tokenizer(shape.n_vocab)
    return _write(Path(path), metadata, declared, shape.rope_factors(), seed, progress)


def write_assistant(
    path: str | os.PathLike[str],
    shape: Gemma4Shape,
    *,
    weights: str = "q4_0",
    seed: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Writes the assistant of `shape` in the portable layout, with a random centroid head if the shape has one.
    weights: as a target's; an assistant beside a mixture has one type."""
    check_weights(weights)
    config = assistant_config(shape)
    shaped: list[_Shaped] = [("rope_freqs.weight", (config.head_size // 2,), "rope")]
    for spec in config.tensors().values():
        shaped.append((spec.gguf_name, spec.shape[::-1], "norm" if spec.kind == "vector" else "matrix"))
    if weights in MIXTURES:
        weights = MIXTURES[weights].head
    declared = _declared(shaped, weights)
    metadata = {"general.architecture": Entry("string", "gemma4-assistant")} | config.metadata()
    if config.n_centroids:
        random = np.random.default_rng(seed)
        centroids = random.standard_normal(config.n_centroids * config.n_embd, np.float32) / config.n_embd**0.5
        metadata |= config.centroid_metadata(centroids, random.permutation(config.n_vocab), "token_ordering")
    metadata = _general(metadata, weights) | synthetic_tokenizer(shape.n_vocab)
    return _write(Path(path), metadata, declared, config.rope_factors(), seed, progress)


def assistant_config(shape: Gemma4Shape) -> AssistantConfig:
    """The assistant that belongs to a target of this shape: three sliding layers and a full one, queries only."""
    sliding = (True, True, True, False)
    kv = [shape.n_head_kv if s else shape.n_head_kv_full for s in sliding]
    return AssistantConfig(
        n_embd=shape.assistant_n_embd,
        n_embd_backbone=shape.n_embd,
        n_ff=shape.assistant_n_ff,
        n_head=shape.assistant_n_head,
        n_head_kv=kv[0] if len(set(kv)) == 1 else kv,
        n_vocab=shape.n_vocab,
        context_length=shape.context_length,
        window=shape.window,
        rms_eps=1e-6,
        rope_base=1e6,
        rope_base_swa=1e4,
        rotated_share=ROTATED_SHARE,
        layers=tuple(Layer(s, shape.head_size if s else shape.head_size_full) for s in sliding),
        head_size=shape.head_size_full,
        head_size_swa=shape.head_size,
        n_shared=4,
        n_centroids=shape.n_centroids,
        top_k=min(shape.centroid_top_k, shape.n_centroids),
    )


def synthetic_tokenizer(n_vocab: int) -> dict[str, Entry]:
    """A `gemma4` tokenizer of llama.cpp: the special tokens, 256 bytes, words without meaning. n_vocab: 267 or more."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<|think|>"]
    data = [f"<0x{byte:02X}>" for byte in range(256)]
    merged = ["\u2581", "w", "\u2581w"]
    words = merged + [f"\u2581w{index:x}" for index in range(n_vocab - len(special + data + merged))]
    tokens = special + data + words
    return {
        "tokenizer.ggml.model": Entry("string", "gemma4"),
        "tokenizer.ggml.tokens": Entry("[string]", tokens),
        "tokenizer.ggml.scores": Entry("[f32]", np.full(n_vocab, -1000.0)),
        "tokenizer.ggml.token_type": Entry("[i32]", [3] * len(special) + [6] * len(data) + [1] * len(words)),
        "tokenizer.ggml.merges": Entry("[string]", ["\u2581 w"]),
        "tokenizer.ggml.bos_token_id": Entry("u32", 2),
        "tokenizer.ggml.eos_token_id": Entry("u32", 1),
        "tokenizer.ggml.unknown_token_id": Entry("u32", 3),
        "tokenizer.ggml.padding_token_id": Entry("u32", 0),
        "tokenizer.ggml.add_bos_token": Entry("bool", True),
        "tokenizer.ggml.add_space_prefix": Entry("bool", False),
    }


def check_weights(weights: str) -> None:
    """Raises InvalidRequestError unless it is one of WEIGHTS."""
    if weights not in WEIGHTS:
        raise InvalidRequestError(f"weights is {weights!r}, expected one of {', '.join(WEIGHTS)}")


def _general(metadata: dict[str, Entry], weights: str) -> dict[str, Entry]:
    return metadata | {
        "general.name": Entry("string", f"random weights, {weights}"),
        "general.file_type": Entry("u32", MIXTURES[weights].file_type if weights in MIXTURES else _FILE_TYPES[weights]),
        "general.quantization_version": Entry("u32", 2),
    }


def _declared(shaped: list[_Shaped], weights: str) -> list[_Declared]:
    matrices = [(name, shape) for name, shape, kind in shaped if kind in ("matrix", "embedding")]
    if weights in MIXTURES:
        types = mixed_types(MIXTURES[weights], matrices)
    else:
        types = {name: fitting(weights, shape[0]) for name, shape in matrices}
    return [(name, shape, types.get(name, "f32"), kind) for name, shape, kind in shaped]


def _write(
    path: Path,
    metadata: dict[str, Entry],
    declared: list[_Declared],
    rope_factors: list[float],
    seed: int,
    progress: Progress | None,
) -> Path:
    random = np.random.default_rng(seed)
    with replacing(path) as file:
        writer = Writer(file, metadata, [(name, shape, type_name) for name, shape, type_name, _ in declared])
        for index, (name, shape, type_name, kind) in enumerate(declared):
            if kind == "rope":
                data = np.array(rope_factors, "<f4")
            elif kind == "norm":
                data = np.full(shape[0], _LOGIT_DEVIATION if name == "output_norm.weight" else 1.0, "<f4")
            else:
                data = _random_matrix(random, shape, type_name)
            writer.write_tensor(name, data)
            if progress is not None:
                progress(index + 1, len(declared))
    return path


def _random_matrix(random: np.random.Generator, shape: tuple[int, ...], type_name: str) -> np.ndarray:
    """The bytes of a tensor, uint8 [n_rows, bytes of a row]."""
    n_in, n_rows = shape[0], math.prod(shape[1:])
    deviation = n_in**-0.5
    _, block_values, block_bytes = TENSOR_TYPES[type_name]
    row_bytes = n_in // block_values * block_bytes
    data = np.empty((n_rows, row_bytes), np.uint8)
    step = max(1, _CHUNK_BYTES // row_bytes)
    for begin in range(0, n_rows, step):
        rows = data[begin : begin + step]
        if type_name in _BLOCKS:
            rows[:] = np.frombuffer(random.bytes(rows.size), np.uint8).reshape(rows.shape)
            blocks = rows.reshape(-1, block_bytes)
            code_deviation, halves = _BLOCKS[type_name]
            for byte, share in halves:
                scale = np.float16(share * deviation / code_deviation).view(np.uint16)
                blocks[:, byte] = scale & 0xFF
                blocks[:, byte + 1] = blocks[:, byte + 1] & 0x80 | scale >> 8  # keeps a random sign
        else:
            values = random.standard_normal((len(rows), n_in), np.float32) * np.float32(deviation)
            if type_name == "bf16":
                rows[:] = (values.view("<u4") >> 16).astype("<u2").view(np.uint8)
            else:
                rows[:] = values.astype({"f32": "<f4", "f16": "<f2"}[type_name]).view(np.uint8)
    return data
