"""Losses and the quantities in them: one value per example or per condition, on torch tensors.

Shapes: C conditions, B rows (or pairs) of a condition's batch. Log-probabilities are sums over response tokens, nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from betastar.maths.constants import EPSILON

NOISE_FACTOR = 3  # times the noise of log-ratios, under which Eq. 10 takes no penalty


def implicit_reward_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: Tensor
) -> Tensor:
    """β·log(π/π_ref) of the chosen response minus that of the rejected one, the logit of arXiv:2606.30627 Eq. 1."""
    return beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))


def dpo_loss(margin: Tensor) -> Tensor:
    """-log σ(margin), one value per pair; `margin` from `implicit_reward_margin` (arXiv:2606.30627 Eq. 1)."""
    return -F.logsigmoid(margin)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log σ(r_chosen - r_rejected), one value per pair (arXiv:2606.30627 Eq. 5)."""
    return -F.logsigmoid(chosen - rejected)


def advantage(reward: Tensor) -> Tensor:
    """(r - mean r) / (std r + ε) over each condition's batch, `[C, B]` → `[C, B]` (arXiv:2606.30627 Eq. 9).

    The standard deviation has B in the denominator, so that it is defined (zero) for a batch of one.
    """
    # The mean of equal numbers need not be that number to the last bit, and ε is too small to hide the difference.
    equal = reward.amax(dim=-1, keepdim=True) == reward.amin(dim=-1, keepdim=True)
    centred = (reward - reward.mean(dim=-1, keepdim=True)).masked_fill(equal, 0.0)
    return centred / (reward.std(dim=-1, keepdim=True, correction=0) + EPSILON)


def kl_coefficient(log_ratio: Tensor, beta: Tensor, percentile: float, noise: Tensor | float = 0.0) -> Tensor:
    """κ = β / (Q_p(|d|) + ε) of each condition, `d [C, B]`, `beta [C]` → `[C]`, without gradient
    (arXiv:2606.30627 Eq. 10; the paper leaves p open).

    Deviation: κ is 0 where Q_p(|d|) ≤ 3 · `noise`, the size in nats of log-ratios that rounding alone makes of equal
    policies. Eq. 10 divides by them there: at the first step, where d = 0, κ would be β/ε.
    """
    scale = torch.quantile(log_ratio.detach().abs(), percentile / 100, dim=-1)
    return torch.where(scale <= NOISE_FACTOR * noise, 0.0, beta / (scale + EPSILON))


def online_loss(logprob: Tensor, reference_logprob: Tensor, advantages: Tensor, kappa: Tensor) -> Tensor:
    """-mean(Â·log π) + κ·mean(d²) of each condition, d = log π - log π_ref; `[C, B]` and `kappa [C]` → `[C]`
    (arXiv:2606.30627 Eq. 8).

    On responses sampled from π, with Â and κ held fixed, its gradient is on average that of -E[Â] + 2κ·KL(π‖π_ref).
    The gradient of Eq. 8 read literally has the score-function terms E[(κ·d² - Â·log π)·∇log π] besides; they are left
    out, as in any policy gradient. Responses sampled at a temperature other than 1 bias the gradient unless both
    log-probabilities are taken at that temperature, as `token_logprobs` does on request.
    """
    log_ratio = logprob - reference_logprob
    return -(advantages * logprob).mean(dim=-1) + kappa * log_ratio.square().mean(dim=-1)
