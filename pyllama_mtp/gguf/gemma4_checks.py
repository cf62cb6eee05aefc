"""Hyper-parameters and tensors of gemma4 targets and gemma4-assistant heads: what must be there, with which shape.

Ranges are wider than any released model's by a factor of ten or more. Shapes come from the hyper-parameters through the
table of pyllama_mtp.gguf.gemma4, so a file in which the two disagree is refused here.
"""

from dataclasses import dataclass

import numpy as np

from pyllama_mtp.errors import ModelLoadError
from pyllama_mtp.gguf.format import TENSOR_TYPES, StringArray, TensorInfo
from pyllama_mtp.gguf.gemma4 import TARGET_TENSORS
from pyllama_mtp.gguf.hyperparameters import HyperParameters

MAX_WIDTH = 1 << 20
MAX_HEADS = 1024
MAX_HEAD_SIZE = 4096
MAX_LENGTH = 1 << 30  # of context and window: sums stay below 2^31
EPSILON = (1e-12, 1.0)
ROPE_BASE = (1.0, 1e12)
_NO_WEIGHTS = ("i8", "i16", "i32", "i64", "f64", "q8_1", "q8_k")  # no kernel multiplies them
ROPE_FACTORS = "rope_freqs.weight"
WEIGHT_TYPES = tuple(name for name in TENSOR_TYPES if name not in _NO_WEIGHTS)

