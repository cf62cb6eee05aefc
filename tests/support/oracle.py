"""The exact drafter, in transformers: the target is run afresh on the accepted prefix, then the assistant steps.

transformers' own assisted generation is no such oracle: after a partial rejection it leaves rejected K/V visible, and
past the sliding window it does not trim the shared K/V.
"""

from dataclasses import dataclass

import numpy as np
import torch

from support.random_pairs import RandomPair
from support.sampling import gumbel


@dataclass(frozen=True, slots=True)
class Draft:
    token: int
    gap: float  # to the runner-up, in logits


@dataclass(frozen=True, slots=True)
class Noise:
    """A sampled draft is the arg-max of logit / temperature + the noise of its position."""

    seed: int
    temperature: float

    def scores(self, logits: np.ndarray, position: int) -> np.ndarray:
        return logits / self.temperature + gumbel(self.seed, position, len(logits))


class Oracle:
    """Float32, eager attention."""

    def __init__(self, pair: RandomPair):
        self.pair = pair

    @torch.no_grad()
    def logits(self, ids: list[int]) -> np.ndarray:
        """The target's logits, float32 [len(ids), n_vocab]."""
        return self.pair.target(torch.tensor([ids])).logits[0].float().numpy()

    @torch.no_grad()
    def drafts(self, ids: list[int], k: int, noise: Noise | None = None) -> list[Draft]:
        """k drafts that continue `ids`, whose last token is not in the target's cache yet: greedy ones, or drawn under
        `noise` from the candidates of the head. len(ids) >= 2.
        """
        target, assistant = self.pair.target, self.pair.assistant
        out = target(torch.tensor([ids[:-1]]), output_hidden_states=True, return_shared_kv_states=True)
        state = out.hidden_states[-1][:, -1:]  # after the final norm
        shared = dict(out.shared_kv_states)
        visible = self.pair.shape.window - 1  # earlier positions that a sliding query sees
        shared["sliding_attention"] = tuple(x[:, :, -visible:] for x in shared["sliding_attention"])
        position = torch.tensor([[len(ids) - 1]])
        embed = target.get_input_embeddings()
        token, drafts = ids[-1], []
        for index in range(k):
            step = assistant(
                inputs_embeds=torch.cat([embed(torch.tensor([[token]])), state], dim=-1),
                position_ids=position,
                shared_kv_states=shared,
            )
            state = step.last_hidden_state
            scores = step.logits[0, -1].double().numpy()
            if noise is not None:
                candidates = scores > scores.min() if assistant.config.use_ordered_embeddings else np.True_
                scores = np.where(candidates, noise.scores(scores, len(ids) + index), -np.inf)
            runner_up, token = (int(i) for i in np.argsort(scores)[-2:])
            scale = 1.0 if noise is None else noise.temperature
            drafts.append(Draft(token, float(scores[token] - scores[runner_up]) * scale))
        return drafts
