"""What several answers to the same problem tell: distances to a reference policy, ranking, variety."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Divergence(NamedTuple):
    """KL(π‖π_ref) in nats per response: the mean of log-ratios (`k1`) with its standard error over problems, NaN for a
    single problem; and `k3`."""

    k1: float
    error: float
    k3: float


def divergence(log_ratio: ArrayLike) -> Divergence:
    """KL(π‖π_ref) from d = log π − log π_ref of answers that π itself sampled at temperature 1, `[P, A]` by problem and
    answer.

    k1 is the mean of d, k3 that of exp(−d) − 1 + d (J. Schulman, Approximating KL Divergence, 2020). Both have the KL
    as their mean, since E_π[exp(−d)] = 1 where π can say all that π_ref can; no term of k3 is negative. The error
    treats problems as independent, answers to the same problem not. Raises ValueError unless `log_ratio` is `[P, A]`.
    """
    d = np.asarray(log_ratio, dtype=np.float64)
    if d.ndim != 2 or d.size == 0:
        raise ValueError(f"log-ratios must be [P, A] with P, A > 0, got {d.shape}")
    by_problem = d.mean(axis=1)
    error = float(by_problem.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else nan
    # expm1 keeps what exp(−d) − 1 + d would lose for small d; the minimum is 0, at d = 0.
    return Divergence(float(d.mean()), error, float(np.maximum(np.expm1(-d) + d, 0.0).mean()))


def within_problem_auroc(proxy: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """How well the proxy ranks right over wrong answers to the same problem, `[P]`: the share of pairs of a right and a
    wrong answer in which the right one scores higher, ties half (Mann–Whitney). `proxy`, `truth`: [P, A], NaN where
    there is no answer; an answer is right from a truth of one half. NaN for a problem without both kinds."""
    scores, right = np.asarray(proxy, dtype=np.float64), np.asarray(truth, dtype=np.float64) >= 0.5
    known = ~(np.isnan(scores) | np.isnan(np.asarray(truth, dtype=np.float64)))
    pairs = (right & known)[:, :, None] & (~right & known)[:, None, :]
    better = (scores[:, :, None] > scores[:, None, :]) + 0.5 * (scores[:, :, None] == scores[:, None, :])
    counts = pairs.sum(axis=(1, 2))
    return np.divide((better * pairs).sum(axis=(1, 2)), counts, out=np.full(len(scores), nan), where=counts > 0)


def ranking(proxy: ArrayLike, right: ArrayLike) -> float:
    """`within_problem_auroc`, mean over the problems that have right and wrong answers; NaN where none has.

    `proxy`, `right`: `[P, A]`. Raises ValueError for other shapes.
    """
    scores, truth = np.asarray(proxy, dtype=np.float64), np.asarray(right, dtype=bool)
    if scores.ndim != 2 or scores.shape != truth.shape:
        raise ValueError(f"proxy and right must both be [P, A], got {scores.shape} and {truth.shape}")
    areas = within_problem_auroc(scores, truth)
    both = ~np.isnan(areas)
    return float(areas[both].mean()) if both.any() else nan


def distinct_bigrams(answers: Sequence[Sequence[int]]) -> float:
    """Distinct pairs of neighbouring tokens over all such pairs of all answers (distinct-2, Li et al. 2016,
    arXiv:1510.03055). It falls as answers get longer or more numerous: compare it at equal numbers of answers. NaN
    where no answer has two tokens."""
    pairs = [pair for tokens in answers for pair in pairwise(tokens)]
    return len(set(pairs)) / len(pairs) if pairs else nan
