"""Which β to choose, against tabled and integrated quantiles, arithmetic, and simulated coverage."""

from math import sqrt
from typing import Any

import numpy as np
import pytest
from scipy import stats

from betastar.maths.choice import (
    best_columns,
    dunnett_quantile,
    problem_variance,
    spread_of_means,
    widened,
)
from betastar.maths.statistics import Interval


@pytest.mark.parametrize(
    ("k", "freedom", "printed"),
    # Dunnett (1955), Table 1a, one-sided, 5 %: k − 1 treatments against a control.
    [(2, 5, 2.02), (3, 5, 2.44), (4, 5, 2.68), (3, 10, 2.15), (6, 10, 2.56), (4, 20, 2.19), (3, 10**6, 1.92)],
)
def test_dunnetts_table(k, freedom, printed):
    assert dunnett_quantile(k, freedom) == pytest.approx(printed, abs=0.006)


@pytest.mark.parametrize(("k", "freedom"), [(2, 2), (4, 8), (7, 24)])
def test_dunnetts_quantile_against_scipys_multivariate_t(k, freedom):
    shape = np.full((k - 1, k - 1), 0.5) + 0.5 * np.eye(k - 1)
    reached = np.full(k - 1, dunnett_quantile(k, freedom))
    distribution: Any = stats.multivariate_t
    assert distribution(shape=shape, df=freedom).cdf(reached, random_state=0) == pytest.approx(0.95, abs=1e-3)


def test_the_best_by_hand():
    # Seeds differ by 10 and 20, and each residual is ±1 in a pattern without seed or column mean.
    noise = np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0]])
    table = np.array([[0.0], [10.0], [20.0]]) + np.array([30.0, 10.0, 29.0]) + noise
    found = best_columns(table)
    # Residual sum of squares 4 on 4 degrees of freedom: pooled variance of a difference 2. The difference 1 − 2 is
    # −1 + (1, −1, 0): variance 1 < 2. So SE = √(2/3).
    reach = dunnett_quantile(3, 4) * sqrt(2 / 3)
    assert found.best == 0
    assert found.candidates.tolist() == [True, False, True]
    assert found.behind == pytest.approx([-1, 20, 1])
    assert (found.low[2], found.high[2]) == pytest.approx((1 - reach, 1 + reach))
    assert (found.lead, *found.lead_interval[:2]) == pytest.approx((1, 1 - reach, 1 + reach))
    # columns 0 and 1: 20 + (2, −2, 0), variance 4 > 2: SE = √(4/3)
    assert found.high[1] == pytest.approx(20 + dunnett_quantile(3, 4) * sqrt(4 / 3))


def test_shared_variance_enlarges_the_set():
    table = np.array([[0.0, 1.0, 5.0], [0.1, 1.2, 5.1], [0.0, 0.9, 5.2], [0.05, 1.1, 4.9]])
    assert best_columns(table).candidates.tolist() == [False, False, True]
    assert best_columns(table, shared_variance=16.0).candidates.tolist() == [True, True, True]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ([[1.0, 2.0]], "cannot be said: it takes 3 seeds that have every β, there are 1"),
        ([[1.0, 2.0], [3.0, 4.0]], "cannot be said: it takes 3 seeds that have every β, there are 2"),
        ([[1.0], [2.0], [3.0]], "there is only one β"),
        ([[1.0, np.nan]] * 3, "undefined in 3 of 3 seeds"),
    ],
)
def test_where_no_choice_can_be_said(table, reason):
    found = best_columns(table)
    assert (found.best, found.reason) == (None, reason)
    assert found.candidates.all()
    assert np.isnan(found.lead)


def test_seeds_that_agree_exactly_leave_only_the_best():
    found = best_columns([[0.0, 1.0, 1.0]] * 3)
    assert found.candidates.tolist() == [False, True, True]
    assert found.lead == 0


@pytest.mark.parametrize("shift", [0.0, 1 / 3, 1e6 / 3])
def test_seeds_that_agree_but_for_rounding_have_no_interval(shift):
    table = np.array([[0.1, 0.2, 0.7]] * 4) * 100 + shift
    table[1] *= 1 + 1e-15
    table[2] *= 1 - 1e-15
    reason = "all 4 seeds agree exactly: their spread is unknown"
    assert spread_of_means(table)[1].reason == reason
    assert best_columns(table).lead_interval.reason == reason
    assert best_columns(table).best == 2


