"""Entropy, ensemble disagreement and distances between embeddings, on torch tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


def entropy(logprobs: Tensor) -> Tensor:
    """Shannon entropy in nats of distributions given as log-probabilities over the last dimension."""
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def gibbs_entropy_slope(log_reference: Tensor, reward: Tensor, beta: Tensor) -> Tensor:
    """∂H/∂β of π ∝ π_ref·exp(r/β): Var(r)/β³ + Cov(r, log π_ref)/β², moments under π.

    Corrects arXiv:2606.30627 Eq. A.4, which assumes a uniform reference and has 1/β² for 1/β³; either sign is
    possible, so Proposition 5.1 (entropy non-increasing in β) does not hold.
    """
    p = (log_reference + reward / beta).softmax(dim=-1)
    centred = reward - (p * reward).sum(dim=-1, keepdim=True)
    variance = (p * centred.square()).sum(dim=-1)
    covariance = (p * centred * log_reference).sum(dim=-1)
    return variance / beta**3 + covariance / beta**2


class EnsembleScore(NamedTuple):
    """`mean` proxy reward and `disagreement` û per row."""

    mean: Tensor
    disagreement: Tensor


def ensemble_score(scores: Tensor) -> EnsembleScore:
    """Mean and standard deviation over the K members, `[K, N]` → two `[N]` (arXiv:2606.30627 Eq. 13: K-1 in the
    denominator, so û of a single member is NaN)."""
    return EnsembleScore(scores.mean(dim=0), scores.std(dim=0, correction=1))


def cosine_distance_to(centroid: Tensor, embeddings: Tensor) -> Tensor:
    """1 - cosine between each embedding `[N, d]` and the centroid `[d]` (arXiv:2606.30627 Eq. 12)."""
    return 1 - F.cosine_similarity(embeddings, centroid[None, :], dim=-1)


def mean_pairwise_cosine_distance(embeddings: Tensor) -> Tensor:
    """Response diversity: mean of 1 - cosine over all pairs of different rows of `[..., N, d]`; NaN for N = 1.

    The sum over pairs is read off the length of the summed unit vectors, so cost and memory are linear in N.
    """
    unit = F.normalize(embeddings, dim=-1)
    n = embeddings.shape[-2]
    squared_length = unit.sum(dim=-2).square().sum(dim=-1)
    pairs = n * (n - 1)
    return 1 - (squared_length - unit.square().sum(dim=(-2, -1))) / (pairs if pairs else float("nan"))
