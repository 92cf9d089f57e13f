"""One optimiser for a stack of conditions: AdamW on stacked weights, gradients clipped condition by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def linear_schedule(step: int, total: int, warm_up: int) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up, then linear decay towards zero at `total`."""
    return (step + 1) / warm_up if step < warm_up else (total - step) / max(1, total - warm_up)


def constant_schedule(step: int, warm_up: int) -> float:
    """Share of the learning rate at `step` (from 0): linear warm-up, then constant."""
    return min(1.0, (step + 1) / max(1, warm_up))


def one_cycle_schedule(step: int, total: int, rising: float = 0.15) -> float:
    """Share of the peak learning rate: half a cosine up from 1/25 over the first `rising` of the steps, and down to
    near zero over the rest."""
    peak = rising * total
    if step < peak:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / peak)) / 2
    return 1e-5 + (1 - 1e-5) * (1 + math.cos(math.pi * (step - peak) / (total - peak))) / 2


class StackedOptimiser:
    """AdamW over tensors whose first dimension is the condition. AdamW acts elementwise and clipping per condition, so
    each condition moves exactly as it would alone."""

    def __init__(self, weights: Sequence[Tensor], learning_rate: float, weight_decay: float, clip: float):
        self.weights, self.learning_rate, self.clip = list(weights), learning_rate, clip
        # One fused kernel for all weights where the device has it.
        fused = all(w.device.type in ("cpu", "cuda") for w in self.weights)
        self.adam = torch.optim.AdamW(self.weights, lr=learning_rate, weight_decay=weight_decay, fused=fused)

    def step(self, schedule: float) -> Tensor:
        """Clip, update with `schedule` times the learning rate, clear the gradients; returns the gradient norms `[C]`
        before clipping."""
        norms = clip_by_condition(self.weights, self.clip)
        set_learning_rate(self.adam, self.learning_rate * schedule)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norms


def set_learning_rate(adam: torch.optim.Optimizer, rate: float) -> None:
    for group in adam.param_groups:
        group["lr"] = rate


def optimiser_state(adam: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's weights and moments as a flat mapping, for a checkpoint."""
    state = {}
    for i, weight in enumerate(adam.param_groups[0]["params"]):
        state[f"weight.{i}"] = weight.detach()
        state |= {f"{name}.{i}": value for name, value in adam.state.get(weight, {}).items()}
    return state


def restore_optimiser(adam: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put weights (in place) and moments back as `optimiser_state` gave them."""
    for i, weight in enumerate(adam.param_groups[0]["params"]):
        with torch.no_grad():
            weight.copy_(state[f"weight.{i}"])
        moments = {name: state[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{i}" in state}
        adam.state[weight] = {name: value.to(weight.device) for name, value in moments.items()}


def clip_by_condition(weights: Sequence[Tensor], most: float) -> Tensor:
    """Scale each condition's gradient to a norm of at most `most`, in place; returns the norms `[C]` before clipping.

    A condition whose gradient is not finite has it set to zero, so that nothing spreads to the others.
    """
    grads = [w.grad for w in weights if w.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    finite = torch.isfinite(norms)
    factor = torch.where(finite, (most / (norms + 1e-6)).clamp(max=1.0), torch.zeros_like(norms))
    for g in grads:
        if not bool(finite.all()):
            g[~finite] = 0.0
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))
    return norms
