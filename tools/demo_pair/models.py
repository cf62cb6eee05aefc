"""Shapes of the embedded pair, how its layers start, and the passes that training needs.

Everything E2B has, small: sliding and full layers ending with full, K/V shared by the last layers, per-layer
embeddings, double-wide MLP on the layers that share K/V, logit soft-cap, a centroid head on the assistant.
"""

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
)

import attention
from data import BOS, EOS, TURN_END, VOCAB_SIZE

WINDOW = 64  # tokens a sliding layer sees, the query's own included
NUM_CENTROIDS, CENTROID_TOP_K = 64, 8
COMMON = dict(
    vocab_size=VOCAB_SIZE,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=64,
    global_head_dim=128,
    sliding_window=WINDOW,
    max_position_embeddings=4096,
    bos_token_id=BOS,
    eos_token_id=[EOS, TURN_END],
)


def new_target() -> Gemma4ForCausalLM:
    config = Gemma4TextConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=3,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=32,
        vocab_size_per_layer_input=VOCAB_SIZE,
        final_logit_softcapping=30.0,
        **COMMON,
    )
    model = Gemma4ForCausalLM(config)
    _start(model)
    return model


def new_assistant(target: Gemma4ForCausalLM) -> Gemma4AssistantForCausalLM:
    """An assistant whose embedding is the target's in fewer dimensions and whose clusters are balanced groups of it."""
    text = Gemma4TextConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        num_kv_shared_layers=4,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        **COMMON,
    )
    config = Gemma4AssistantConfig(
        text_config=text,
        backbone_hidden_size=target.config.hidden_size,
        use_ordered_embeddings=True,
        num_centroids=NUM_CENTROIDS,
        centroid_intermediate_top_k=CENTROID_TOP_K,
        eos_token_id=[EOS, TURN_END],
        bos_token_id=BOS,
    )
    model = Gemma4AssistantForCausalLM(config)
    _start(model)
    with torch.no_grad():
        rows = target.lm_head.weight.float()
        rows = rows - rows.mean(0)
        basis = torch.linalg.svd(rows, full_matrices=False)[2][: text.hidden_size]
        small = rows @ basis.T
        model.lm_head.weight.copy_(small / small.std() * 0.05)
        members = balanced_clusters(functional.normalize(rows, dim=1).numpy(), NUM_CENTROIDS)
        model.masked_embedding.token_ordering.copy_(torch.from_numpy(members.reshape(-1)))
        means = model.lm_head.weight[torch.from_numpy(members)].mean(1)
        model.masked_embedding.centroids.weight.copy_(means)
    return model


def _start(model: torch.nn.Module) -> None:
    """Starts the weights in place. Attention scale is 1.0 in Gemma 4: 1 / sqrt(head size) in the norm of the queries
    makes it the usual one at the start. Matrices keep the size of their input, tables are scaled when they are read.
    """
    for name, weight in model.named_parameters():
        if name.endswith("q_norm.weight"):
            torch.nn.init.constant_(weight, weight.numel() ** -0.5)
        elif "embed_tokens_per_layer" in name:
            torch.nn.init.normal_(weight, std=0.1)
        elif "embed_tokens" in name:
            torch.nn.init.normal_(weight, std=0.05)
        elif weight.ndim == 2 and "embed" not in name and "lm_head" not in name:
            torch.nn.init.normal_(weight, std=0.6 * weight.shape[1] ** -0.5)


def balanced_clusters(points: np.ndarray, count: int, rounds: int = 12, seed: int = 3) -> np.ndarray:
    """[n, dim] unit vectors -> [count, n / count] indices: spherical k-means where every cluster has the same size.

    Each round hands out the places of all clusters in order of similarity, the best matches first.
    """
    n = len(points)
    size = n // count
    rng = np.random.default_rng(seed)
    centres = points[rng.choice(n, count, replace=False)]
    for _ in range(rounds):
        similarity = points @ centres.T
        owner = np.full(n, -1)
        room = np.full(count, size)
        for flat in np.argsort(-similarity, axis=None, kind="stable"):
            point, cluster = divmod(int(flat), count)
            if owner[point] < 0 and room[cluster]:
                owner[point] = cluster
                room[cluster] -= 1
        centres = np.stack([points[owner == c].mean(0) for c in range(count)])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True) + 1e-9
    return np.stack([np.flatnonzero(owner == c) for c in range(count)])


def causal_masks(length: int, ahead: int = 0) -> dict[str, torch.Tensor]:
    """Masks of both layer kinds: the query of row p stands at position p + ahead, the keys of rows 0..p are visible."""
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    seen = distance >= 0
    return {"full_attention": seen[None, None], "sliding_attention": (seen & (distance + ahead < WINDOW))[None, None]}


def _masking(model, length: int, ahead: int) -> dict:
    """What a pass needs besides its input: folded attention masks by itself, torch's is given masks."""
    if model.config._attn_implementation == attention.NAME:
        return {"attention_mask": dict.fromkeys(("full_attention", "sliding_attention")), "ahead": ahead}
    return {"attention_mask": causal_masks(length, ahead)}


def target_states(target: Gemma4ForCausalLM, ids: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """ids [rows, length] -> states after the final norm [rows, length, hidden], and the K/V that an assistant reads."""
    masking = _masking(target.model, ids.shape[1], ahead=0)
    out = target.model(ids, use_cache=False, return_shared_kv_states=True, **masking)
    return out.last_hidden_state, dict(out.shared_kv_states)


def target_logits(target: Gemma4ForCausalLM, states: torch.Tensor) -> torch.Tensor:
    cap = target.config.final_logit_softcapping
    return cap * torch.tanh(target.lm_head(states).float() / cap)


def draft_step(assistant, target, tokens, states, kv) -> tuple[torch.Tensor, torch.Tensor]:
    """One draft step of every row p at once: tokens [rows, length] follow the states of the same shape + hidden.

    The position is p + 1 in every step, the K/V visible 0..p. Returns the assistant's normed state, from which its
    head reads logits, and the state handed to the next step.
    """
    length = tokens.shape[1]
    embedded = target.model.embed_tokens(tokens)  # scaled by sqrt(hidden)
    hidden = assistant.model(
        inputs_embeds=assistant.pre_projection(torch.cat([embedded, states.to(embedded.dtype)], dim=-1)),
        position_ids=torch.arange(1, length + 1)[None],
        shared_kv_states=kv,
        use_cache=False,
        **_masking(assistant.model, length, ahead=1),
    ).last_hidden_state
    return hidden, assistant.post_projection(hidden)


def centroid_choice(assistant, hidden: torch.Tensor) -> torch.Tensor:
    """hidden [..., n] -> [...] the token that the centroid head picks: best logit inside the best clusters."""
    head = assistant.masked_embedding
    members = head.token_ordering.view(head.num_centroids, -1)
    logits = assistant.lm_head(hidden)
    best = head.centroids(hidden).topk(head.centroid_intermediate_top_k, dim=-1).indices
    candidates = members[best].flatten(-2)
    return candidates.gather(-1, logits.gather(-1, candidates).argmax(-1, keepdim=True)).squeeze(-1)
