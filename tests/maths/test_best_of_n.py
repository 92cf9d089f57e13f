"""Best-of-n against all subsets, one by one, and against fresh draws."""

from __future__ import annotations

from itertools import combinations
from math import comb, log

import numpy as np
import pytest

from betastar.maths.best_of_n import best_of_n, best_of_n_kl, sizes

N = 7


def over_all_subsets(proxy: np.ndarray, reward: np.ndarray, n: int) -> float:
    """The mean reward of the best of every subset of size n; of a tie, the mean of those that tie."""
    best = []
    for subset in combinations(range(len(proxy)), n):
        scores = proxy[list(subset)]
        best.append(reward[list(subset)][scores == scores.max()].mean())
    return float(np.mean(best))


@pytest.mark.parametrize("n", range(1, N + 1))
@pytest.mark.parametrize("levels", [1000, 3, 1])
def test_it_is_the_mean_over_all_subsets(n: int, levels: int) -> None:
    """With many levels of the proxy there are no ties, with three many, with one nothing else."""
    rng = np.random.default_rng(n)
    proxy, reward = rng.integers(levels, size=(5, N)).astype(float), rng.normal(size=(5, N))
    expected = [over_all_subsets(p, r, n) for p, r in zip(proxy, reward, strict=True)]
    np.testing.assert_allclose(best_of_n(proxy, reward, n), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(best_of_n(-proxy, reward, n), [over_all_subsets(-p, r, n) for p, r in zip(
        proxy, reward, strict=True)], rtol=1e-12, atol=1e-12)  # fmt: skip


def test_the_formula_of_the_paper() -> None:
    """Σ_{i=n..N} C(i−1, n−1)/C(N, n) · x_(i), no ties."""
    x = np.sort(np.random.default_rng(0).normal(size=N))
    for n in (1, 3, N):
        expected = sum(comb(i - 1, n - 1) / comb(N, n) * x[i - 1] for i in range(n, N + 1))
        assert best_of_n(x, x, n) == pytest.approx(expected, rel=1e-12)


def test_the_ends() -> None:
    proxy, reward = np.array([[3.0, 1.0, 2.0, 2.0]]), np.array([[0.0, 1.0, 1.0, 0.0]])
    assert best_of_n(proxy, reward, 1) == 0.5  # the mean
    assert best_of_n(proxy, reward, 4) == 0.0  # the one that the proxy likes best is wrong
    assert best_of_n(proxy, proxy, 4) == 3.0
    assert best_of_n(proxy, reward, 3) == pytest.approx(3 / 4 * 0 + 1 / 4 * 1 / 2)  # without the first, the tie


def test_it_is_unbiased() -> None:
    """Binary rewards that the proxy partly knows: the mean of estimates from 8 answers is what 4 fresh ones give."""
    rng = np.random.default_rng(1)
    right = rng.random((40_000, 8)) < 0.4
    proxy = right + rng.normal(size=right.shape)
    estimate = best_of_n(proxy, right, 4)
    fresh = rng.random((40_000, 4)) < 0.4
    kept = np.take_along_axis(fresh, (fresh + rng.normal(size=fresh.shape)).argmax(axis=1)[:, None], axis=1)
    error = np.hypot(estimate.std(), kept.std()) / 200
    assert abs(estimate.mean() - kept.mean()) < 4 * error


def test_the_distance_is_exact_for_a_uniform_proxy() -> None:
    """Best-of-n of a uniform proxy has density n·uⁿ⁻¹; its KL by numerical integration."""
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    for n in (1, 2, 16):
        density = n * u ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(float(np.mean(density * np.log(density))), abs=1e-5)
    assert best_of_n_kl(16) == log(16) - 15 / 16


def test_large_numbers_do_not_overflow() -> None:
    x = np.arange(5000.0)
    assert best_of_n(x, x, 5000) == 4999
    assert best_of_n(x, x, 2500) == pytest.approx(2500 * 5001 / 2501 - 1)  # the expected maximum of 2500 of 0..4999


def test_what_is_reported_and_what_is_refused() -> None:
    assert sizes(16) == [1, 2, 4, 8, 16]
    assert sizes(6) == [1, 2, 4, 6]
    assert sizes(1) == [1]
    with pytest.raises(ValueError, match="best of 4 cannot be read off 3 answers"):
        best_of_n(np.zeros(3), np.zeros(3), 4)
    with pytest.raises(ValueError, match="a proxy is NaN"):
        best_of_n([0, np.nan], [0, 1], 1)
    with pytest.raises(ValueError, match="same shape"):
        best_of_n([0, 1], [0], 1)
