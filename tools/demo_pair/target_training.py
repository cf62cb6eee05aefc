"""Trains the target on next tokens until its time is up."""

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

# (share of the time at which it begins, rows, length). Long rows last: they teach the unrotated dimensions of the
# full layers to reach far, at little cost.
PHASES = [(0.0, 16, 256), (0.6, 8, 512), (0.92, 2, 2048)]
COMPILED_LENGTHS = (256, 512)  # a compilation takes a minute, too long for the last phase


def next_token_loss(target, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of ids [rows, length + 1]."""
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = models.target_states(target, ids[:, :-1])
        logits = models.target_logits(target, states)
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def unseen_loss(target, corpus: Corpus, rows: int = 32) -> float:
    losses = [next_token_loss(target, part) for part in torch.from_numpy(corpus.unseen_windows(rows, 256)).split(8)]
    return float(torch.stack(losses).mean())


def train_target(target, corpus: Corpus, minutes: float, save: Callable[[], None], log: pathlib.Path) -> None:
    """Trains in place. Calls `save` every four minutes and writes one line a half minute to `log`."""
    target.set_attn_implementation(attention.NAME)
    target.model.compile(dynamic=False)
    target.train()
    rng = np.random.default_rng(5)
    optimizer = Optimizer(target, minutes, muon_lr=0.02, embedding_lr=2e-3, norm_lr=1e-3)
    tokens = steps = 0
    recent: list[float] = []
    logged = saved = time.monotonic()
    with log.open("a") as lines:
        while (progress := optimizer.progress) < 1.0:
            _, rows, length = max(phase for phase in PHASES if phase[0] <= progress)
            ids = torch.from_numpy(corpus.batch(rng, rows, length))
            with torch.compiler.set_stance("default" if length in COMPILED_LENGTHS else "force_eager"):
                loss = next_token_loss(target, ids)
                loss.backward()
            optimizer.step()
            recent.append(loss.item())
            tokens, steps, now = tokens + rows * length, steps + 1, time.monotonic()
            if now - logged > 30:
                with torch.compiler.set_stance("force_eager"):
                    unseen = unseen_loss(target, corpus)
                text = f"{progress:.3f} step {steps} tokens {tokens} loss {np.mean(recent):.3f} unseen {unseen:.3f}"
                print(text, file=lines, flush=True)
                recent, logged = [], time.monotonic()
            if now - saved > 240:
                save()
                saved = time.monotonic()
    torch.compiler.set_stance("force_eager")
    target.eval()
    save()
