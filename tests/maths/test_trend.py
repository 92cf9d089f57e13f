"""Trend over β within seeds, against SciPy, every order listed, and arithmetic."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from betastar.maths.trend import holm, inflation, page_trend, slope_within, spearman_within, trend_test

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
        ([[1.0, 2, 3]], "Page's L needs two seeds and three values of β (seeds: 1, values of β: 3)"),
        ([[1.0, 2], [1, 2]], "Page's L needs two seeds and three values of β (seeds: 2, values of β: 2)"),
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


# --- the correction for a spread that changes with β ------------------------------------------------------------------


def test_inflation_against_a_simulation():
    """Page's L of tables whose spread grows fivefold over five columns, and 25-fold over seven."""
    rng = np.random.default_rng(0)
    for n_beta, ratio in ((5, 5.0), (7, 25.0)):
        values = rng.normal(size=(60_000, n_beta))
        scores = [
            (v.argsort(axis=1).argsort(axis=1) @ np.arange(n_beta)).var()
            for v in (values, values * np.geomspace(1, ratio, n_beta))
        ]
        assert float(inflation(np.log(ratio), n_beta)) == pytest.approx(scores[1] / scores[0], rel=0.02)
        assert float(inflation(-np.log(ratio), n_beta)) == float(inflation(np.log(ratio), n_beta))
    assert float(inflation(0.0, 5)) == 1


def test_equal_spreads_leave_pages_p_nearly_as_it_is_and_never_lower_it():
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = trend_test(rng.normal(size=(4, 5)) + np.linspace(0, 1, 5))
        assert found.p_two_sided >= found.page.p_two_sided - 1e-12
        assert found.p_two_sided <= found.page.p_two_sided + 0.06
    same = trend_test([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [0.0, 1.0, 2.0]])  # no residual: nothing to correct
    assert (same.spread_ratio, same.inflation) == (1.0, 1.0)
    assert same.p_two_sided == pytest.approx(2 / 216)


def test_spread_ratio_finds_the_spread_that_made_the_data():
    rng = np.random.default_rng(2)
    table = rng.normal(size=(400, 6)) * np.geomspace(1, 5, 6) + rng.normal(0, 3, (400, 1)) + np.arange(6)
    assert trend_test(table).spread_ratio == pytest.approx(5, rel=0.1)


def test_an_undefined_trend_has_pages_reason():
    found = trend_test([[1.0, 2.0, 3.0]])
    assert np.isnan([found.p_two_sided, found.inflation, found.spread_ratio]).all()
    assert found.page.reason == "Page's L needs two seeds and three values of β (seeds: 1, values of β: 3)"


@pytest.mark.parametrize(("seeds", "betas"), [(3, 7), (5, 5)])
def test_the_correction_keeps_the_level_where_the_spread_grows_fivefold(seeds, betas):
    rng, repeats = np.random.default_rng(3), 1500
    tables = rng.normal(size=(repeats, seeds, betas)) * np.geomspace(1, 5, betas)
    share = np.mean([trend_test(table).p_two_sided <= 0.05 for table in tables])
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_holm_by_hand():
    # Sorted 0.01·3, 0.03·2, 0.04·1 → 0.03, 0.06, and never below the one before: 0.06. NaN does not count.
    assert holm([0.01, np.nan, 0.04, 0.03]) == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0
