"""One optimiser for a stack of conditions: AdamW on stacked weights, gradients clipped condition by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from betastar.errors import BetastarError


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


class NotFiniteError(BetastarError):
    """The gradients of some `conditions` (by place in the stack) are not finite: the training has diverged."""

    def __init__(self, conditions: Sequence[int], norms: Sequence[float]):
        super().__init__(f"The gradient norm of condition {conditions[0]} is {norms[0]:g}; lower the learning rate.")
        self.conditions, self.norms = list(conditions), list(norms)


class StackedOptimiser:
    """AdamW over tensors whose first dimension is the condition. AdamW acts elementwise and clipping per condition, so
    each condition moves exactly as it would alone.

    Its moments are allocated here, so that a stack that does not fit fails before the first step and not within it.
    """

    def __init__(self, weights: Sequence[Tensor], learning_rate: float, weight_decay: float, clip: float):
        self.weights, self.learning_rate, self.clip = list(weights), learning_rate, clip
        # One fused kernel for all weights where the device has it.
        fused = all(w.device.type in ("cpu", "cuda") for w in self.weights)
        self.adam = torch.optim.AdamW(self.weights, lr=learning_rate, weight_decay=weight_decay, fused=fused)
        for weight in self.weights:
            self.adam.state[weight] = {
                "step": torch.zeros((), device=weight.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(weight, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
            }

    def step(self, schedule: float) -> Tensor:
        """Clip, update with `schedule` times the learning rate, clear the gradients; returns the gradient norms `[C]`
        before clipping. Raises NotFiniteError, and changes nothing, where a norm is NaN or infinite."""
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
    """Put weights and moments back as `optimiser_state` gave them, in place where they are allocated."""
    for i, weight in enumerate(adam.param_groups[0]["params"]):
        with torch.no_grad():
            weight.copy_(state[f"weight.{i}"])
        moments = adam.state[weight]
        for name in ("step", "exp_avg", "exp_avg_sq"):
            if f"{name}.{i}" not in state:
                continue
            if name in moments:
                moments[name].copy_(state[f"{name}.{i}"])
            else:
                moments[name] = state[f"{name}.{i}"].to(weight.device)


def clip_by_condition(weights: Sequence[Tensor], most: float) -> Tensor:
    """Scale each condition's gradient to a norm of at most `most`, in place; returns the norms `[C]` before clipping.

    Raises NotFiniteError where one is NaN or infinite. To skip such an update and go on would hide that a condition is
    lost, and report what is left of it as a result.
    """
    grads = [w.grad for w in weights if w.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    lost = (~torch.isfinite(norms)).nonzero()[:, 0].tolist()
    if lost:
        raise NotFiniteError(lost, norms[lost].tolist())
    factor = (most / (norms + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))
    return norms
