"""Muon for the matrices, AdamW for the rest, and one learning-rate schedule that follows the clock.

Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): momentum, then the update is
replaced by the nearest orthogonal matrix (five Newton-Schulz steps). Small models on few tokens gain most from it.
"""

import time

import torch


def orthogonalize(update: torch.Tensor) -> torch.Tensor:
    """The orthogonal matrix nearest to `update` [m, n], by the quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                average = state.setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(weight.grad.lerp(average, group["momentum"]))
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * scale)


class Optimizer:
    """Both optimizers of one model under one schedule: warm up, stay, then fall linearly to nearly zero."""

    def __init__(self, model: torch.nn.Module, minutes: float, muon_lr: float, embedding_lr: float, norm_lr: float):
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        tables = [p for n, p in named.items() if "embed_tokens" in n or "lm_head" in n or "centroids" in n]
        matrices = [p for p in named.values() if p.ndim == 2 and not any(p is t for t in tables)]
        vectors = [p for p in named.values() if p.ndim == 1]
        self._muon = Muon(matrices, lr=muon_lr, weight_decay=0.02)
        self._adam = torch.optim.AdamW(
            [{"params": tables, "lr": embedding_lr}, {"params": vectors, "lr": norm_lr}],
            betas=(0.9, 0.97), weight_decay=0.0, fused=True,
        )  # fmt: skip
        self._groups = [(g, g["lr"]) for o in (self._muon, self._adam) for g in o.param_groups]
        self._start, self._seconds = time.monotonic(), 60 * minutes
        self._params = list(named.values())

    @property
    def progress(self) -> float:
        """Share of the time budget used, 1.0 and more when it is spent."""
        return (time.monotonic() - self._start) / self._seconds

    def step(self) -> None:
        progress = self.progress
        factor = min(1.0, progress / 0.03, max(0.01, (1.0 - progress) / 0.6))
        for group, lr in self._groups:
            group["lr"] = lr * factor
        torch.nn.utils.clip_grad_norm_(self._params, 1.0)
        self._muon.step()
        self._adam.step()
        for weight in self._params:
            weight.grad = None
