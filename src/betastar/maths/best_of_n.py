"""Best-of-n: draw n answers, keep the one that the proxy scores highest. What that gives can be read off N ≥ n answers
per problem without drawing anew, and before any training.

It optimises the proxy by a known distance and with no optimiser at all, so it tells a reward that misleads from an
optimiser that does (Gao, Schulman & Hilton 2023, section 2).
"""

from __future__ import annotations

from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def sizes(samples: int) -> list[int]:
    """The n that are reported of N `samples`: 1, 2, 4, …, and N."""
    return sorted({samples, *(2**k for k in range(samples.bit_length()) if 2**k <= samples)})


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n ‖ policy) in nats: log n − (n − 1)/n (Stiennon et al. 2020, appendix G.3).

    Exact where no two answers have the same proxy, else an upper bound (Beirami et al. 2024).
    """
    return log(n) - (n - 1) / n


def best_of_n(proxy: ArrayLike, reward: ArrayLike, n: int) -> Array:
    """Expected `reward` of the answer with the highest `proxy` among n of the N answers, by problem: `[..., N]` twice →
    `[...]`.

    The mean over all C(N, n) subsets, an unbiased estimate of what n fresh answers give: with answers in the order of
    the proxy, Σ_{i=n..N} C(i−1, n−1)/C(N, n) · reward_(i). Answers that tie are equally likely to be kept. Give the
    proxy as `reward` for the proxy's own rise. Raises ValueError where n is not in 1..N or a proxy is NaN.
    """
    scores, values = np.asarray(proxy, dtype=np.float64), np.asarray(reward, dtype=np.float64)
    if scores.shape != values.shape:
        raise ValueError(f"proxy {scores.shape} and reward {values.shape} need the same shape")
    total = scores.shape[-1]
    if not 1 <= n <= total:
        raise ValueError(f"best of {n} cannot be read off {total} answers")
    if np.isnan(scores).any():
        raise ValueError("a proxy is NaN")
    within = _share_of_subsets_within(total, n)
    weights = np.empty_like(scores)
    for place in np.ndindex(scores.shape[:-1]):
        row = scores[place]
        ordered = np.sort(row)
        below, upto = (np.searchsorted(ordered, row, side) for side in ("left", "right"))
        # The whole weight of a tie, C(i−1, n−1) summed over its ranks, telescopes; its answers share it.
        weights[place] = (within[upto] - within[below]) / (upto - below)
    return (weights * values).sum(axis=-1)


def _share_of_subsets_within(total: int, n: int) -> Array:
    """C(i, n)/C(N, n) for i = 0..N: the share of subsets of size n that lie within the i lowest."""
    i = np.arange(total + 1, dtype=np.float64)[:, None]
    k = np.arange(n)
    return np.clip((i - k) / (total - k), 0, None).prod(axis=1)
