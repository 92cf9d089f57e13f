"""Divergence, ranking and variety of answers, against closed forms, enumeration and SciPy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from betastar.maths.answers import distinct_bigrams, divergence, ranking


def test_both_estimators_have_the_divergence_as_their_mean() -> None:
    """π = (0.7, 0.2, 0.1) and π_ref uniform: KL = Σ π log 3π = 0.2968 nats. Every answer in proportion to π."""
    policy = np.array([0.7, 0.2, 0.1])
    d = np.repeat(np.log(3 * policy), [70, 20, 10])
    found = divergence(d[:, None])
    kl = float(policy @ np.log(3 * policy))
    assert found.k1 == pytest.approx(kl, abs=1e-12)
    assert found.k3 == pytest.approx(kl, abs=1e-12)  # Σ π exp(−d) = Σ π_ref = 1
    assert found.error == pytest.approx(stats.sem(d))


def test_the_error_counts_problems_not_answers() -> None:
    """Two answers that say the same are one observation: 0.5 for problem 1, 1.5 for problem 2."""
    single, double = divergence([[0.5], [1.5]]), divergence([[0.5, 0.5], [1.5, 1.5]])
    assert single.error == double.error == pytest.approx(0.5)  # sd 1/√2 over √2
    assert math.isnan(divergence([[0.1, 0.2]]).error)
    with pytest.raises(ValueError, match=r"\[P, A\]"):
        divergence([0.1, 0.2])


@given(arrays.arrays(float, (3, 2), elements=st.floats(-20, 20)))
def test_k3_is_never_negative(d: np.ndarray) -> None:
    assert divergence(d).k3 >= 0


def test_k3_keeps_what_cancels() -> None:
    """For d = 1e-9, exp(−d) − 1 + d is d²/2 = 5e-19; taken literally in floating point it is 8e-17 or so."""
    assert divergence([[1e-9]]).k3 < 1e-18


@given(arrays.arrays(float, (4, 5), elements=st.sampled_from([0.0, 1.0, 2.0])), arrays.arrays(bool, (4, 5)))
def test_ranking_is_the_mann_whitney_statistic_by_problem(proxy: np.ndarray, right: np.ndarray) -> None:
    areas = [
        stats.mannwhitneyu(p[r], p[~r]).statistic / (r.sum() * (~r).sum())
        for p, r in zip(proxy, right, strict=True)
        if 0 < r.sum() < 5
    ]
    found = ranking(proxy, right)
    assert found == pytest.approx(np.mean(areas)) if areas else math.isnan(found)


def test_pooled_ranking_hides_what_ranking_within_problems_shows() -> None:
    """An easy problem (all scores high, mostly right) and a hard one: within each the proxy is upside down, pooled its
    area is 9 of 16."""
    proxy = [[10, 11, 12, 13], [0, 1, 2, 3]]
    right = [[True, True, True, False], [True, False, False, False]]
    assert ranking(proxy, right) == 0
    flat, truth = np.ravel(proxy), np.ravel(right)
    assert (flat[truth][:, None] > flat[~truth]).mean() == 9 / 16


def test_distinct_bigrams_by_hand() -> None:
    """1 2, 2 1, 1 2 and 2 3: three distinct of four."""
    assert distinct_bigrams([[1, 2, 1, 2], [2, 3], [7]]) == 3 / 4
    assert math.isnan(distinct_bigrams([[7]]))
    long = np.random.default_rng(0).integers(5, size=100).tolist()
    assert distinct_bigrams([long]) == len(set(pairwise(long))) / 99