def test_the_range_of_means_by_hand():
    noise = np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0]])
    width, interval = spread_of_means(np.array([[0.0], [10.0], [20.0]]) + np.array([30.0, 10.0, 29.0]) + noise)
    reach = stats.studentized_range.ppf(0.95, 3, 4) / sqrt(2)
    assert width == pytest.approx(20)
    low = max(20 - reach * sqrt(4 / 3), 19 - reach * sqrt(2 / 3))
    assert interval[:2] == pytest.approx((low, 20 + reach * sqrt(4 / 3)), rel=1e-4)
    assert spread_of_means([[1.0, 3.0]])[1].reason == "an interval over seeds needs two seeds"
    assert spread_of_means([[1.0], [3.0]])[1].reason == "there is only one β"


SPREADS = {"equal spread": 1.0, "spread grows fivefold": 5.0}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("shape", ["equal", "one best"])
def test_the_best_is_in_the_set_as_often_as_promised(spread, shape):
    rng, n_seeds, n_beta, repeats = np.random.default_rng(4), 4, 5, 400
    truth = np.where(np.arange(n_beta) == n_beta - 1, 1.0 if shape == "one best" else 1e-9, 0.0)
    noise = rng.normal(size=(repeats, n_seeds, n_beta)) * np.geomspace(1, SPREADS[spread], n_beta)
    tables = truth + noise + rng.normal(size=(repeats, n_seeds, 1))
    kept = np.mean([best_columns(table).candidates[-1] for table in tables])
    assert kept >= 0.93 - 3 * sqrt(0.05 * 0.95 / repeats)
    intervals = [spread_of_means(table)[1] for table in tables]
    covered = np.mean([i.low <= np.ptp(truth) <= i.high for i in intervals])
    assert covered >= 0.93 - 3 * sqrt(0.05 * 0.95 / repeats)


# --- problems as a second source of chance ----------------------------------------------------------------------------


def test_problem_variance_by_hand():
    # Means of problems 0, 2, 4 (variance 4): MS_problems = 2·4; residuals ±1 in two cells each: 4 on 2: MS = 2.
    table = np.array([[1.0, 1.0, 4.0], [-1.0, 3.0, 4.0]])
    # seeds' means 2, 2; residuals (1, −1, 0), (−1, 1, 0).
    assert problem_variance(table) == (pytest.approx((8 - 2) / (2 * 3)), 3)
    assert problem_variance(table[:1]) == (pytest.approx(3 / 3), 3)  # one seed: variance of 1, 1, 4 over three problems
    assert np.isnan(problem_variance(np.zeros((2, 1)))[0])


def test_problem_variance_recovers_what_made_the_data():
    rng, found = np.random.default_rng(1), []
    for _ in range(300):
        values = rng.normal(0, 2, (5, 1)) + rng.normal(0, 3, (1, 40)) + rng.normal(0, 1, (5, 40))
        found.append(problem_variance(values)[0])
    assert np.mean(found) == pytest.approx(9 / 40, rel=0.05)


def test_widened_adds_half_widths_in_squares():
    t = stats.t.ppf(0.975, 10)
    wide = widened(Interval(-3.0, 5.0, None, 0.95, "t"), 1.0, float(9 / t**2), 11)
    assert wide[:2] == pytest.approx((1 - 5, 1 + 5))
    assert wide.method == "t, problems drawn anew"
    unknown = Interval(np.nan, np.nan, "one seed")
    assert widened(unknown, 1.0, 1.0, 5) is unknown
    assert widened(wide, 1.0, np.nan, 5) is wide


@pytest.mark.parametrize(("seeds_sd", "problems_sd"), [(1.0, 0.0), (1.0, 6.0), (0.2, 6.0)])
def test_the_two_way_interval_covers_a_draw_of_both(seeds_sd, problems_sd):
    """Seeds and problems drawn anew each time; an interval over seeds alone misses far too often."""
    from betastar.maths.intervals import seed_mean

    rng, repeats, hits, alone = np.random.default_rng(2), 400, 0, 0
    for _ in range(repeats):
        values = rng.normal(0, seeds_sd, (4, 1)) + rng.normal(0, problems_sd, (1, 64)) + rng.normal(0, 4, (4, 64))
        mean = seed_mean(values.mean(axis=1))
        both = widened(mean.interval, mean.mean, *problem_variance(values))
        hits += both.low <= 0 <= both.high
        alone += mean.interval.low <= 0 <= mean.interval.high
    assert 0.92 - 3 * sqrt(0.05 * 0.95 / repeats) <= hits / repeats
    if seeds_sd < 1:
        assert alone / repeats < 0.9
