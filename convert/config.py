"""An assistant's config.json: what the layout of its GGUF needs of it, checked; and names of its checkpoint."""

import re
from collections.abc import Mapping

from pyllama_mtp.errors import ConversionError
from pyllama_mtp.gguf.gemma4_assistant import AssistantConfig, Layer

ARCHITECTURES = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")
ACTIVATION = "gelu_pytorch_tanh"  # the only one that the engines compute; no GGUF key holds it
CENTROIDS = "masked_embedding.centroids.weight"  # [C, E]
TOKEN_ORDERING = "masked_embedding.token_ordering"  # [V], integers
LM_HEAD = "lm_head.weight"  # tied to the embedding: some writers store it again


def read_config(config: Mapping) -> AssistantConfig:
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
        raise ConversionError(f"full_attention has the rope_type {full.get('rope_type')!r}, expected 'proportional'")
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
    return AssistantConfig(
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
