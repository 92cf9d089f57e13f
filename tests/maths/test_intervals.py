"""Intervals over seeds: against SciPy's t, every resample listed, closed forms, and coverage of known truths."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maths.reference import weighted_interval
from scipy import stats
from scripts import script

from betastar.maths.intervals import (
    SMALLEST_SPREAD,
    draws_interval,
    mean_draws,
    mean_limits,
    root_mean_square_interval,
    seed_mean,
    weighted_quantiles,
)
from betastar.maths.statistics import seed_resamples

ROOT = Path(__file__).resolve().parents[2]


def benchmark():
    """`benchmarks/coverage.py`, whose table is in docs/statistics.md."""
    return script("benchmarks/coverage.py")


# --- the mean over seeds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1.0, 4.0], [3.0, 1.0, 7.0], [1.0, 2.0, 4.0, 9.0]])
def test_up_to_four_seeds_get_students_t(values):
    result, reference = seed_mean(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert result.interval[:2] == pytest.approx((reference.low, reference.high))
    assert result.mean == np.mean(values)
    assert result.standard_error == pytest.approx(stats.sem(values))
    assert (result.n, result.reason, result.interval.method) == (len(values), None, "Student's t over seeds")
    assert (result.interval.level, result.interval.reason) == (0.95, None)


def test_five_seeds_get_the_studentised_bootstrap_over_all_resamples():
    values = np.array([1.0, 2.0, 4.0, 9.0, 7.0])
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(5)
    ratios = []
    for draw in product(values, repeat=5):  # 3125 equally likely draws; the bootstrap's own variance divides by n
        spread = max(np.std(draw) / 2, SMALLEST_SPREAD * error)
        ratios.append((np.mean(draw) - mean) / spread)
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    result = seed_mean(values)
    assert result.interval[:2] == pytest.approx((mean - high * error, mean - low * error))
    assert result.interval.method == "studentised bootstrap of seeds"


def test_a_fourth_seed_does_not_cost_precision():
    """Median width of intervals of normal values; with the bootstrap from four seeds on, four were wider than three."""
    values = np.random.default_rng(3).normal(size=(400, 5))
    found = {n: [seed_mean(row[:n]).interval for row in values] for n in range(2, 6)}
    width = {n: np.median([i.high - i.low for i in intervals]) for n, intervals in found.items()}
    assert width[2] > width[3] > max(width[4], width[5])


def test_a_long_right_tail_stretches_the_interval_to_the_right():
    interval = seed_mean([1.0, 1.2, 1.1, 1.4, 5.0]).interval
    assert interval.high - 1.94 > 2 * (1.94 - interval.low)


@given(
    values=st.lists(st.integers(-50, 50), min_size=4, max_size=9).filter(lambda v: len(set(v)) > 1),
    shift=st.integers(-9, 9),
    scale=st.sampled_from([0.5, 2.0, 64.0]),
)
@settings(max_examples=30, deadline=None)
def test_the_interval_moves_with_the_values(values, shift, scale):
    original, changed = seed_mean(values).interval, seed_mean(np.multiply(values, scale) + shift).interval
    assert changed[:2] == pytest.approx((original.low * scale + shift, original.high * scale + shift), abs=1e-6)
    mirrored = seed_mean(np.multiply(values, -1)).interval
    if len(values) <= 7:  # beyond that resamples are drawn, and the mirror image of a draw is another draw
        assert mirrored[:2] == pytest.approx((-original.high, -original.low), abs=1e-6)


def test_many_seeds_use_draws_named_by_the_root_seed():
    values = np.random.default_rng(1).exponential(size=9)
    assert seed_mean(values, root_seed=3) == seed_mean(values, root_seed=3)
    assert seed_mean(values, root_seed=3) != seed_mean(values, root_seed=4)


def test_the_range_of_a_quantity_cuts_its_interval():
    free, cut = seed_mean([0.9, 1.0, 0.8]), seed_mean([0.9, 1.0, 0.8], bounds=(0, 1))
    assert free.interval.high > 1
    assert cut.interval[:2] == (free.interval.low, 1)


@pytest.mark.parametrize(
    ("values", "mean", "reason", "no_interval"),
    [
        ([], np.nan, "there are no values", "an interval over seeds needs two seeds"),
        ([2.0], 2.0, "a standard error needs two values", "an interval over seeds needs two seeds"),
        ([1.0, np.nan, 2.0], np.nan, "undefined in 1 of 3 seeds", "undefined in 1 of 3 seeds"),
        ([0.7, 0.7, 0.7], 0.7, None, "all 3 values are equal: their spread is unknown"),
    ],
)
def test_what_is_undefined_has_a_reason(values, mean, reason, no_interval):
    result = seed_mean(values)
    assert result.mean == pytest.approx(mean, nan_ok=True)
    assert result.reason == reason
    assert np.isnan(result.interval[:2]).all()
    assert result.interval.reason == no_interval
    assert set(result.record()) == {"mean", "standard_error", "interval", "n", "reason"}
    assert set(result.record()["interval"]) == {"low", "high", "level", "method", "reason"}


def test_limits_of_many_data_sets_are_those_of_each():
    rng = np.random.default_rng(0)
    values, resamples = rng.normal(size=(3, 5)), seed_resamples(5, rng, 2000)
    low, high = mean_limits(values, resamples)
    for i, row in enumerate(values):
        assert (low[i], high[i]) == pytest.approx(seed_mean(row).interval[:2])


@given(
    values=st.lists(st.floats(-9, 9), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
def test_weighted_quantiles_are_those_of_one_interval(values, weights):
    mass = np.array(weights[: len(values)]) / sum(weights[: len(values)])
    low, high = weighted_quantiles(np.array([values]), mass, (0.1, 0.9))
    assert (low[0], high[0]) == weighted_interval(values, mass, 0.8)[:2]


# --- draws of the mean curve ------------------------------------------------------------------------------------------


def test_draws_of_a_mean_give_the_t_interval():
    values = np.random.default_rng(2).normal(size=(5, 1)) * 3 + 10
    draws = mean_draws(values, np.random.default_rng(0), 100_000)[:, 0]
    reference = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    # A quantile at 2.5 % of 100 000 draws has a standard error of √(0.025·0.975/1e5)/density, about 1 % of the width.
    width = reference.high - reference.low
    assert draws_interval(draws)[:2] == pytest.approx((reference.low, reference.high), abs=0.03 * width)


def test_draws_keep_seeds_whole():
    # Within each seed the columns differ by exactly 10: so they do in every draw.
    values = np.array([[0.0, 10.0], [5.0, 15.0], [100.0, 110.0]])
    draws = mean_draws(values, np.random.default_rng(0), 50)
    assert draws[:, 1] - draws[:, 0] == pytest.approx(np.full(50, 10.0))
    assert np.ptp(draws[:, 0]) > 10
    with pytest.raises(ValueError, match="two seeds"):
        mean_draws([[1.0, 2.0]], np.random.default_rng(0), 5)


def test_draws_interval_by_hand():
    # 1 … 100: 2.5 % is first reached at the third value, 97.5 % at the 98th; infinity is a value, NaN is not.
    assert draws_interval(np.arange(1.0, 101.0))[:2] == (3, 98)
    assert draws_interval(np.append(np.arange(1.0, 98.0), [np.inf] * 3))[:2] == (3, np.inf)
    few = draws_interval(np.append(np.arange(1.0, 95.0), [np.nan] * 6))
    assert np.isnan(few[:2]).all()
    assert few.reason == "defined on only 94% of the draws of the mean over seeds"


# --- the instrument's noise -------------------------------------------------------------------------------------------


def test_root_mean_square_interval_of_independent_values_is_the_chi_square_interval():
    # One value per seed: no pairs, five degrees of freedom. Σx² = 1 + 4 + 4 + 9 + 1 = 19.
    interval = root_mean_square_interval([[1.0], [-2.0], [2.0], [-3.0], [1.0]])
    assert interval[:2] == pytest.approx(tuple(np.sqrt(19 / stats.chi2.ppf([0.975, 0.025], 5))))


def test_root_mean_square_interval_counts_equal_values_of_a_seed_once():
    # Values equal within a seed: r = 1, so N²/Σ m² = 36/(4·3) = 3 degrees of freedom; mean square 14·2/6 = 14/3.
    interval = root_mean_square_interval([[1.0, 1.0], [-2.0, -2.0], [3.0, 3.0]])
    assert interval[:2] == pytest.approx(tuple(np.sqrt(14 / stats.chi2.ppf([0.975, 0.025], 3))))


@pytest.mark.parametrize("values", [[], [[1.0]], [[0.0, 0.0], [0.0]], [[1.0, np.nan], [2.0]]])
def test_root_mean_square_interval_that_is_undefined(values):
    interval = root_mean_square_interval(values)
    assert np.isnan(interval[:2]).all()
    assert interval.reason


# --- coverage: a small version of benchmarks/coverage.py --------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "skewed: lognormal", "AUGC, drift 0"])
def test_the_mean_is_covered_as_often_as_promised_and_not_by_the_percentile_bootstrap(name, n):
    coverage = benchmark()
    truth = next(t for t in coverage.TRUTHS if t.name.startswith(name))
    assert truth.promised
    rng = np.random.default_rng(5)
    cells = coverage.mean_coverage(truth.draw, coverage.true_mean(truth, rng), n, 1000, rng)
    assert coverage.in_band(cells["ours"].coverage, 1000)
    if n == 5:
        assert not coverage.in_band(cells["percentile"].coverage, 1000), "the test can tell the two apart"


@pytest.mark.thorough
def test_beta_star_is_covered_and_not_by_the_percentile_bootstrap():
    coverage, rng = benchmark(), np.random.default_rng(6)
    skewed = coverage.curves(rng)[1]
    found = coverage.curve_coverage(skewed, 3, 100, rng)
    for name in coverage.PROMISED_OF_CURVES:
        assert coverage.in_band(*found[name]), name
    assert not coverage.in_band(*found["not used: percentile bootstrap of β★"])


def test_the_noise_of_the_instrument_is_covered():
    coverage, rng = benchmark(), np.random.default_rng(7)
    assert coverage.in_band(coverage.noise_coverage(5, 5, 0.25, 500, rng), 500)
    # 25 values taken for independent where a seed's five are all but equal: far too narrow.
    hits = []
    for _ in range(500):
        values = np.repeat(rng.normal(size=5), 5)
        interval = root_mean_square_interval([[v] for v in values])
        hits.append(interval.low <= 1 <= interval.high)
    assert not coverage.in_band(float(np.mean(hits)), 500)


@pytest.mark.parametrize(("seeds", "betas"), [(3, 3), (3, 7), (5, 5)])
@pytest.mark.parametrize("null", ["seeds differ", "AUGC with ties", "spread grows fivefold", "spread falls fivefold"])
@pytest.mark.thorough
def test_the_headline_keeps_its_level(null, seeds, betas):
    coverage, rng = benchmark(), np.random.default_rng(8)
    (name,) = (name for name in coverage.PROMISED_NULLS if name.startswith(null))
    found = coverage.rejections(lambda: coverage.NULLS[name](rng, seeds, betas), 400)
    most = coverage.LEVEL + 3 * coverage.standard_error(coverage.LEVEL, 400)
    assert found["headline"] <= most
    if (seeds, betas) == (3, 7) and null.startswith("spread grows"):
        assert found["ρ or Page"] > most, "the test can tell the one test from the OR of two"


@pytest.mark.parametrize(("seeds", "betas"), [(3, 5), (5, 7)])
def test_less_movement_is_not_said_to_be_less_damage(seeds, betas):
    """A gap of mean 0 that moves ten times less at the largest β: its positive area falls with β, the gap does not."""
    coverage, rng = benchmark(), np.random.default_rng(9)
    found = coverage.falls(seeds, betas, 300, rng)
    most = 0.06 + 2 * coverage.standard_error(0.06, 300)
    assert max(found["signed area"], found["positive area, guarded"]) <= most
    if betas == 7:
        assert found["positive area alone"] > most
