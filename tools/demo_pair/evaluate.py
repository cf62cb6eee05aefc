"""The figures of a trained pair: how often the drafts are right, beside a bigram drafter, and whether text loops.

Drafts are chosen as at inference: by the centroid head, among the ids of the best clusters only.
"""

import numpy as np
import torch

import models
from data import VOCAB_SIZE, Corpus
from draft_training import generate
from target_training import unseen_loss

DRAFTS = 4
LENGTH = 256
PROMPT = 40


def bigram_table(corpus: Corpus) -> torch.Tensor:
    """[vocab] the most frequent successor of every token in the target's training text."""
    counts = np.zeros((VOCAB_SIZE, VOCAB_SIZE), dtype=np.int32)
    for stream in (corpus.library, corpus.tests, corpus.chat):
        np.add.at(counts, (stream[:-1], stream[1:]), 1)
    return torch.from_numpy(counts.argmax(1))


def dense_choice(assistant, hidden: torch.Tensor) -> torch.Tensor:
    return assistant.lm_head(hidden).argmax(-1)


@torch.no_grad()
def first_draft_figures(assistant, target, corpus: Corpus, rows: int = 128) -> dict[str, float]:
    """Shares of unseen positions, teacher-forced, in which a drafter's first token is the target's arg-max."""
    bigram = bigram_table(corpus)
    hits = {"first_draft_centroid": [], "first_draft_dense": [], "bigram": [], "target_next_token": []}
    for ids in torch.from_numpy(corpus.unseen_windows(rows, LENGTH)).split(16):
        states, kv = models.target_states(target, ids[:, :LENGTH])
        choice = models.target_logits(target, states).argmax(-1)  # row r: the token after ids[:, r]
        hidden, _ = models.draft_step(assistant, target, ids[:, 1:], states, kv)
        for name, drafted in (
            ("first_draft_centroid", models.centroid_choice(assistant, hidden[:, :-1])),
            ("first_draft_dense", dense_choice(assistant, hidden[:, :-1])),
            ("bigram", bigram[ids[:, 1:LENGTH]]),
        ):
            hits[name].append((drafted == choice[:, 1:]).float().mean())
        hits["target_next_token"].append((choice == ids[:, 1:]).float().mean())
    return {name: float(torch.stack(values).mean()) for name, values in hits.items()}


@torch.no_grad()
def chain_figures(assistant, target, ids: torch.Tensor, choose) -> list[float]:
    """ids [rows, n]: text that the target wrote after PROMPT tokens. Share of its positions in which the first i
    drafted tokens are all the text's, for i = 1..DRAFTS; each draft feeds back its own tokens and states."""
    length = (ids.shape[1] - DRAFTS - 1) // models.WINDOW * models.WINDOW
    right = torch.zeros(DRAFTS)
    count = 0
    for part in ids.split(16):
        states, kv = models.target_states(target, part[:, :length])
        tokens = part[:, 1 : length + 1]
        so_far = torch.ones(len(part), length - PROMPT, dtype=torch.bool)
        for i in range(DRAFTS):
            hidden, states = models.draft_step(assistant, target, tokens, states, kv)
            tokens = choose(assistant, hidden)
            so_far &= (tokens == part[:, i + 2 : i + 2 + length])[:, PROMPT:]
            right[i] += so_far.sum()
        count += so_far.numel()
    return [round(float(share), 4) for share in right / count]


def distinct_4_grams(ids: torch.Tensor) -> float:
    """Mean over rows of different / all runs of four tokens."""
    shares = []
    for row in ids.tolist():
        grams = list(zip(row, row[1:], row[2:], row[3:], strict=False))
        shares.append(len(set(grams)) / len(grams))
    return float(np.mean(shares))


def figures(assistant, target, corpus: Corpus, rows: int = 32) -> dict[str, object]:
    for model in (target, assistant):
        model.float().eval().set_attn_implementation("sdpa")
    result: dict[str, object] = {"target_unseen_loss_nats": unseen_loss(target, corpus)}
    result |= first_draft_figures(assistant, target, corpus)
    result["lead_over_bigram"] = result["first_draft_centroid"] - result["bigram"]
    prompts = torch.from_numpy(corpus.unseen_windows(rows, PROMPT - 1))
    for temperature in (0.0, 0.6, 0.8):
        ids = generate(target, prompts, LENGTH + 8, temperature)
        name = f"temperature_{temperature:g}"
        result[f"accepted_per_position_{name}"] = chain_figures(assistant, target, ids, models.centroid_choice)
        result[f"accepted_per_position_dense_{name}"] = chain_figures(assistant, target, ids, dense_choice)
        result[f"distinct_4_grams_{name}"] = distinct_4_grams(ids[:, PROMPT:])
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}


def shortcomings(result: dict) -> list[str]:
    """Which of the figures that a released pair needs are missed, in words. A figure that is absent is not judged."""
    bounds = (
        ("first_draft_centroid", result.get("first_draft_centroid"), 0.55),
        ("first_draft_centroid over bigram", result.get("lead_over_bigram"), 0.15),
        ("distinct_4_grams_temperature_0.8", result.get("distinct_4_grams_temperature_0.8"), 0.5),
    )
    missed = [
        f"{name} is {value:.3f}, needed {least}" for name, value, least in bounds if value is not None and value < least
    ]
    size = result.get("target.gguf", 0) + result.get("assistant.gguf", 0)
    return missed + ([f"both files take {size} bytes, 12 MB allowed"] if size > 12_000_000 else [])
