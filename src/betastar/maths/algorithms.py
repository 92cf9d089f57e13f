"""Online algorithms as pure functions: advantages of several answers to a prompt, clipped surrogates, length
normalisation, the places of a KL penalty, and what sets its strength.

Shapes: C conditions, B responses of a condition's batch (G to each prompt, those of a prompt beside one another), T
tokens. Log-probabilities in nats. The paper's own choices are in `maths/objectives.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from betastar.maths.objectives import advantage

GRPO_EPSILON = 1e-4  # of TRL, beside the standard deviation


def advantages_of(kind: str, reward: Tensor, answers: int) -> Tensor:
    """Advantages `[C, B]` of rewards `[C, B]`, with `answers` G to each prompt.

    `batch`: Eq. 9, over the whole batch. Within the answers to a prompt: `rloo`, r less the mean of the others
    (arXiv:2402.14740); `grpo`, (r - mean)/(s + 1e-4) with G - 1 in s (arXiv:2402.03300, constants as in TRL);
    `dr_grpo`, r - mean (arXiv:2503.20783). All but `batch` need G ≥ 2.
    """
    if kind == "batch":
        return advantage(reward)
    grouped = reward.unflatten(-1, (-1, answers))
    centred = grouped - grouped.mean(dim=-1, keepdim=True)
    # The mean of equal numbers may differ from them in the last bit, which a tiny s would blow up.
    equal = grouped.amax(dim=-1, keepdim=True) == grouped.amin(dim=-1, keepdim=True)
    centred = centred.masked_fill(equal, 0.0)
    if kind == "rloo":
        centred = centred * (answers / (answers - 1))
    elif kind == "grpo":
        centred = centred / (grouped.std(dim=-1, keepdim=True, correction=1) + GRPO_EPSILON)
    return centred.flatten(-2)


def response_weights(kind: str, lengths: Tensor, limit: int) -> Tensor:
    """What each response's sum over tokens is multiplied by, `[C, B]`, from the responses' `lengths [C, B]`.

    `none`: 1/B, Eq. 8; `response_mean`: 1/(B·length), GRPO; `token_mean`: 1 over all tokens of the batch, DAPO
    (arXiv:2503.14476); `constant`: 1/(B·`limit`), Dr. GRPO, whose constant is the longest response allowed.
    """
    count = lengths.shape[-1]
    if kind == "response_mean":
        return 1 / (count * lengths)
    if kind == "token_mean":
        return (1 / lengths.sum(dim=-1, keepdim=True)).expand(lengths.shape)
    return torch.full_like(lengths, 1 / count if kind == "none" else 1 / (count * limit))


def surrogate(
    logprob: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    by_token: bool,
    low: float | None,
    high: float | None,
) -> Tensor:
    """-min(ρ·Â, clip(ρ, 1 - low, 1 + high)·Â) summed over tokens, `[C, B]`, from token log-probabilities `[C, B, T]` of
    the policy and of the one that sampled, zero where `mask [C, B, T]` is false.

    ρ is their ratio by token, or of whole responses as in RLOO (arXiv:1707.06347 Eq. 7; two bounds as in DAPO, None for
    none). Where the two policies are the same its gradient is that of -Â·log π.
    """
    log_ratio, weight = logprob - old, advantages[..., None]
    ratio = log_ratio.exp() if by_token else log_ratio.sum(dim=-1, keepdim=True).exp()
    clipped = ratio
    if low is not None:
        clipped = clipped.clamp(min=1 - low)
    if high is not None:
        clipped = clipped.clamp(max=1 + high)
    terms = -torch.minimum(ratio * weight, clipped * weight)
    return (terms * mask if by_token else terms).sum(dim=-1)


def k3(logprob: Tensor, reference: Tensor) -> Tensor:
    """e^-d + d - 1 summed over tokens, `[C, B]`, d = log π - log π_ref of tokens `[C, B, T]`: GRPO's KL term.

    On responses from π its mean is KL(π‖π_ref) by token, but its gradient, taken in the loss, is that of the forward
    KL(π_ref‖π): E[(1 - e^-d)·∇log π].
    """
    d = logprob - reference
    return ((-d).exp() + d - 1).sum(dim=-1)


def adapted_coefficient(coefficient: Tensor, kl: Tensor, target: float, horizon: float, count: int) -> Tensor:
    """β·(1 + clip(KL/target - 1, ±0.2)·n/horizon) of each condition after a batch of `count` n responses: the
    controller of Ziegler et al. 2019 (arXiv:1909.08593), which keeps KL near a target."""
    error = (kl / target - 1).clamp(-0.2, 0.2)
    return coefficient * (1 + error * count / horizon)


def coefficient_by_uncertainty(strength: float, start: Tensor, now: Tensor, power: float) -> Tensor:
    """strength·(û₀/û)^p, `[C]`: p = 1 is arXiv:2606.30627 Appendix G (2), less penalty where the ensemble disagrees
    more than at the start; p = -1 is the opposite."""
    return strength * (start / now) ** power
