"""The conservatism law and β★ (arXiv:2606.30627 Eq. 14–15, Def. 6.1) against arithmetic and the paper's Table 1."""

import time
from itertools import pairwise
from math import inf, isnan

import numpy as np
import pytest

from betastar.maths.conservatism import _why_not_the_law, conservatism_law, definition_beta_star
from betastar.maths.power_law import Reference, fit_power_law, practical_beta_star

# arXiv:2606.30627 Table 1
BETA = np.array([0.310, 1.000, 2.379])
AUGC = np.array([31.1, 43.0, 145.8])


def rng(seed=0):
    return np.random.default_rng(seed)


def law(beta, augc_by_seed, seed=0):
    return conservatism_law(beta, augc_by_seed, rng=rng(seed))


def star(beta, augc_by_seed, reference: Reference = "beta_min"):
    return law(beta, augc_by_seed).beta_star[reference]


# --- the paper's table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "printed"), [("beta_min", 1.105), ("grid", 1.081)])
def test_the_papers_table_is_interpolation_without_an_interval(reference, printed):
    found = law(BETA, [AUGC])
    result = found.beta_star[reference]
    assert result.status == "estimate"
    assert result.value == pytest.approx(printed, abs=0.001)
    assert result.label == found.label == "interpolation, not evidence"
    assert np.isnan([result.interval.low, result.interval.high]).all()
    assert result.interval.reason == "an interval over seeds needs two seeds"
    assert "3 points cannot tell" in result.reason
    assert found.fit.r_squared == pytest.approx(1)
    assert all(isnan(found.intervals[name].low) for name in ("a", "b", "c"))


def test_the_papers_fit_has_no_degrees_of_freedom_left():
    """Three points and four parameters (the residual variance counts): no AICc, no left-out β."""
    found = law(BETA, [AUGC])
    assert found.comparison.best is None
    assert "too few for the AICc of: power law" in str(found.comparison.reason)
    assert "leaving out one of 3 values of β" in str(found.leave_one_beta_out.reason)


# --- β★ over seeds ----------------------------------------------------------------------------------------------------


def test_seeds_that_differ_by_a_factor_agree_on_beta_star():
    """1.5 times a value has no unit: with AUGC scaled by 0.9, 1 and 1.1, every draw of the mean has the same β★."""
    same = star(BETA, np.outer([0.9, 1.0, 1.1], AUGC))
    assert same.status == "estimate"
    assert same.interval[:2] == pytest.approx((same.value, same.value), abs=0.01)
    assert "beats a constant" in same.reason


def test_seeds_that_disagree_widen_the_interval_around_beta_star():
    table = np.array([AUGC, AUGC, AUGC + 10])  # a higher floor c puts the threshold further away
    result = star(BETA, table)
    rows = [practical_beta_star(fit_power_law(BETA, row), BETA, "beta_min") for row in table]
    assert rows[0] < result.value < rows[2]
    assert result.interval.low < result.value < result.interval.high
    # Student's t with two degrees of freedom reaches 4.3 standard errors: further than the seeds themselves.
    assert result.interval.high > rows[2]


def test_beta_star_outside_the_measured_range_is_labelled():
    # β + 10: 11, 12, 13 exceed 1.5·11 = 16.5 only at 6.5; β_max = 4 and the search ends at 8.
    result = star([1.0, 2.0, 3.0, 4.0], [[11.0, 12.0, 13.0, 14.0]])
    assert result.value == pytest.approx(6.5, abs=0.02)
    assert result.label == "not tested against a constant; extrapolated"


def test_a_beta_star_that_some_draws_never_reach_has_an_open_interval():
    # Seed 0 is 10 + β: 11 · 1.5 = 16.5 at β = 6.5. Seed 1 is 13 + 0.4β: 13.4 · 1.5 = 20.1 only at 17.75, past the
    # search's end at 16. Their mean 11.5 + 0.7β: 12.2 · 1.5 = 18.3 at 9.714.
    beta = np.arange(1.0, 9.0)
    result = star(beta, [10 + beta, 13 + 0.4 * beta])
    assert result.value == pytest.approx(9.714, abs=2 * (16 - 0.1) / 999)
    assert result.label == "extrapolated"
    assert result.interval.low < 6.5
    assert result.interval.high == inf


def test_a_law_that_never_exceeds_the_threshold_has_no_beta_star():
    # 10 → 10.4 → 11 cannot reach 15 by 2·β_max.
    result = star([1.0, 2.0, 3.0], [[10.0, 10.4, 11.0]])
    assert (result.status, isnan(result.value)) == ("never exceeded", True)


NOISE = np.random.default_rng(3).normal(0, 3, (3, 3))


@pytest.mark.parametrize(
    ("means", "status", "words"),
    [
        ([50, 50, 50], "no dependence", "no β★: these data show no dependence of AUGC on β"),
        ([90, 50, 20], "not a rising law", "AUGC falls with β in these data"),
        ([90, 20, 90], "not a rising law", "AUGC differs between values of β in these data, but no power law"),
        ([20, 50, 90], "estimate", "the power law beats a constant by"),
    ],
)
def test_what_three_seeds_can_show(means, status, words):
    result = star(BETA, np.array(means) + NOISE)
    assert result.status == status
    assert words in result.reason
    assert isnan(result.value) == (status != "estimate")