# Beside TARGET_TENSORS, in the same letters (A: the three attention inputs, Q + 2K): alternatives that llama.cpp reads.
_OPTIONAL_TENSORS = (
    ("output.weight", "E V", "matrix"),
    ("blk.{}.attn_qkv.weight", "E A", "matrix"),
    ("blk.{}.ffn_gate_exps.weight", "E X N", "matrix"),
    ("blk.{}.ffn_up_exps.weight", "E X N", "matrix"),
)
_NOT_REQUIRED = ("blk.{}.attn_v.weight", "blk.{}.layer_output_scale.weight")
_REPLACED_BY = {
    "blk.{}.attn_q.weight": "blk.{}.attn_qkv.weight",
    "blk.{}.attn_k.weight": "blk.{}.attn_qkv.weight",
    "blk.{}.ffn_gate_up_exps.weight": "blk.{}.ffn_up_exps.weight",
}
# Keys of other architectures that llama.cpp's loader honours whatever the architecture is.
_FOREIGN_KEYS = {
    "nextn_predict_layers": 0,
    "expert_group_count": 0,
    "expert_group_used_count": 0,
    "attention.causal": True,
    "pooling_type": 0,
}


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of a target; per-layer values as lists. Raises ModelLoadError while it is read."""

    n_layer: int
    n_owners: int  # the first layers, which own K/V
    n_embd: int
    n_vocab: int
    n_ple: int
    n_expert: int
    sliding: list[bool]
    n_head: list[int]
    n_head_kv: list[int]
    n_ff: list[int]
    n_ff_expert: list[int]
    head_size: int  # of full attention layers
    head_size_swa: int

    @classmethod
    def read(cls, p: HyperParameters, n_vocab: int) -> "_Sizes":
        n_layer = p.integer("block_count", 2, 512)
        n_head = p.integers("attention.head_count", 1, MAX_HEADS, n_layer)
        n_head_kv = p.integers("attention.head_count_kv", 1, MAX_HEADS, n_layer, default=n_head[0])
        if any(q % kv for q, kv in zip(n_head, n_head_kv, strict=True)):
            raise p.fail("attention.head_count_kv", n_head_kv[:8], "divisors of the numbers of query heads")
        n_expert = p.integer("expert_count", 0, 1024, default=0)
        n_ff_expert = p.integers("expert_feed_forward_length", 1, MAX_WIDTH, n_layer) if n_expert else [0] * n_layer
        return cls(
            n_layer=n_layer,
            n_owners=n_layer - p.integer("attention.shared_kv_layers", 0, n_layer - 2, default=0),
            n_embd=p.integer("embedding_length", 1, MAX_WIDTH),
            n_vocab=n_vocab,
            n_ple=p.integer("embedding_length_per_layer_input", 0, MAX_WIDTH),
            n_expert=n_expert,
            sliding=p.flags("attention.sliding_window_pattern", n_layer),
            n_head=n_head,
            n_head_kv=n_head_kv,
            n_ff=p.integers("feed_forward_length", 1, MAX_WIDTH, n_layer),
            n_ff_expert=n_ff_expert,
            head_size=_head_size(p, ""),
            head_size_swa=_head_size(p, "_swa"),
        )

    def of(self, layer: int) -> dict[str, int]:
        """The letters of TARGET_TENSORS; layer -1: of tensors outside the layers."""
        head_size = self.head_size_swa if self.sliding[layer] else self.head_size
        q, kv = head_size * self.n_head[layer], head_size * self.n_head_kv[layer]
        sizes = {"1": 1, "E": self.n_embd, "V": self.n_vocab, "P": self.n_ple, "PL": self.n_ple * self.n_layer}
        sizes |= {"H": head_size, "Q": q, "K": kv, "A": q + 2 * kv, "F": self.n_ff[layer]}
        return sizes | {"N": self.n_expert, "X": self.n_ff_expert[layer], "2X": 2 * self.n_ff_expert[layer]}


def _head_size(p: HyperParameters, suffix: str) -> int:
    """Of keys and values; llama.cpp wants both alike."""
    size = p.integer(f"attention.key_length{suffix}", 2, MAX_HEAD_SIZE)
    p.integer(f"attention.value_length{suffix}", size, size)
    n_rot = p.integer(f"rope.dimension_count{suffix}", 2, size)  # what llama.cpp puts for a missing one may not fit
    if size % 2 or n_rot % 2:
        raise p.fail(f"attention.key_length{suffix}", size, "an even number, of which an even number is rotated")
    return size


def check_target(p: HyperParameters, n_tokens: int) -> None:
    """Raises ModelLoadError if a gemma4 file is not a target that llama.cpp and the draft graph can compute."""
    sizes = _Sizes.read(p, n_tokens)
    _check_reals(p)
    for key, default in _FOREIGN_KEYS.items():
        p.require_default(key, default)
    if p.has("classifier.output_labels") or p.has("classifier.activation"):
        raise p.fail("classifier", "there", "a model that generates text")
    p.integer("embedding_length_out", sizes.n_embd, sizes.n_embd, default=sizes.n_embd)
    if all(sizes.sliding) or not any(sizes.sliding):
        raise p.fail("attention.sliding_window_pattern", "the same for all layers", "sliding and full attention layers")
    if sizes.n_owners < sizes.n_layer and (sizes.sliding[sizes.n_owners - 1] or not sizes.sliding[sizes.n_owners - 2]):
        raise p.fail(
            "attention.sliding_window_pattern",
            f"{sizes.sliding[: sizes.n_owners]} for the layers that own K/V",
            "a sliding layer and then a full one at the end, which the layers after them share",
        )
    metadata = p.header.metadata
    for key in ("bos_token_id", "merges", "token_type"):
        if f"tokenizer.ggml.{key}" not in metadata:
            raise ModelLoadError(f"tokenizer.ggml.{key} of {p.header.path} is missing: convert the model again")
    _check_tensors(p, sizes)
    _check_rope_factors(p, sizes.head_size)


def _check_reals(p: HyperParameters) -> None:
    p.real("attention.layer_norm_rms_epsilon", *EPSILON)
    for key in ("rope.freq_base", "rope.freq_base_swa"):
        p.real(key, *ROPE_BASE, default=1e4)
    for key in ("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"):
        p.real(key, 1e-6, 1e6, default=1.0)
    p.real("final_logit_softcapping", 0.0, 1e6, default=0.0)
    p.integer("attention.sliding_window", 1, MAX_LENGTH)
    p.integer("context_length", 1, MAX_LENGTH)


def _check_tensors(p: HyperParameters, sizes: _Sizes) -> None:
    tensors = p.header.tensors
    table = [(name, letters, kind, condition) for name, _, letters, kind, condition in TARGET_TENSORS]
    table += [(name, letters, kind, "optional") for name, letters, kind in _OPTIONAL_TENSORS]
    for pattern, letters, kind, condition in table:
        for layer in range(sizes.n_layer) if "{}" in pattern else [-1]:
            name = pattern.format(layer)
            tensor = tensors.get(name)
            if tensor is not None:
                of = sizes.of(layer)
                _check_tensor(p, tensor, tuple(of[letter] for letter in letters.split()), kind)
            elif _is_required(sizes, condition, layer) and pattern not in _NOT_REQUIRED:
                replacement = _REPLACED_BY.get(pattern, pattern).format(layer)
                if replacement not in tensors:
                    raise ModelLoadError(f"{p.header.path} lacks the tensor {name}: get it again")


def _is_required(sizes: _Sizes, condition: str | None, layer: int) -> bool:
    match condition:
        case "ple":
            return sizes.n_ple > 0
        case "moe":
            return sizes.n_expert > 0
        case "kv":
            return layer < sizes.n_owners
        case "v" | "optional":
            return False
    return True


def _check_tensor(p: HyperParameters, tensor: TensorInfo, shape: tuple[int, ...], kind: str) -> None:
    seen = tensor.shape + (1,) * (len(shape) - len(tensor.shape))
    if seen[: len(shape)] != shape or any(n != 1 for n in seen[len(shape) :]):
        raise ModelLoadError(
            f"tensor {tensor.name} of {p.header.path} has the shape {list(tensor.shape)}, expected {list(shape)} by "
            "the file's own hyper-parameters: get it again"
        )
    expected = ("f32",) if kind == "norm" else WEIGHT_TYPES
    if tensor.type not in expected:
        raise ModelLoadError(
            f"tensor {tensor.name} of {p.header.path} has the type {tensor.type}, expected {' or '.join(expected)}"
        )


def _check_rope_factors(p: HyperParameters, head_size: int) -> None:
    """They divide angles."""
    tensor = p.header.tensors.get(ROPE_FACTORS)
    if tensor is None:
        raise ModelLoadError(f"{p.header.path} lacks the tensor {ROPE_FACTORS}: convert the model again")
    _check_tensor(p, tensor, (head_size // 2,), "norm")
    with open(tensor.path, "rb") as file:  # np.fromfile loses what a signal handler raises within it
        file.seek(tensor.offset)
        factors = np.frombuffer(file.read(4 * (head_size // 2)), "<f4")
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ModelLoadError(f"{ROPE_FACTORS} of {p.header.path} holds values that are not positive: get it again")


def check_head(p: HyperParameters) -> None:
    """Raises ModelLoadError if a number of an MTP head makes no sense by itself.

    csrc/drafters/gemma4/mtp_head.cpp checks its sizes and tensors against the target.
    """
    p.real("attention.layer_norm_rms_epsilon", *EPSILON)
    for key in ("rope.freq_base", "rope.freq_base_swa"):
        p.real(key, *ROPE_BASE)
    head_size = p.integer("attention.key_length", 2, MAX_HEAD_SIZE)
    if p.prefix == "gemma4-assistant" or ROPE_FACTORS in p.header.tensors:  # older layouts leave it to the target's
        _check_rope_factors(p, head_size)
    if not isinstance(p.header.metadata.get("tokenizer.ggml.tokens"), StringArray | None):
        raise ModelLoadError(
            f"tokenizer.ggml.tokens of {p.header.path} is no list of strings: convert the checkpoint again"
        )
    if p.has("masked_embedding.centroids"):
        centroids = p.header.metadata[f"{p.prefix}.masked_embedding.centroids"]
        p.reals("masked_embedding.centroids", len(centroids) if isinstance(centroids, np.ndarray) else 0)
