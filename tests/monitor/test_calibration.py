"""The threshold: against SciPy, published tables, arithmetic shown here, and its false-alarm rate in simulated runs."""

from __future__ import annotations

from math import isnan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor.alarms import PROXIES, RATE, alarms
from scipy import stats

from betastar.maths.goodhart import standardised_gap
from betastar.monitor.gaps import (
    critical_height,
    false_alarm_rate,
    gap_fields,
    own_noise,
    rate_of,
    start_noise,
    start_of,
    threshold,
)

rewards = st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=8, max_size=8)


def test_one_look_is_students_t() -> None:
    """One gap has standard deviation σ√2, so the height is √2 times Student's quantile."""
    for degrees in (31, 199):
        assert critical_height(1, degrees, 0.05) == pytest.approx(sqrt(2) * stats.t.ppf(0.95, degrees), rel=2e-3)


@pytest.mark.parametrize(("looks", "published"), [(2, 1.92), (5, 2.23), (9, 2.42)])
def test_heights_are_dunnetts(looks: int, published: float) -> None:
    """Dunnett 1955, Table 1a: one-sided 5 % points for many treatments against one control, infinite degrees."""
    assert critical_height(looks, 10**6, 0.05) / sqrt(2) == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize("degrees", [15, 60])
def test_heights_are_quantiles_of_scipys_multivariate_t(degrees: int) -> None:
    looks, correlation = 4, np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    limit = np.full(looks, critical_height(looks, degrees, 0.05) / sqrt(2))
    joint: Any = stats.multivariate_t  # SciPy's annotations are those of other distributions
    assert 1 - joint(shape=correlation, df=degrees, seed=1).cdf(limit, maxpts=400_000) == pytest.approx(0.05, abs=5e-4)


def test_the_rate_of_a_height_undoes_the_height_of_a_rate() -> None:
    for looks, degrees, rate in [(1, 31, 0.5), (20, 31, 0.05), (1000, 99, 0.01)]:
        assert false_alarm_rate(critical_height(looks, degrees, rate), looks, degrees) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("wrong", [(10, 31, 0.6), (10, 31, 0.0), (0, 31, 0.05), (10, 0, 0.05)])
def test_impossible_requests_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="rate in"):
        critical_height(*wrong)


def test_noise_by_hand() -> None:
    """Two problems, two replicates: variances (0 − 2)²/2 = 2 and (1 − 5)²/2 = 8, mean 5, over n = 2: σ² = 2.5."""
    assert start_noise([[0.0, 1.0], [2.0, 5.0]]) == pytest.approx(sqrt(2.5))
    assert start_noise([[0.0, 1.0, np.nan], [2.0, 5.0, 3.0]]) == pytest.approx(sqrt(2.5))
    assert isnan(start_noise([[0.0, 1.0]]))
    assert isnan(own_noise([1.0, np.nan], [0.0, 2.0]))


def test_own_noise_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.standard_normal((2, 30))
    t = stats.ttest_rel(now, before).statistic
    assert (now - before).mean() / (own_noise(now, before) * sqrt(2)) == pytest.approx(t)


def test_the_larger_noise_sets_the_threshold() -> None:
    assert threshold(3.0, 0.1, 0.2) == threshold(3.0, 0.2, 0.1) == pytest.approx(0.6)
    assert isnan(threshold(3.0, 0.1, float("nan")))


@settings(max_examples=50, deadline=None)
@given(rewards, rewards, st.floats(-10, 10), st.floats(0.1, 10))
def test_gap_and_threshold_do_not_change_with_the_proxys_origin_and_unit(
    first: list[tuple[float, bool]], later: list[tuple[float, bool]], constant: float, factor: float
) -> None:
    (proxy, true), (proxy_later, true_later) = (np.array(r, dtype=float).T for r in (first, later))
    if np.ptp(proxy) < 1e-3 or np.ptp(proxy - proxy_later) < 1e-3:
        return
    plain = start_of([(proxy, true), (proxy_later, true_later)], 5)
    moved = start_of([(constant + factor * proxy, true), (constant + factor * proxy_later, true_later)], 5)
    one = gap_fields(plain, proxy_later, true_later, "auto", 0.05)
    other = gap_fields(moved, constant + factor * proxy_later, true_later, "auto", 0.05)
    assert other["gap_standardised"] == pytest.approx(one["gap_standardised"], abs=1e-6)
    assert other["threshold"] == pytest.approx(one["threshold"], rel=1e-6, nan_ok=True)


