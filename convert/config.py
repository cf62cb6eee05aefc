"""An assistant's config.json: what the layout of its GGUF needs of it, checked; and names of its checkpoint.

What the file leaves out has the value that transformers gives it (its Gemma4TextConfig and Gemma4AssistantConfig).
Ranges are those of the loader, so that what is written can be loaded.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyllama_mtp.errors import ConversionError, shown
from pyllama_mtp.gguf.gemma4_assistant import AssistantConfig, Layer
from pyllama_mtp.gguf.gemma4_checks import EPSILON, MAX_HEAD_SIZE, MAX_HEADS, MAX_LENGTH, MAX_WIDTH, ROPE_BASE

Config = Mapping[str, Any]  # what JSON can hold

ARCHITECTURES = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")
ACTIVATION = "gelu_pytorch_tanh"  # the only one that the engines compute; no GGUF key holds it
CENTROIDS = "masked_embedding.centroids.weight"  # [C, E]
TOKEN_ORDERING = "masked_embedding.token_ordering"  # [V], integers
EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"  # tied to the embedding: some writers store it again
# What transformers computes by itself, or leaves aside because the layers share the target's keys and values.
NOT_NEEDED = re.compile(
    r"(.*\.)?rotary_emb\.(\w+_)?inv_freq|model\.embed_tokens\.embed_scale"
    r"|model\.layers\.\d+\.self_attn\.[kv]_(proj|norm)\.weight"
)

MAX_LAYERS = 64
MAX_VOCABULARY = 1 << 30
SLIDING, FULL = "sliding_attention", "full_attention"
_FULL_EVERY = 6  # layers, where layer_types is not there
_HEAD_SIZE_FULL = 512  # where neither global_head_dim nor per_layer_config is there

_DEFAULTS = {
    "backbone_hidden_size": 1536,
    "use_ordered_embeddings": False,
    "num_centroids": 2048,
    "centroid_intermediate_top_k": 32,
}
_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": ACTIVATION,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "rope_parameters": {
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    },
}


def read_config(config: Config) -> AssistantConfig:
    """Raises ConversionError if the configuration is of another model or does not make sense."""
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not any(name in ARCHITECTURES for name in architectures):
        raise _bad("architectures", architectures, f"[{' or '.join(ARCHITECTURES)}]")
    if not isinstance(config.get("text_config"), Mapping):
        raise ConversionError("config.json has no text_config")
    text = _with_defaults(_TEXT_DEFAULTS, config["text_config"])
    config = _with_defaults(_DEFAULTS, config)
    if text["hidden_activation"] != ACTIVATION:
        raise _bad("hidden_activation", text["hidden_activation"], repr(ACTIVATION))
    types = _layer_types(text)
    sliding = [kind == SLIDING for kind in types]
    full, swa = _rope(text, types)
    head_size_swa = _head_size(text, "head_dim")
    head_size = _of_full_layers(text, types, "global_head_dim", "head_dim")
    if head_size is None:
        head_size = head_size_swa if "per_layer_config" in text else _HEAD_SIZE_FULL
    n_head_kv = _integer(text, "num_key_value_heads", MAX_HEADS)
    n_head_kv_full = _of_full_layers(text, types, "num_global_key_value_heads", "num_key_value_heads")
    n_vocab = _integer(text, "vocab_size", MAX_VOCABULARY)
    n_centroids = _integer(config, "num_centroids", n_vocab) if config["use_ordered_embeddings"] else 0
    if n_centroids and n_vocab % n_centroids:
        raise ConversionError(f"{n_centroids} centroids do not divide the vocabulary of {n_vocab}")
    n_shared = text.get("num_kv_shared_layers") or len(types)
    return AssistantConfig(
        n_embd=_integer(text, "hidden_size", 1 << 16),
        n_embd_backbone=_integer(config, "backbone_hidden_size", 1 << 16),
        n_ff=_integer(text, "intermediate_size", MAX_WIDTH),
        n_head=_integer(text, "num_attention_heads", MAX_HEADS),
        n_head_kv=n_head_kv if n_head_kv_full is None else [n_head_kv if s else n_head_kv_full for s in sliding],
        n_vocab=n_vocab,
        context_length=_integer(text, "max_position_embeddings", MAX_LENGTH),
        window=_integer(text, "sliding_window", MAX_LENGTH),
        rms_eps=_real(text, "rms_norm_eps", *EPSILON),
        rope_base=_real(full, "rope_theta", *ROPE_BASE),
        rope_base_swa=_real(swa, "rope_theta", *ROPE_BASE),
        rotated_share=_real(full, "partial_rotary_factor", 0.0, 1.0),
        layers=tuple(Layer(s, head_size_swa if s else head_size) for s in sliding),
        head_size=head_size,
        head_size_swa=head_size_swa,
        n_shared=_integer({"num_kv_shared_layers": n_shared}, "num_kv_shared_layers", len(types)),
        n_centroids=n_centroids,
        top_k=_integer(config, "centroid_intermediate_top_k", n_centroids) if n_centroids else 0,
    )


def _with_defaults(defaults: Config, given: Config) -> dict[str, Any]:
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}


def _layer_types(text: Config) -> list[str]:
    n_layer = _integer(text, "num_hidden_layers", MAX_LAYERS)
    types = text.get("layer_types", [SLIDING if (i + 1) % _FULL_EVERY else FULL for i in range(n_layer)])
    if not isinstance(types, list) or len(types) != n_layer:
        raise _bad("layer_types", types, f"{n_layer} entries")
    for kind in types:
        if kind not in (SLIDING, FULL):
            raise _bad("an entry of layer_types", kind, f"{SLIDING} or {FULL}")
    return [*types[:-1], FULL]  # transformers wants it last, whatever the file says


def _rope(text: Config, types: list[str]) -> tuple[Config, Config]:
    """Of full and of sliding layers; for a kind that no layer is, what released models have."""
    rope = text["rope_parameters"]
    if not isinstance(rope, Mapping) or not all(isinstance(rope.get(kind), Mapping) for kind in set(types)):
        raise ConversionError("rope_parameters of config.json lacks an entry for a layer type")
    defaults = _TEXT_DEFAULTS["rope_parameters"]
    full, swa = (rope[kind] if kind in types else defaults[kind] for kind in (FULL, SLIDING))
    for kind, entry, expected in ((FULL, full, "proportional"), (SLIDING, swa, "default")):
        if entry.get("rope_type", "default") != expected:
            raise _bad(f"the rope_type of {kind}", entry.get("rope_type"), repr(expected))
        if entry.get("factor", 1) != 1:
            raise _bad(f"the rope factor of {kind}", entry["factor"], "1")
    return {"partial_rotary_factor": 1.0, **full}, swa


def _bad(key: str, value: object, expected: str) -> ConversionError:
    seen = "missing" if value is None else shown(repr(value))
    return ConversionError(f"{key} of config.json is {seen}, expected {expected}")


def _integer(config: Config, key: str, most: int, least: int = 1) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _bad(key, value, f"an integer from {least} to {most}")
    return value


def _head_size(config: Config, key: str) -> int:
    size = _integer(config, key, MAX_HEAD_SIZE, 2)
    if size % 2:
        raise _bad(key, size, "an even number: dimensions are rotated in pairs")
    return size


def _real(config: Config, key: str, least: float, most: float) -> float:
    """A number that GGUF holds as f32."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _bad(key, value, f"a number from {least:g} to {most:g}")
    return float(np.float32(value))


def _of_full_layers(text: Config, types: list[str], key: str, per_layer_key: str) -> int | None:
    """A size that the full attention layers have of their own: under a key of its own, or in per_layer_config."""
    read = _head_size if per_layer_key == "head_dim" else lambda config, key: _integer(config, key, MAX_HEADS)
    if key in text:
        return read(text, key)
    per_layer = text.get("per_layer_config")
    if isinstance(per_layer, Mapping):
        for index, layer in per_layer.items():
            if not (isinstance(layer, Mapping) and re.fullmatch(r"\d{1,4}", str(index)) and int(index) < len(types)):
                raise _bad("per_layer_config", {index: layer}, "layers by their numbers")
            if types[int(index)] == FULL and per_layer_key in layer:
                return read(layer, per_layer_key)
    return None
