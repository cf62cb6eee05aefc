"""MTP heads as GGUF files: the table of tensors, the metadata that a configuration gives, and the older layouts.

Layout: llama.cpp's `gemma4-assistant`, plus the centroid LM head as metadata arrays, which unmodified llama.cpp
ignores. Letters: E the assistant's width, B the backbone's (target's), F the MLP's, Q query heads times head size, H
head size, V vocabulary, C centroids. Checkpoint shapes are row-major [out, in]; GGUF shapes are the reverse.
"""

from dataclasses import dataclass

import numpy as np

from pyllama_mtp.errors import ConversionError
from pyllama_mtp.gguf.format import Entry

PREFIX = "gemma4-assistant"
ORDERED = "use_ordered_embeddings"  # the flag of the older layouts: the centroid head is there
UNROTATED = 1e30  # a RoPE frequency factor that switches a dimension's rotation off

# checkpoint name, GGUF name, checkpoint shape, kind. {} is a layer's number. A "matrix" takes the output type, the rest
# stays f32.
TENSORS = (
    ("model.embed_tokens.weight", "token_embd.weight", "V E", "matrix"),
    ("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", "E", "vector"),
    ("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", "Q E", "matrix"),
    ("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", "H", "vector"),
    ("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", "E Q", "matrix"),
    ("model.layers.{}.post_attention_layernorm.weight", "blk.{}.post_attention_norm.weight", "E", "vector"),
    ("model.layers.{}.pre_feedforward_layernorm.weight", "blk.{}.ffn_norm.weight", "E", "vector"),
    ("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", "F E", "matrix"),
    ("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", "F E", "matrix"),
    ("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", "E F", "matrix"),
    ("model.layers.{}.post_feedforward_layernorm.weight", "blk.{}.post_ffw_norm.weight", "E", "vector"),
    ("model.layers.{}.layer_scalar", "blk.{}.layer_output_scale.weight", "1", "vector"),
    ("model.norm.weight", "output_norm.weight", "E", "vector"),
    ("pre_projection.weight", "nextn.pre_projection.weight", "E 2B", "matrix"),
    ("post_projection.weight", "nextn.post_projection.weight", "B E", "matrix"),
)


@dataclass(frozen=True, slots=True)
class Layer:
    sliding: bool
    head_size: int


