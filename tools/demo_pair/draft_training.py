"""Trains the assistant on the target's own distributions, over several draft steps, until its time is up.

Every row p of a batch is a draft of its own: step i reads token p + i and the state of step i - 1 (the target's at
first), stands at position p + 1 and sees K/V of rows 0..p. Its label is the target's distribution at row p + i.
"""

import pathlib
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

import attention
import models
from data import Corpus
from optimizer import Optimizer

STEPS = 4
STEP_WEIGHTS = (1.0, 0.8, 0.6, 0.5)
ROWS, LENGTH = 16, 256
LABEL_TEMPERATURE = 0.7  # sharper than the target: drafts are its likely tokens
GENERATED_SHARE = 0.4  # of the batches, text that the target wrote itself


@torch.no_grad()
def generate(target, prompts: torch.Tensor, new_tokens: int, temperature: float, seed: int = 11) -> torch.Tensor:
    """prompts [rows, n] -> [rows, n + new_tokens] ids, sampled (temperature 0: greedy), never stopped by <eos>."""
    target.set_attn_implementation("sdpa")
    generator = torch.Generator().manual_seed(seed)
    ids, cache, step = prompts, None, prompts
    for _ in range(new_tokens):
        with torch.autocast("cpu", torch.bfloat16):
            out = target(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = out.past_key_values, out.logits[:, -1].float()
        if temperature:
            step = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        else:
            step = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, step], dim=1)
    return ids


class Labels:
    """What the target says about a batch: ids [rows, length + STEPS + 1], states, K/V and label distributions."""

    @torch.no_grad()
    def __init__(self, target, ids: torch.Tensor):
        self.ids = ids
        with torch.autocast("cpu", torch.bfloat16):
            self.states, self.kv = models.target_states(target, ids[:, :LENGTH])
            logits = models.target_logits(target, self.states)
        self.label = (logits / LABEL_TEMPERATURE).softmax(-1)  # [rows, LENGTH, vocab]: row r is about token r + 1
        chance = logits.softmax(-1)
        drawn = chance.gather(-1, ids[:, 1 : LENGTH + 1, None]).squeeze(-1)
        self.likely = (drawn / chance.amax(-1)).clamp(max=1.0)  # [rows, LENGTH] of token r + 1


def step_loss(assistant, hidden: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the tied head over all tokens, plus that of the centroids over the clusters' masses.

    hidden [n, dim], label [n, vocab] (sums to 1), weight [n]. The second term makes the right clusters rank high.
    """
    head = assistant.masked_embedding
    token_logs = assistant.lm_head(hidden).float().log_softmax(-1)
    cluster_logs = head.centroids(hidden).float().log_softmax(-1)
    mass = label[:, head.token_ordering].unflatten(-1, (head.num_centroids, -1)).sum(-1)
    loss = -(label * token_logs).sum(-1) - 0.5 * (mass * cluster_logs).sum(-1)
    return (loss * weight).sum() / weight.sum()


def draft_loss(assistant, target, labels: Labels) -> torch.Tensor:
    """Weighted sum over the draft steps. A row counts in step i as far as its tokens so far could have been drafted."""
    states, total = labels.states, 0.0
    weight = torch.ones(labels.ids.shape[0], LENGTH)
    for step, share in enumerate(STEP_WEIGHTS, start=1):
        rows = LENGTH - step  # drafts whose label row p + step exists
        if step > 1:
            weight = weight * _shifted(labels.likely, step - 1)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = labels.ids[:, step : step + LENGTH]
            hidden, states = models.draft_step(assistant, target, tokens, states, labels.kv)
            loss = step_loss(
                assistant,
                hidden[:, :rows].flatten(0, 1),
                labels.label[:, step:].flatten(0, 1),
                weight[:, :rows].flatten() + 1e-3,
            )
        total = total + share * loss
    return total / sum(STEP_WEIGHTS)


def _shifted(values: torch.Tensor, by: int) -> torch.Tensor:
    """[rows, n] -> [rows, n] with column c holding column c + by, zero past the end."""
    return functional.pad(values[:, by:], (0, by))


def generated_text(target, corpus: Corpus, batches: int) -> torch.Tensor:
    """[batches * ROWS, LENGTH + STEPS] ids: short prompts of the training text, continued by the target."""
    prompts = torch.from_numpy(corpus.batch(np.random.default_rng(21), batches * ROWS, 23))
    parts = []
    for i, part in enumerate(prompts.split(128)):
        parts.append(generate(target, part, LENGTH + STEPS - part.shape[1], (0.4, 0.7, 0.9)[i % 3], seed=i))
    return torch.cat(parts)


def train_assistant(
    assistant, target, corpus: Corpus, minutes: float, save: Callable[[], None], log: pathlib.Path
) -> None:
    """Trains in place. Calls `save` every four minutes and writes one line a half minute to `log`."""
    started = time.monotonic()
    target.requires_grad_(False).eval()
    own_text = generated_text(target, corpus, batches=max(2, int(2.0 * minutes)))
    used = (time.monotonic() - started) / 60
    for model in (target, assistant):
        model.set_attn_implementation(attention.NAME)
        model.model.compile(dynamic=False)
    rng = np.random.default_rng(9)
    optimizer = Optimizer(assistant, minutes - used, muon_lr=0.02, embedding_lr=2e-3, norm_lr=1e-3)
    steps, recent = 0, []
    logged = saved = time.monotonic()
    with log.open("a") as lines:
        print(f"generated {own_text.numel()} tokens in {used:.1f} minutes", file=lines, flush=True)
        while (progress := optimizer.progress) < 1.0:
            if rng.random() < GENERATED_SHARE:
                ids = own_text[torch.from_numpy(rng.choice(len(own_text), ROWS, replace=False))]
            else:
                ids = torch.from_numpy(corpus.batch(rng, ROWS, LENGTH + STEPS - 1))
            loss = draft_loss(assistant, target, Labels(target, ids))
            loss.backward()
            optimizer.step()
            recent.append(loss.item())
            steps, now = steps + 1, time.monotonic()
            if now - logged > 30:
                print(f"{progress:.3f} step {steps} loss {np.mean(recent):.3f}", file=lines, flush=True)
                recent, logged = [], now
            if now - saved > 240:
                save()
                saved = now
    torch.compiler.set_stance("force_eager")
    assistant.eval()
    save()
