"""Tiny assistant checkpoints, written without torch."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from pyllama_mtp.convert.config import CENTROIDS, TOKEN_ORDERING, read_config
from pyllama_mtp.gguf.random_weights import synthetic_tokenizer

N_VOCAB = 512
DTYPES = {
    "F32": lambda x: x.astype("<f4"),
    "F64": lambda x: x.astype("<f8"),
    "F16": lambda x: x.astype("<f2"),
    "BF16": lambda x: x.astype(ml_dtypes.bfloat16),
    "I64": lambda x: x.astype("<i8"),
}


def config_json(*, centroids: int = 32, architecture: str = "Gemma4AssistantForCausalLM") -> dict:
    """A configuration as transformers writes it."""
    rope = {
        "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_kv_shared_layers": 4,
        "head_dim": 32,
        "global_head_dim": 64,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "sliding_window": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rope,
        "vocab_size": N_VOCAB,
    }
    config = {
        "architectures": [architecture],
        "backbone_hidden_size": 96,
        "text_config": text,
        "use_ordered_embeddings": False,
    }
    if centroids:
        config |= {"use_ordered_embeddings": True, "num_centroids": centroids, "centroid_intermediate_top_k": 4}
    return config


def random_tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 tensors of every name that the configuration asks for; int64 for the ordering."""
    random = np.random.default_rng(seed)
    parsed = read_config(config)
    tensors = {name: random.standard_normal(spec.shape, np.float32) for name, spec in parsed.tensors().items()}
    if parsed.n_centroids:
        tensors[CENTROIDS] = random.standard_normal((parsed.n_centroids, parsed.n_embd), np.float32)
        tensors[TOKEN_ORDERING] = random.permutation(parsed.n_vocab).astype(np.int64)
    return tensors


def safetensors_bytes(tensors: dict[str, np.ndarray], dtype: str = "BF16") -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = []
    at = 0
    for name, values in tensors.items():
        kind = "I64" if values.dtype.kind == "i" else dtype
        raw = DTYPES[kind](values).tobytes()
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data)


def write_tokenizer(folder: Path, n_vocab: int = N_VOCAB) -> None:
    """tokenizer.json and tokenizer_config.json with the synthetic vocabulary."""
    tokens = list(synthetic_tokenizer(n_vocab)["tokenizer.ggml.tokens"].value)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": t, "special": True} for i, t in enumerate(tokens[:8])],
        "model": {
            "type": "BPE",
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": [["\u2581", "w"]],
            "byte_fallback": True,
        },
    }
    config = {f"{n}_token": f"<{n}>" for n in ("bos", "eos", "unk", "pad")} | {"chat_template": "{{ bos_token }}"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_checkpoint(
    folder: Path, config: dict, tensors: dict[str, np.ndarray], *, dtype: str = "BF16", shards: int = 1
) -> Path:
    """A complete checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, dtype))
        return folder
    weight_map = {}
    for shard in range(shards):
        names = list(tensors)[shard::shards]
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        (folder / file).write_bytes(safetensors_bytes({n: tensors[n] for n in names}, dtype))
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
