"""Power of the primary test: against closed forms, the test itself, and the reference table of the design."""

import time
from math import inf
from typing import Any

import numpy as np
import pytest
from scipy import stats

from betastar.maths.power import (
    N_SIMULATED,
    _noise,
    power_of,
    residual_deviation,
    smallest_rise,
    smallest_rises,
)
from betastar.maths.trend import trend_test

# Share of headlines that said "rose" in the audit's simulations of some hundred data sets; e = rise in residual sd.
REFERENCE = [(3, 5, 2, 56), (3, 7, 2, 80), (5, 5, 2, 82), (5, 7, 2, 95), (10, 7, 1, 79), (5, 3, 3, 92), (3, 5, 3, 91)]


@pytest.mark.parametrize(("seeds", "betas", "rise", "percent"), REFERENCE)
def test_the_audits_table_within_simulation_error(seeds, betas, rise, percent):
    """The audit's headline was the OR of this test and the ranks of the means, which also alarms falsely more often
    (up to 11.6 %): its power is an upper bound, 3 points over ours in most cells and 9 at 10 seeds. Errors: three
    standard errors of 300 and of N_SIMULATED data sets."""
    found, p = 100 * power_of(rise, seeds, betas), percent / 100
    error = 300 * np.sqrt(p * (1 - p) * (1 / 300 + 1 / N_SIMULATED))
    assert percent - (9 if seeds == 10 else 3) - error <= found <= percent + error


def test_power_is_the_share_of_data_sets_in_which_the_test_itself_finds_a_rise():
    tables = _noise(3, 5)[:150] + np.linspace(0, 2, 5)
    found = [trend_test(table) for table in tables]
    share = np.mean([t.p_two_sided <= 0.05 and t.p_greater < t.p_less for t in found])
    from betastar.maths.power import _finds

    assert _finds(tables, 0.05).mean() == share


def test_without_a_rise_the_power_is_half_the_level():
    for seeds, betas in ((3, 5), (5, 7), (10, 3)):
        assert power_of(0.0, seeds, betas) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / N_SIMULATED)


def test_two_seeds_and_three_beta_by_enumeration():
    """Both seeds in perfect order have p = 2/36 > 5 %: nothing can be found. With 3 seeds it takes all three in order:
    2/216. The chance that a seed of three β is in order is that of two normal differences being positive."""
    assert smallest_rise(2, 3) == inf
    assert power_of(50.0, 2, 3) == 0
    rise = 2.0
    # x2 − x1 and x3 − x2: mean 1, variance 2, correlation −1/2
    normal: Any = stats.multivariate_normal
    both = normal([1, 1], [[2, -1], [-1, 2]]).cdf([inf, inf], lower_limit=[0, 0])
    # L = 42 of at most 42 has p = 2/216; L = 41 (one neighbouring pair swapped in one seed) has 2·(1 + 6)/216 > 5 %.
    expected = float(both) ** 3
    assert power_of(rise, 3, 3) == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / N_SIMULATED))


def test_the_smallest_rise_has_the_power_it_is_named_for():
    rise = smallest_rise(5, 5)
    assert power_of(rise, 5, 5) >= 0.8
    assert power_of(rise * 0.97, 5, 5) < 0.8 + 0.01
    assert smallest_rise(5, [0.1, 0.2, 1.0]) > smallest_rise(5, 3), "uneven steps are harder than even ones"
    assert smallest_rise(5, np.geomspace(0.05, 5, 5)) == pytest.approx(rise)


def test_more_seeds_and_more_beta_find_less():
    table = smallest_rises((2, 3, 5, 10), (3, 5, 7))
    assert (np.diff(table[:, 1:], axis=0) < 0).all()
    assert (np.diff(table[1:], axis=1) < 0).all()


def test_more_than_nine_beta_use_the_normal_approximation():
    assert 0.8 * smallest_rise(4, 9) < smallest_rise(4, 12) < smallest_rise(4, 9)


def test_a_plan_does_not_wait_for_it():
    start = time.perf_counter()
    smallest_rise(6, 7)
    smallest_rise(7, 5)
    assert time.perf_counter() - start < 2  # 0.1 s each on an idle core


def test_one_seed_or_two_beta_have_no_power():
    assert (power_of(9.0, 1, 5), smallest_rise(1, 5), smallest_rise(5, 2), smallest_rise(5, [1.0, 1.0, 1.0])) == (
        0.0,
        inf,
        inf,
        inf,
    )
    with pytest.raises(ValueError, match="β > 0"):
        power_of(1.0, 3, [0.0, 1.0, 2.0])


def test_residual_deviation_is_that_of_a_two_way_table():
    # Rows 0, 2 / 1, 5: means 1, 3 and 0.5, 3.5; residuals ±0.5 each: Σ = 1 over one degree of freedom.
    assert residual_deviation([[0.0, 2.0], [1.0, 5.0]]) == (pytest.approx(1.0), 1)
    deviation, freedom = residual_deviation([[0.0, 2.0]])
    assert np.isnan(deviation)
    assert freedom == 0
    rng = np.random.default_rng(0)
    table = rng.normal(0, 3, (200, 6)) + rng.normal(0, 9, (200, 1)) + np.arange(6) ** 2
    assert residual_deviation(table)[0] == pytest.approx(3, rel=0.08)