@dataclass(frozen=True, slots=True)
class AssistantConfig:
    """The sizes and numbers that the layout holds."""

    n_embd: int
    n_embd_backbone: int
    n_ff: int
    n_head: int
    n_head_kv: int | list[int]
    n_vocab: int
    context_length: int
    window: int
    rms_eps: float
    rope_base: float
    rope_base_swa: float
    rotated_share: float
    layers: tuple[Layer, ...]
    head_size: int
    head_size_swa: int
    n_shared: int
    n_centroids: int  # 0: dense LM head
    top_k: int

    def metadata(self) -> dict[str, Entry]:
        """The architecture's keys, without the centroid head's; the tokenizer's come from elsewhere."""
        values = {
            "block_count": Entry("u32", len(self.layers)),
            "context_length": Entry("u32", self.context_length),
            "embedding_length": Entry("u32", self.n_embd),
            "feed_forward_length": Entry("u32", self.n_ff),
            "attention.head_count": Entry("u32", self.n_head),
            "attention.head_count_kv": Entry("[i32]" if isinstance(self.n_head_kv, list) else "u32", self.n_head_kv),
            "rope.freq_base": Entry("f32", self.rope_base),
            "rope.freq_base_swa": Entry("f32", self.rope_base_swa),
            "attention.layer_norm_rms_epsilon": Entry("f32", self.rms_eps),
            "attention.key_length": Entry("u32", self.head_size),
            "attention.value_length": Entry("u32", self.head_size),
            "attention.sliding_window": Entry("u32", self.window),
            "attention.shared_kv_layers": Entry("u32", self.n_shared),
            "embedding_length_per_layer_input": Entry("u32", 0),
            "attention.sliding_window_pattern": Entry("[bool]", [layer.sliding for layer in self.layers]),
            "attention.key_length_swa": Entry("u32", self.head_size_swa),
            "attention.value_length_swa": Entry("u32", self.head_size_swa),
            "rope.dimension_count": Entry("u32", self.head_size),
            "rope.dimension_count_swa": Entry("u32", self.head_size_swa),
            "embedding_length_out": Entry("u32", self.n_embd_backbone),
            "nextn_predict_layers": Entry("u32", len(self.layers)),
        }
        return {f"{PREFIX}.{key}": entry for key, entry in values.items()}

    def centroid_metadata(self, centroids: np.ndarray, ordering: np.ndarray, ordering_name: str) -> dict[str, Entry]:
        """The centroid head's keys. centroids: f32 [C, E]; ordering: integers [V].

        Raises ConversionError unless every token is in the ordering once.
        """
        if not np.array_equal(np.sort(ordering), np.arange(self.n_vocab)):
            raise ConversionError(f"{ordering_name} is no permutation of the vocabulary 0..{self.n_vocab - 1}")
        values = {
            "num_centroids": Entry("u32", self.n_centroids),
            "top_k": Entry("u32", self.top_k),
            "centroids": Entry("[f32]", centroids.ravel()),
            "token_ordering": Entry("[i32]", ordering),
        }
        return {f"{PREFIX}.masked_embedding.{key}": entry for key, entry in values.items()}

    def rope_factors(self) -> list[float]:
        """f32 [head_size / 2] of the full layers: 1 where a pair of dimensions is rotated."""
        n = self.head_size // 2
        rotated = int(self.head_size * self.rotated_share / 2)
        return [1.0] * rotated + [UNROTATED] * (n - rotated)

    def tensors(self) -> dict[str, "TensorSpec"]:
        """Checkpoint name -> what it must be and becomes, in the order of the file."""
        specs: dict[str, TensorSpec] = {}
        for name, gguf_name, shape, kind in TENSORS:
            layers = enumerate(self.layers) if "{}" in name else [(None, None)]
            for index, layer in layers:
                at = "" if index is None else str(index)
                specs[name.replace("{}", at)] = TensorSpec(gguf_name.replace("{}", at), self._shape(shape, layer), kind)
        return specs

    def _shape(self, letters: str, layer: Layer | None) -> tuple[int, ...]:
        sizes = {
            "1": 1,
            "E": self.n_embd,
            "B": self.n_embd_backbone,
            "2B": 2 * self.n_embd_backbone,
            "F": self.n_ff,
            "V": self.n_vocab,
            "H": layer.head_size if layer else 0,
            "Q": layer.head_size * self.n_head if layer else 0,
        }
        return tuple(sizes[letter] for letter in letters.split())


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """shape is the checkpoint's."""

    gguf_name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class OldLayout:
    """What a layout with the centroid head in tensors calls what: keys without the architecture, and tensors."""

    n_embd_backbone: str
    n_centroids: str
    top_k: str
    centroids: str  # [E, n_centroids], of any type
    token_ordering: str  # i32 [V]
    pre_projection: str
    post_projection: str
    default_top_k: int | None = None  # of files that leave out the numbers of clusters


# By architecture. Under the present one's name a file is older if it has such a tensor of centroids.
OLD_LAYOUTS = {
    "gemma4_assistant": OldLayout(
        "n_embd_backbone",
        "n_centroids",
        "centroid_top_k",
        "mtp.centroids.weight",
        "mtp.token_ordering.weight",
        "mtp.pre_projection.weight",
        "mtp.post_projection.weight",
    ),
    "gemma4_mtp": OldLayout(
        "backbone_embedding_length",
        "centroid_count",
        "centroid_top_k",
        "mtp_centroids.weight",
        "mtp_token_ordering.weight",
        "mtp_pre_proj.weight",
        "mtp_post_proj.weight",
    ),
    PREFIX: OldLayout(
        "embedding_length_out",
        "n_centroids",
        "centroid_top_k",
        "masked_embd_centroids.weight",
        "masked_embd_ordering",
        "nextn.pre_projection.weight",
        "nextn.post_projection.weight",
        default_top_k=32,
    ),
}
REPEATED_EMBEDDING = "mtp_input_embd.weight"  # [B, V]: the target's, in files of one converter
