"""How much a network can still learn, in numbers that need no training: ranks of its features, units that have gone
silent, the size of its update, agreement of its gradients. On torch tensors."""

from __future__ import annotations

import torch
from torch import Tensor

DORMANT = 0.025
"""A unit is dormant at or below this share of its layer's mean activity (Sokar et al. 2023)."""


def singular_values(states: Tensor) -> Tensor:
    """Singular values `[..., min(N, d)]` of feature matrices `[..., N, d]`, float64, the largest first.

    From the eigenvalues of the smaller Gram matrix: d can be thousands. In float64 what that loses, values below 1e-8
    of the largest, counts for nothing in a rank. NaN where a feature is not finite, as after training has diverged.
    """
    wide = states.double()
    gram = wide @ wide.mT if wide.shape[-2] <= wide.shape[-1] else wide.mT @ wide
    finite = gram.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    values = torch.linalg.eigvalsh(gram.where(finite, 0.0)).clamp(min=0).sqrt().flip(-1)
    return values.where(finite.squeeze(-1), float("nan"))


def effective_rank(values: Tensor) -> Tensor:
    """exp(H(σ/Σσ)) of singular values `[..., K]`: K where all are equal, 1 where there is one (Roy & Vetterli 2007);
    NaN where all are 0."""
    share = values / values.sum(dim=-1, keepdim=True)
    return torch.special.entr(share).sum(dim=-1).exp()


def stable_rank(values: Tensor) -> Tensor:
    """‖W‖_F²/‖W‖₂² from the singular values `[..., K]` of W, the largest first: at most the rank; NaN where all are
    0."""
    return values.square().sum(dim=-1) / values[..., 0].square()


def is_dormant(activity: Tensor) -> Tensor:
    """Whether each unit of a layer is dormant, `[..., U]`: its mean |activation|, given as `[..., U]`, is at most
    `DORMANT` times the mean over the layer's units (Sokar et al. 2023, definition 3.1). In a silent layer all are."""
    return activity <= DORMANT * activity.mean(dim=-1, keepdim=True)


def update_norm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """‖(α/r) A B‖_F `[C]` of LoRA weights `a [C, d_in, r]` and `b [C, r, d_out]`, without forming A B: ‖A B‖_F² is the
    trace of (AᵀA)(B Bᵀ), two r × r matrices."""
    wide_a, wide_b = a.double(), b.double()
    trace = ((wide_a.mT @ wide_a) * (wide_b @ wide_b.mT)).sum(dim=(-2, -1))
    return scale * trace.clamp(min=0).sqrt()


def mean_pairwise_cosine(gram: Tensor) -> Tensor:
    """Mean cosine over all pairs of different vectors, from their inner products `[..., E, E]`; NaN where one is 0 or
    there is only one. 1: every example asks for the same change; below 0: examples undo one another's."""
    length = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    cosine = gram / (length[..., :, None] * length[..., None, :])
    n = gram.shape[-1]
    off = cosine.sum(dim=(-2, -1)) - cosine.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return (off / (n * (n - 1) if n > 1 else float("nan"))).clamp(-1, 1)  # rounding can leave the range
