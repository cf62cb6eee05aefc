"""The embedded pair's assistant as a checkpoint: what convert-assistant made is taken back to what it was made of."""

import json
from pathlib import Path

import numpy as np

from pyllama_mtp.convert.config import CENTROIDS, TOKEN_ORDERING, read_config
from pyllama_mtp.gguf.format import GGUFFile, read_header
from support.checkpoints import safetensors_bytes

CONTROL, USER_DEFINED = 3, 4
NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask"}


def write_demo_checkpoint(folder: Path, assistant: Path, backbone: int | None = None) -> Path:
    """backbone: the width of another target than the assistant's own, with weights to match."""
    head = read_header(assistant)
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(head, backbone)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(_tensors(head, config), "F32"))
    tokens = list(head.metadata["tokenizer.ggml.tokens"])
    kinds = head.metadata["tokenizer.ggml.token_type"]
    added = [
        {"id": i, "content": text, "special": bool(kinds[i] == CONTROL)}
        for i, text in enumerate(tokens)
        if kinds[i] in (CONTROL, USER_DEFINED)
    ]
    merges = [merge.split(" ") for merge in head.metadata["tokenizer.ggml.merges"]]
    model = {"type": "BPE", "vocab": {text: i for i, text in enumerate(tokens)}, "merges": merges}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": model}))
    special = {f"{n}_token": tokens[head.metadata[f"tokenizer.ggml.{key}_token_id"]] for n, key in NAMES.items()}
    special["chat_template"] = head.metadata["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def _config(head: GGUFFile, backbone: int | None) -> dict:
    def of(key: str):
        return head.metadata[f"gemma4-assistant.{key}"]

    sliding = [bool(flag) for flag in of("attention.sliding_window_pattern")]
    text = {
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "num_kv_shared_layers": of("attention.shared_kv_layers"),
        "head_dim": of("attention.key_length_swa"),
        "global_head_dim": of("attention.key_length"),
        "layer_types": ["sliding_attention" if flag else "full_attention" for flag in sliding],
        "sliding_window": of("attention.sliding_window"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": of("attention.layer_norm_rms_epsilon"),
        "vocab_size": len(head.metadata["tokenizer.ggml.tokens"]),
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": of("rope.freq_base"),
                "partial_rotary_factor": 0.25,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": of("rope.freq_base_swa")},
        },
    }
    return {
        "architectures": ["Gemma4AssistantForCausalLM"],
        "backbone_hidden_size": backbone or of("embedding_length_out"),
        "text_config": text,
        "use_ordered_embeddings": True,
        "num_centroids": of("masked_embedding.num_centroids"),
        "centroid_intermediate_top_k": of("masked_embedding.top_k"),
    }


def _tensors(head: GGUFFile, config: dict) -> dict[str, np.ndarray]:
    """float32 of every tensor; zeros in the place of one that has another shape in the file."""
    parsed = read_config(config)
    tensors = {}
    for name, spec in parsed.tensors().items():
        stored = head.tensors[spec.gguf_name]
        dtype = {"f16": "<f2", "f32": "<f4"}[stored.type]
        values = np.fromfile(stored.path, dtype, stored.n_bytes // np.dtype(dtype).itemsize, offset=stored.offset)
        same = stored.shape[::-1] == spec.shape
        tensors[name] = values.astype(np.float32).reshape(spec.shape) if same else np.zeros(spec.shape, np.float32)
    prefix = "gemma4-assistant.masked_embedding."
    rows = head.metadata[f"{prefix}centroids"].astype(np.float32).reshape(parsed.n_centroids, parsed.n_embd)
    order = head.metadata[f"{prefix}token_ordering"].astype(np.int64)
    return tensors | {CENTROIDS: rows, TOKEN_ORDERING: order}
