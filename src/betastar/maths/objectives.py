"""Losses and the quantities in them: one value per example or per condition, on torch tensors.

Shapes: C conditions, B rows (or pairs) of a condition's batch. Log-probabilities are sums over response tokens, nats.
Offline objectives turn a batch of `Pairs` and a strength into one loss per pair; `maths/methods.py` lists them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from betastar.maths.constants import EPSILON

NOISE_FACTOR = 3  # times the noise of log-ratios, under which Eq. 10 takes no penalty


LARGEST_LOG_RATIO = 20.0  # in χPO's exp: e²⁰ is far beyond its clip, and e⁸⁹ beyond float32


class Pairs(NamedTuple):
    """What an offline objective sees of a batch of preference pairs, each `[C, B]`.

    `chosen`, `rejected`: log π of the responses; `reference_chosen`, `reference_rejected`: the same under π_ref.
    `chosen_tokens`, `rejected_tokens`: their lengths. `mismatch`: z₀ of KTO for each condition's whole batch, or 0 for
    objectives that do not use it.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    mismatch: Tensor

    @property
    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """Δw and Δl: log π/π_ref of the chosen and the rejected response."""
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected

    @property
    def per_token(self) -> tuple[Tensor, Tensor]:
        """ȳw and ȳl: mean log π per response token."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens


def dpo(pairs: Pairs, beta: Tensor) -> Tensor:
    """-log σ(β(Δw - Δl)) (arXiv:2606.30627 Eq. 1)."""
    return dpo_loss(implicit_reward_margin(*pairs[:4], beta))


def ipo(pairs: Pairs, tau: Tensor) -> Tensor:
    """(Δw/|w| - Δl/|l| - 1/(2τ))², log-ratios averaged over tokens as in TRL (arXiv:2310.12036 Eq. 17)."""
    chosen, rejected = pairs.log_ratios
    return (chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens - 1 / (2 * tau)).square()


def cdpo(pairs: Pairs, beta: Tensor, epsilon: float) -> Tensor:
    """(1 - ε)·L(β) + ε·L(-β): DPO's loss where a share ε of the labels is wrong (Mitchell 2023)."""
    margin = implicit_reward_margin(*pairs[:4], beta)
    return (1 - epsilon) * dpo_loss(margin) + epsilon * dpo_loss(-margin)


def rdpo(pairs: Pairs, beta: Tensor, epsilon: float) -> Tensor:
    """((1 - ε)·L(β) - ε·L(-β))/(1 - 2ε): DPO's loss on clean labels, estimated without bias from labels of which a
    share ε is wrong (arXiv:2403.00409)."""
    margin = implicit_reward_margin(*pairs[:4], beta)
    return ((1 - epsilon) * dpo_loss(margin) - epsilon * dpo_loss(-margin)) / (1 - 2 * epsilon)


def orpo(pairs: Pairs, weight: Tensor) -> Tensor:
    """-ȳw - λ·log σ(logit e^ȳw - logit e^ȳl) (arXiv:2403.07691 Eq. 4 and 7).

    Departure from TRL, whose likelihood term is over prompt and response and averages over all tokens of a batch: this
    one is the response's, per token, so that a pair's loss does not depend on the rest of its batch.
    """
    chosen, rejected = pairs.per_token
    log_odds = (chosen - log1mexp(chosen)) - (rejected - log1mexp(rejected))
    return -chosen - weight * F.logsigmoid(log_odds)


def simpo(pairs: Pairs, beta: Tensor, gamma_over_beta: float) -> Tensor:
    """-log σ(β(ȳw - ȳl) - γ), with γ/β fixed over a grid of β, as its authors tune it (arXiv:2405.14734)."""
    chosen, rejected = pairs.per_token
    return -F.logsigmoid(beta * (chosen - rejected - gamma_over_beta))


def kto(pairs: Pairs, beta: Tensor, desirable: float, undesirable: float) -> Tensor:
    """λ_D(1 - σ(β(Δw - z₀))) + λ_U(1 - σ(β(z₀ - Δl))) (arXiv:2402.01306 Eq. 7), the sum over the two examples that a
    pair is; TRL's mean over examples is half the mean of this over pairs."""
    (chosen, rejected), z = pairs.log_ratios, pairs.mismatch
    return desirable * torch.sigmoid(-beta * (chosen - z)) + undesirable * torch.sigmoid(-beta * (z - rejected))


def chipo(pairs: Pairs, beta: Tensor, bound: float) -> Tensor:
    """-log σ(clip(β(φ(e^Δw) - φ(e^Δl)), ±2R)) with φ(z) = z + log z (arXiv:2407.13399). A pair whose margin
    is clipped has no gradient. Departure: Δ is at most `LARGEST_LOG_RATIO` inside exp, so that nothing overflows."""
    chosen, rejected = (d.clamp(max=LARGEST_LOG_RATIO).exp() + d for d in pairs.log_ratios)
    return -F.logsigmoid((beta * (chosen - rejected)).clamp(-2 * bound, 2 * bound))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x ≤ 0, accurate at both ends: e^x is not close to 1 in one branch, nor to 0 in the other. -∞ at
    x = 0, where a gradient is undefined, so x is kept a rounding error below."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    small = x > -0.6931471805599453
    # Each branch sees harmless numbers where the other counts: `where` would pass NaN gradients on.
    return torch.where(
        small, torch.log(-torch.expm1(x.where(small, -1.0))), torch.log1p(-torch.exp(x.where(~small, -1.0)))
    )


def batch_beta(beta: Tensor, gap: Tensor, mean_gap: Tensor, slope: float) -> Tensor:
    """β-DPO's β₀(1 + a(M̄ - M₀)), at least 10⁻³: larger for a batch whose mean gap M̄ = mean(Δw - Δl) is above its
    running mean M₀ (arXiv:2407.08639; the gap without β and the bound are those of its code)."""
    return (beta * (1 + slope * (gap - mean_gap))).clamp(min=1e-3)


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
