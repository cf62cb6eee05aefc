"""The specification of the converter: a table of tensors and the metadata that a configuration gives.

Layout: llama.cpp's `gemma4-assistant`, plus the centroid LM head as metadata arrays, which unmodified llama.cpp
ignores. Letters: E the assistant's width, B the backbone's (target's), F the MLP's, Q query heads times head size, H
head size, V vocabulary, C centroids. Checkpoint shapes are row-major [out, in]; GGUF shapes are the reverse.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyllama_mtp.errors import ConversionError
from pyllama_mtp.gguf.format import Entry

ARCHITECTURES = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")
PREFIX = "gemma4-assistant"
ACTIVATION = "gelu_pytorch_tanh"  # the only one that the engines compute; no GGUF key holds it
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
CENTROIDS = "masked_embedding.centroids.weight"  # [C, E]
TOKEN_ORDERING = "masked_embedding.token_ordering"  # [V], integers
LM_HEAD = "lm_head.weight"  # tied to the embedding: some writers store it again


@dataclass(frozen=True, slots=True)
class Layer:
    sliding: bool
    head_size: int


@dataclass(frozen=True, slots=True)
class AssistantConfig:
    """What the layout needs of a config.json, checked."""

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

    @classmethod
    def from_json(cls, config: Mapping) -> "AssistantConfig":
        """Raises ConversionError if the configuration is of another model or does not make sense."""
        architectures = config.get("architectures") or []
        if not isinstance(architectures, list) or not any(name in ARCHITECTURES for name in architectures):
            raise ConversionError(
                f"config.json names the architecture {architectures}, expected {' or '.join(ARCHITECTURES)}"
            )
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise ConversionError("config.json has no text_config")
        n_layer = _positive(text, "num_hidden_layers", 1024)
        types = text.get("layer_types")
        if not isinstance(types, list) or len(types) != n_layer:
            raise ConversionError(f"layer_types of config.json is {types!r}, expected {n_layer} entries")
        unknown = [kind for kind in types if kind not in ("sliding_attention", "full_attention")]
        if unknown:
            raise ConversionError(
                f"layer_types of config.json holds {unknown[0]!r}, expected sliding_attention or full_attention"
            )
        sliding = [kind == "sliding_attention" for kind in types]
        head_size_swa = _positive(text, "head_dim", 4096)
        head_size = _of_full_layers(text, types, "global_head_dim", "head_dim", head_size_swa)
        n_head_kv = _positive(text, "num_key_value_heads", 4096)
        n_head_kv_full = _of_full_layers(text, types, "num_global_key_value_heads", "num_key_value_heads", None)
        rope = text.get("rope_parameters")
        if not isinstance(rope, Mapping) or not all(isinstance(rope.get(kind), Mapping) for kind in set(types)):
            raise ConversionError("rope_parameters of config.json lacks an entry for a layer type")
        full, swa = rope.get("full_attention", {}), rope.get("sliding_attention", {})
        if "full_attention" in types and full.get("rope_type") != "proportional":
            raise ConversionError(
                f"full_attention has the rope_type {full.get('rope_type')!r}, expected 'proportional'"
            )
        if "sliding_attention" in types and swa.get("rope_type", "default") != "default":
            raise ConversionError(f"sliding_attention has the rope_type {swa.get('rope_type')!r}, expected 'default'")
        activation = text.get("hidden_activation", ACTIVATION)
        if activation != ACTIVATION:
            raise ConversionError(f"hidden_activation of config.json is {activation!r}, expected {ACTIVATION!r}")
        ordered = config.get("use_ordered_embeddings", False)
        n_vocab = _positive(text, "vocab_size", 1 << 30)
        n_centroids = _positive(config, "num_centroids", n_vocab) if ordered else 0
        if ordered and n_vocab % n_centroids:
            raise ConversionError(f"{n_centroids} centroids do not divide the vocabulary of {n_vocab}")
        return cls(
            n_embd=_positive(text, "hidden_size", 1 << 16),
            n_embd_backbone=_positive(config, "backbone_hidden_size", 1 << 16),
            n_ff=_positive(text, "intermediate_size", 1 << 20),
            n_head=_positive(text, "num_attention_heads", 4096),
            n_head_kv=n_head_kv if n_head_kv_full is None else [n_head_kv if s else n_head_kv_full for s in sliding],
            n_vocab=n_vocab,
            context_length=_positive(text, "max_position_embeddings", 1 << 30),
            window=_positive(text, "sliding_window", 1 << 30),
            rms_eps=_real(text, "rms_norm_eps"),
            rope_base=_real(full, "rope_theta") if full else 1e6,
            rope_base_swa=_real(swa, "rope_theta") if swa else 1e4,
            rotated_share=_real(full, "partial_rotary_factor", 1.0) if full else 1.0,
            layers=tuple(Layer(s, head_size_swa if s else head_size) for s in sliding),
            head_size=head_size,
            head_size_swa=head_size_swa,
            n_shared=_positive(text, "num_kv_shared_layers", n_layer) if text.get("num_kv_shared_layers") else 0,
            n_centroids=n_centroids,
            top_k=_positive(config, "centroid_intermediate_top_k", n_centroids) if ordered else 0,
        )

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


def _positive(config: Mapping, key: str, limit: int) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise ConversionError(f"{key} of config.json is {value!r}, expected an integer from 1 to {limit}")
    return value


def _real(config: Mapping, key: str, limit: float = 1e12) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= limit:
        raise ConversionError(f"{key} of config.json is {value!r}, expected a positive number up to {limit:g}")
    return float(value)


def _of_full_layers(text: Mapping, types: list[str], key: str, per_layer_key: str, default: int | None) -> int | None:
    """A size that the full attention layers have of their own: under a key of its own, or in per_layer_config."""
    if text.get(key) is not None:
        return _positive(text, key, 4096)
    per_layer = text.get("per_layer_config")
    if isinstance(per_layer, Mapping):
        for index, layer in per_layer.items():
            if not (isinstance(layer, Mapping) and re.fullmatch(r"\d{1,4}", str(index)) and int(index) < len(types)):
                raise ConversionError(
                    f"per_layer_config of config.json has the entry {index!r}: {layer!r}, expected a layer's number"
                )
            if types[int(index)] == "full_attention" and per_layer_key in layer:
                return _positive(layer, per_layer_key, 4096)
    return default