def test_the_gap_is_the_one_of_the_maths_and_the_mean_of_the_scores() -> None:
    rng = np.random.default_rng(1)
    proxy, later = rng.exponential(size=(2, 40))
    true, true_later = (rng.random((2, 40)) < 0.6).astype(float)
    start = start_of([(proxy, true)], 3)
    outside = standardised_gap(
        [proxy.mean(), later.mean()], [true.mean(), true_later.mean()], proxy.std(ddof=1), int(true.sum()), 40
    )
    assert gap_fields(start, later, true_later, None, 0.05)["gap_standardised"] == pytest.approx(outside.gap[1])


def test_a_graded_true_reward_has_its_own_standard_deviation() -> None:
    """Proxy 0, 2 → 1, 3: +1 of sd √2. True 0.2, 0.6 → 0.1, 0.5: −0.1 of sd √0.08. Gap 1/√2 + 0.1/√0.08 = 1.0607."""
    fields = gap_fields(start_of([([0, 2], [0.2, 0.6])], 1), [1, 3], [0.1, 0.5], 0.5, 0.05)
    assert fields["gap_standardised"] == pytest.approx(1 / sqrt(2) + 0.1 / sqrt(0.08))
    assert fields["threshold"] == 0.5


@pytest.mark.parametrize(
    ("proxy", "true", "named"),
    [
        ([1.0, 1.0], [0, 1], ("gap_standardised", "the proxy rewards at the start have no finite, positive")),
        ([1.0, 2.0], [0.5, 0.5], ("gap_standardised", "the true rewards at the start have no spread")),
        ([1.0, 2.0], [0, 1], ("threshold", "the noise of the gap at the start is unknown")),
    ],
)
def test_what_is_undefined_has_its_reason(proxy: list[float], true: list[float], named: tuple[str, str]) -> None:
    fields = gap_fields(start_of([(proxy, true)], 4), proxy, true, None, 0.05)
    assert isnan(fields[named[0]])
    assert fields["missing"][named[0]].startswith(named[1])


def test_the_rate_of_a_fixed_threshold() -> None:
    """A threshold as high as the calibrated one has the rate that was calibrated."""
    rng = np.random.default_rng(2)
    start = start_of([(rng.standard_normal(50), np.arange(50) % 2) for _ in range(4)], 12)
    assert rate_of(start, critical_height(12, 49, 0.1) * start.noise) == pytest.approx(0.1, abs=1e-6)
    assert isnan(rate_of(start._replace(noise=float("nan")), 1.0))


def test_false_alarms_over_a_whole_run_stay_below_the_stated_rate() -> None:
    """Null runs, independent evaluations (the worst case). 5 % of 400 runs have a Monte-Carlo error of 1.1 %."""
    found = [alarms(proxy, "half right", n, looks, 400) for proxy in PROXIES for n, looks in [(32, 10), (200, 20)]]
    assert max(found) <= RATE + 3 * sqrt(RATE * (1 - RATE) / 400)
    # Not by being deaf: where the theory is exact, and problems are not few, the rate is near the stated one.
    assert alarms("normal", "half right", 200, 20, 800) >= 0.5 * RATE


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_false_alarms_follow_the_stated_rate(rate: float) -> None:
    found = [alarms(proxy, "half right", 64, 10, 1000, rate=rate) for proxy in ("normal", "exponential")]
    assert max(found) <= rate + 3 * sqrt(rate * (1 - rate) / 1000)
    assert min(found) >= 0.2 * rate


def test_shared_noise_makes_false_alarms_rarer_and_a_real_gap_is_found() -> None:
    assert alarms("normal", "easy and hard", 64, 10, 300, kept=0.8) <= 0.02
    assert alarms("normal", "half right", 100, 10, 100, shift=1.0) >= 0.9
