"""Random small Gemma 4 pairs, made with transformers, that are fair oracles: three kinds.

Attention has scale 1, so with unit q_norm weights it would be nearly one-hot and amplify rounding until nothing can be
compared: q_norm is scaled to 1.5 / sqrt(head size). Embeddings are drawn wide enough that the arg-max of the logits is
clear. The signs of the target's last norm are random, so that the tied LM head maps a token to another one and greedy
text does not stand still; the assistant holds a projection of that map, so that a good part of its drafts is right.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
)

from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from support.checkpoints import write_tokenizer

N_VOCAB = 512
WINDOW = 32
HEAD_SIZE, HEAD_SIZE_FULL = 64, 128

_COMMON = {"window": WINDOW, "head_size": HEAD_SIZE, "head_size_full": HEAD_SIZE_FULL, "n_vocab": N_VOCAB}
_SMALL = {"context_length": 2048, "assistant_n_embd": 64, "assistant_n_ff": 128, "assistant_n_head": 4}
KINDS = {
    "e2b": Gemma4Shape(
        n_layer=6,
        full_every=3,
        n_embd=96,
        n_head=4,
        n_head_kv=1,
        n_head_kv_full=1,
        n_ff=128,
        n_ff_shared=256,
        n_ple=32,
        n_shared=3,
        n_centroids=32,
        centroid_top_k=12,
        **_COMMON,
        **_SMALL,
    ),
    "moe": Gemma4Shape(
        n_layer=4,
        full_every=2,
        n_embd=96,
        n_head=4,
        n_head_kv=2,
        n_head_kv_full=1,
        n_ff=64,
        v_is_k=True,
        n_expert=8,
        n_expert_used=2,
        n_ff_expert=32,
        **_COMMON,
        **_SMALL,
    ),
    "dense": Gemma4Shape(
        n_layer=4,
        full_every=2,
        n_embd=128,
        n_head=4,
        n_head_kv=2,
        n_head_kv_full=1,
        n_ff=192,
        v_is_k=True,
        **_COMMON,
        **_SMALL,
    ),
}


@dataclass(frozen=True, slots=True)
class RandomPair:
    """A pair as Hugging Face folders, and as the models themselves in float32."""

    shape: Gemma4Shape
    assistant_dir: Path
    target: Gemma4ForCausalLM
    assistant: Gemma4AssistantForCausalLM


def make_pair(kind: str, folder: Path, seed: int = 0) -> RandomPair:
    """Draws the pair of a kind ("e2b", "moe", "dense") and saves its assistant as a checkpoint under `folder`."""
    torch.manual_seed(seed)
    shape = KINDS[kind]
    types = ["full_attention" if shape.is_full(i) else "sliding_attention" for i in range(shape.n_layer)]
    heads = {
        "vocab_size": shape.n_vocab,
        "num_key_value_heads": shape.n_head_kv,
        "num_global_key_value_heads": shape.n_head_kv_full,
        "attention_k_eq_v": shape.v_is_k,
        "head_dim": shape.head_size,
        "global_head_dim": shape.head_size_full,
        "sliding_window": shape.window,
        "max_position_embeddings": shape.context_length,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    target = Gemma4ForCausalLM(
        Gemma4TextConfig(
            hidden_size=shape.n_embd,
            intermediate_size=shape.n_ff,
            num_hidden_layers=shape.n_layer,
            num_attention_heads=shape.n_head,
            layer_types=types,
            num_kv_shared_layers=shape.n_shared,
            use_double_wide_mlp=shape.n_ff_shared is not None,
            hidden_size_per_layer_input=shape.n_ple,
            vocab_size_per_layer_input=shape.n_vocab,
            final_logit_softcapping=30.0,
            enable_moe_block=shape.n_expert > 0,
            num_experts=shape.n_expert or None,
            top_k_experts=shape.n_expert_used or None,
            moe_intermediate_size=shape.n_ff_expert or None,
            **heads,
        )
    )
    text = Gemma4TextConfig(
        hidden_size=shape.assistant_n_embd,
        intermediate_size=shape.assistant_n_ff,
        num_hidden_layers=4,
        num_attention_heads=shape.assistant_n_head,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        num_kv_shared_layers=4,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        **heads,
    )
    assistant = Gemma4AssistantForCausalLM(
        Gemma4AssistantConfig(
            text_config=text,
            backbone_hidden_size=shape.n_embd,
            use_ordered_embeddings=shape.n_centroids > 0,
            num_centroids=shape.n_centroids or 1,
            centroid_intermediate_top_k=shape.centroid_top_k,
        )
    )
    for model in (target, assistant):
        _draw(model)
        model.float().eval().set_attn_implementation("eager")
    _relate(target, assistant)
    assistant_dir = folder / f"{kind}-assistant"
    assistant.save_pretrained(assistant_dir)
    write_tokenizer(assistant_dir, shape.n_vocab)
    return RandomPair(shape, assistant_dir, target, assistant)


@torch.no_grad()
def _draw(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("q_norm.weight"):
            parameter.fill_(1.5 / parameter.shape[0] ** 0.5)
        elif "embed_tokens" in name:
            parameter.normal_(0, 0.25)
        elif "post" in name and parameter.dim() == 1:
            parameter.uniform_(0.2, 0.5)  # what a layer adds to the residual stream
        elif parameter.dim() == 1:
            parameter.uniform_(0.7, 1.3)
        else:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.uniform_(0.7, 1.3)


@torch.no_grad()
def _relate(target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM) -> None:
    """Gives the target's map from token to token to the assistant, which is narrower: most of the map is in as many
    dimensions of the embedding as it has.
    """
    last_norm = target.model.norm.weight
    last_norm *= torch.randint(0, 2, last_norm.shape) * 2 - 1
    embedding = target.get_input_embeddings().weight
    n_embd, width = embedding.shape[1], assistant.lm_head.weight.shape[1]
    embedding[:, width:] *= 0.2
    rotation = torch.linalg.qr(torch.randn(width, width)).Q
    projection = torch.cat([rotation, torch.zeros(n_embd - width, width)])
    assistant.pre_projection.weight[:, :n_embd] = projection.T
    assistant.lm_head.weight.copy_(embedding * last_norm @ projection)
    if assistant.config.use_ordered_embeddings:
        _cluster(assistant.lm_head.weight, assistant.masked_embedding)


@torch.no_grad()
def _cluster(rows: torch.Tensor, masked: torch.nn.Module) -> None:
    """Fills the centroid head: equal clusters of rows that point about the same way, each with its mean as centroid."""
    centroids = masked.centroids.weight
    size = rows.shape[0] // centroids.shape[0]
    free = torch.randperm(rows.shape[0])
    clusters = []
    for centroid in centroids:
        alike = torch.argsort(rows[free] @ rows[free[0]], descending=True)
        clusters.append(free[alike[:size]])
        centroid.copy_(rows[clusters[-1]].mean(0))
        free = free[alike[size:]]
    masked.token_ordering.copy_(torch.cat(clusters).reshape(masked.token_ordering.shape))