def test_a_jump_after_flat_data_has_no_beta_star_between():
    """Any β between 1 and 2.379 fits as well as another: the grid is too coarse, and the sentence says where."""
    result = star(BETA, np.array([40.0, 40.0, 160.0]) + NOISE)
    assert (result.status, isnan(result.value)) == ("not resolved", True)
    assert "AUGC is flat up to β = 1 and exceeds the threshold at 2.379" in result.reason


def test_whoever_calls_may_refuse_a_beta_star():
    table = np.array([20, 50, 90]) + NOISE
    refused = conservatism_law(BETA, table, rng=rng(), refusal="the test sees no rise").beta_star["beta_min"]
    assert (refused.status, refused.reason) == ("no rise", "no β★: the test sees no rise")
    flat = conservatism_law(BETA, 50 + NOISE, rng=rng(), refusal="the test sees no rise").beta_star["beta_min"]
    assert flat.status == "no dependence", "the data's own reason comes first"


def test_noise_seldom_says_that_augc_changes_with_beta():
    """5 % of flat tables of 3 seeds × 5 β at most, plus sampling error; an AICc difference of any size said it of 18 %
    of these."""
    tables = rng(9).normal(60, 10, (300, 3, 5))
    found = [_why_not_the_law(table)[0] for table in tables]
    assert found.count("not a rising law") / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(
    ("beta", "table", "status", "words"),
    [
        (BETA, [[7.0, 7.0, 7.0]] * 2, "no dependence", "does not depend on β"),
        (BETA, [[1.0, np.nan, 2.0]], "refused", "undefined in 1 of 3"),
        ([1.0, 2.0], [[1.0, 2.0]], "refused", "2 distinct values of β"),
        ([1.0, 2.0, 3.0], [[0.0, 0.0, 100.0]], "refused", "0 at the reference"),
    ],
)
def test_a_refusal_has_a_reason_and_no_number(beta, table, status, words):
    result = star(beta, table)
    assert result.status == status
    assert result.reason.startswith("no β★: ")
    assert words in result.reason
    assert np.isnan([result.value, result.interval.low, result.interval.high]).all()


def test_noise_seldom_yields_a_beta_star():
    # 80 tables of 3 seeds × 3 β of pure noise: the AICc test lets few of them through.
    tables = rng(4).uniform(10, 90, (80, 3, 3))
    estimates = sum(fit_power_law(np.tile(BETA, 3), table.ravel()).beats_constant is True for table in tables)
    assert estimates <= 8


def test_draws_come_from_the_generator_alone():
    table = AUGC * np.exp(rng(5).normal(0, 0.2, (5, 3)))
    one, again, other = (law(BETA, table, seed).beta_star["beta_min"].interval for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_the_parameters_intervals_hold_the_law_that_made_the_data():
    """a = 4, b = 1.5, c = 10 with noise of 2 % at each of 6 β."""
    beta = np.geomspace(0.1, 10, 6)
    table = (4 * beta**1.5 + 10) * np.exp(rng(7).normal(0, 0.02, (6, 6)))
    intervals = law(beta, table).intervals
    for name, truth in {"a": 4, "b": 1.5, "c": 10}.items():
        assert intervals[name].low <= truth <= intervals[name].high


def test_a_thousand_draws_are_quick():
    start = time.perf_counter()
    law(BETA, AUGC * np.exp(rng(6).normal(0, 0.1, (3, 3))))
    assert time.perf_counter() - start < 3


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\[S, B\]"):
        law(BETA, AUGC)


# --- Def. 6.1 ---------------------------------------------------------------------------------------------------------


def test_definition_weighs_damage_against_alignment():
    # AUGC − 100·𝒜: 31.1 − 60 = −28.9; 43 − 75 = −32; 145.8 − 80 = 65.8. Without weight: the least AUGC.
    quality = [[0.6, 0.75, 0.8]]
    assert definition_beta_star(BETA, [AUGC], quality, 100, rng=rng()).value == 1.0
    assert definition_beta_star(BETA, [AUGC], quality, 0, rng=rng()).value == 0.310
    assert definition_beta_star([2.0, 1.0], [[3.0, 3.0]], [[0.5, 0.5]], 1, rng=rng()).value == 1.0
    undefined = definition_beta_star(BETA, [AUGC], [[0.6, np.nan, 0.8]], 100, rng=rng())
    assert isnan(undefined.value)
    assert undefined.reason == "AUGC or alignment is undefined in 1 of 1 seeds"
    with pytest.raises(ValueError, match="at least 0"):
        definition_beta_star(BETA, [AUGC], quality, -1, rng=rng())


def test_definition_says_how_sure_its_choice_is():
    """Seeds that agree leave no doubt; the weight of alignment moves the choice only upwards."""
    damage, quality = np.outer([1, 1.01, 0.99], AUGC), np.tile([0.6, 0.75, 0.8], (3, 1))
    found = [definition_beta_star(BETA, damage, quality, lam, rng=rng()) for lam in (0, 100, 10_000)]
    assert [star.value for star in found] == [0.310, 1.0, 2.379]
    assert all(one.value <= two.value for one, two in pairwise(found))
    for result in found:
        assert result.share[result.value] == pytest.approx(1)
        assert result.interval[:2] == (result.value, result.value)
