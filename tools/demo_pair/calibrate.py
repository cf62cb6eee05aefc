"""Sets the target's confidence to what unseen text bears out (temperature scaling, Guo et al. 2017, 1706.04599).

The scale goes into the target's final norm, so that no inference code knows of it; the assistant's two projections
take it back, which leaves its drafts as they were.
"""

import torch
from torch.nn import functional

import models
from data import Corpus

SCALES = [0.85 + 0.025 * i for i in range(11)]


@torch.no_grad()
def best_scale(target, corpus: Corpus, rows: int = 96, length: int = 256) -> float:
    """The factor on the target's final state under which unseen text is most likely."""
    ids = torch.from_numpy(corpus.unseen_windows(rows, length))
    states = torch.cat([models.target_states(target, part[:, :-1])[0] for part in ids.split(16)])
    losses = []
    for scale in SCALES:
        parts = [models.target_logits(target, part * scale).flatten(0, 1) for part in states.split(16)]
        losses.append(functional.cross_entropy(torch.cat(parts), ids[:, 1:].flatten()).item())
    return SCALES[losses.index(min(losses))]


@torch.no_grad()
def rescale(target, assistant, scale: float) -> None:
    """Multiplies the target's final state by `scale`; the assistant's drafts stay the same."""
    hidden = target.config.hidden_size
    target.model.norm.weight.mul_(scale)
    assistant.pre_projection.weight[:, hidden:].div_(scale)  # its input is the embedding, then the state
    assistant.post_projection.weight.mul_(scale)
