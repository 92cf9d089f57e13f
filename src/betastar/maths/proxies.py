"""Proxies that an online phase may be trained on: the members of an ensemble brought to one scale, put together, and
shaped.

Shapes: K members, N responses; scores `[K, N]`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def standardised(scores: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Each member's scores less its `mean [K]` over its `std [K]` on validation responses. A Bradley-Terry reward is
    defined up to a constant, and nothing gives members one scale."""
    return (scores - mean[:, None]) / std[:, None]


def aggregate(kind: str, scores: Tensor, weight: float = 1.0) -> Tensor:
    """One reward per response `[N]`.

    `mean` (arXiv:2606.30627 Eq. 13); `single`: the first member; `median`; `min`: worst-case optimisation, `uwo`:
    mean - λ·variance (both Coste et al. 2024, arXiv:2310.02743); `lcb`: mean - λ·sd. K - 1 is in the denominators.
    """
    if kind == "single":
        return scores[0]
    if kind == "median":
        return scores.quantile(0.5, dim=0)
    if kind == "min":
        return scores.amin(dim=0)
    mean = scores.mean(dim=0)
    if kind == "lcb":
        return mean - weight * scores.std(dim=0, correction=1)
    if kind == "uwo":
        return mean - weight * scores.var(dim=0, correction=1)
    return mean


def whitened(reward: Tensor) -> Tensor:
    """(r - mean)/sd over a batch `[B]`, zero where all rewards are equal."""
    if reward.amax() == reward.amin():
        return torch.zeros_like(reward)
    return (reward - reward.mean()) / reward.std(correction=0)


def preference_as_reward(reward: Tensor, reference: Tensor, slope: float) -> Tensor:
    """mean over M of σ(k(r - r_ref)), `[B]`: the chance that a response is preferred to what the reference policy says
    to the same prompt, from rewards `[B]` and those of M reference responses `[B, M]` (PAR, arXiv:2502.18770). Between
    0 and 1, and flat where the response has won."""
    return torch.sigmoid(slope * (reward[:, None] - reference)).mean(dim=1)
