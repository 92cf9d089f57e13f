"""Trend over β within seeds, against SciPy, every order listed, and arithmetic."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from betastar.maths.trend import page_trend, slope_within, spearman_within

tables = st.integers(2, 3).flatmap(
    lambda seeds: st.integers(3, 4).flatmap(
        lambda betas: st.lists(
            st.lists(st.integers(0, 3), min_size=betas, max_size=betas), min_size=seeds, max_size=seeds
        )
    )
)


def test_page_of_three_ordered_seeds_by_hand():
    # L = 3·(1·1 + 2·2 + 3·3) = 42, the largest; each seed is in order with probability 1/6, so p = 1/216, and as many
    # data sets are in the reverse order.
    result = page_trend([[1.0, 2, 3], [0, 5, 6], [7, 8, 9]])
    assert result.L == 42
    assert result.p_greater == pytest.approx(1 / 216)
    assert result.p_two_sided == pytest.approx(2 / 216)
    assert result.p_less == pytest.approx(1)
    assert (result.n_seeds, result.n_beta, result.method, result.reason) == (3, 3, "exact", None)


def test_page_of_falling_seeds_is_the_mirror():
    rising, falling = page_trend([[1.0, 2, 4], [5, 9, 7]]), page_trend([[4.0, 2, 1], [7, 9, 5]])
    assert falling.p_less == pytest.approx(rising.p_greater)
    assert falling.p_two_sided == pytest.approx(rising.p_two_sided)
    # L of a seed and of its reverse add up to n(n + 1)²/2 = 24, for two seeds 48.
    assert falling.L == 48 - rising.L


@given(seed=st.integers(0, 10_000), shape=st.tuples(st.integers(2, 6), st.integers(3, 7)))
@settings(max_examples=25, deadline=None)
def test_page_agrees_with_scipy_where_there_are_no_ties(seed, shape):
    data = np.random.default_rng(seed).normal(size=shape)
    result = page_trend(data)
    rising, falling = (stats.page_trend_test(data[:, ::way], method="exact") for way in (1, -1))
    assert rising.statistic == result.L
    assert result.p_greater == pytest.approx(rising.pvalue)
    assert result.p_less == pytest.approx(falling.pvalue)


@given(data=tables)
@settings(max_examples=30, deadline=None)
def test_page_counts_ties_as_listing_every_order_does(data):
    ranks = [stats.rankdata(row) for row in data]
    place = np.arange(1, len(data[0]) + 1)
    seen = sum(float(r @ place) for r in ranks)
    possible = [[float(np.array(order) @ place) for order in permutations(r)] for r in ranks]
    every = np.array([sum(chosen) for chosen in product(*possible)])
    centre = len(data) * len(place) * (len(place) + 1) ** 2 / 4
    result = page_trend(data)
    assert pytest.approx(seen) == result.L
    assert result.p_greater == pytest.approx(np.mean(every >= seen - 1e-9))
    assert result.p_less == pytest.approx(np.mean(every <= seen + 1e-9))
    assert result.p_two_sided == pytest.approx(np.mean(abs(every - centre) >= abs(seen - centre) - 1e-9))


def test_page_of_ten_columns_is_scipys():
    data = np.random.default_rng(1).normal(size=(3, 10)) + np.arange(10) / 5
    result, theirs = page_trend(data), stats.page_trend_test(data)
    assert (result.L, result.p_greater) == (theirs.statistic, pytest.approx(theirs.pvalue))
    assert result.method.startswith("SciPy")
    assert result.p_two_sided == pytest.approx(2 * result.p_greater)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([[1.0, 2, 3]], "Page's L needs two seeds and three values of β, there are 1 and 3"),
        ([[1.0, 2], [1, 2]], "Page's L needs two seeds and three values of β, there are 2 and 2"),
        ([[1.0, 2, np.nan], [1, 2, 3]], "undefined in 1 of 2 seeds"),
    ],
)
def test_undefined_page_is_nan_with_a_reason(data, reason):
    result = page_trend(data)
    assert np.isnan([result.L, result.p_greater, result.p_less, result.p_two_sided]).all()
    assert result.reason == reason


def test_page_refuses_what_is_no_table():
    with pytest.raises(ValueError, match=r"\[S, B\]"):
        page_trend([1.0, 2.0, 3.0])


@given(data=st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(deadline=None)
def test_spearman_within_agrees_with_scipy(data):
    found = spearman_within(data)
    for row, rho in zip(data, found, strict=True):
        if np.ptp(row) == 0:
            assert np.isnan(rho)
        else:
            assert rho == pytest.approx(np.asarray(stats.spearmanr(range(4), row))[0])


def test_spearman_within_of_ordered_rows_is_exactly_one():
    assert spearman_within([[1.0, 2, 3], [0, 5, 6], [9, 8, 7]]).tolist() == [1, 1, -1]
    assert np.isnan(spearman_within([[1.0, np.nan, 3]])).all()
    assert np.isnan(spearman_within([[1.0]])).all()


def test_slope_within_by_hand():
    # Per tenfold β: 1, 3, 5 at 0.1, 1, 10 rises by 2.
    assert slope_within([0.1, 1, 10], [[1.0, 3, 5], [4, 4, 4]]) == pytest.approx([2, 0])
    assert np.isnan(slope_within([1.0], [[3.0], [4.0]])).all()


@given(seed=st.integers(0, 1000))
def test_slope_within_agrees_with_numpy(seed):
    rng = np.random.default_rng(seed)
    beta, data = np.sort(rng.uniform(0.01, 10, 5)), rng.normal(size=(3, 5))
    assert slope_within(beta, data) == pytest.approx([np.polyfit(np.log10(beta), row, 1)[0] for row in data])
