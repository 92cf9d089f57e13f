import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from betastar.errors import BetastarError
from betastar.maths import conservatism
from betastar.maths.conservatism import (
    beta_star,
    definition_beta_star,
    fit_power_law,
    practical_beta_star,
)
from betastar.maths.grid import geometric_grid, log_ratio_magnitude, percentile_grid

# arXiv:2606.30627 Table 1
BETA = np.array([0.310, 1.000, 2.379])
AUGC = np.array([31.1, 43.0, 145.8])


def rng(seed=0):
    return np.random.default_rng(seed)


def star(beta, augc_by_seed):
    return beta_star(beta, augc_by_seed, reference="beta_min", rng=rng())


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_log_ratio_magnitude_by_hand():
    assert log_ratio_magnitude([-10.0, -3.0], [-7.0, -3.5]).tolist() == [3.0, 0.5]
    with pytest.raises(ValueError, match="one log-probability per"):
        log_ratio_magnitude([-1.0], [-1.0, -2.0])


def test_percentile_grid_by_hand():
    # δ = 0, 1, …, 10: percentiles 20, 50, 80 are 2, 5, 8; over the median 5: 0.4, 1, 1.6.
    assert percentile_grid(np.arange(11.0)) == pytest.approx([0.4, 1.0, 1.6], rel=1e-6)


@given(deltas=st.lists(st.floats(0.1, 1e4), min_size=20, max_size=40, unique=True), factor=st.floats(0.1, 10))
def test_percentile_grid_has_middle_one_and_no_unit(deltas, factor):
    grid = percentile_grid(deltas)
    assert grid[1] == pytest.approx(1, rel=2e-6)
    assert percentile_grid(np.multiply(deltas, factor)) == pytest.approx(grid, rel=2e-5)


def test_percentile_grid_refuses_data_without_a_grid():
    with pytest.raises(BetastarError, match="0 of 0"):
        percentile_grid([])
    with pytest.raises(BetastarError, match=r"1 of 2 are: .* explicit list of β"):
        percentile_grid([1.0, np.nan])
    with pytest.raises(BetastarError, match="not positive and increasing"):
        percentile_grid([2.0, 2.0, 2.0])
    with pytest.raises(BetastarError, match="not positive and increasing"):
        percentile_grid([0.0, 0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="percentiles must increase"):
        percentile_grid([1.0, 2.0], (80, 50, 20))


def test_geometric_grid_by_hand():
    assert geometric_grid(0.01, 1.0, 3) == pytest.approx([0.01, 0.1, 1.0])
    for low, high, n in [(0, 1, 3), (1, 1, 3), (0.1, 1, 1)]:
        with pytest.raises(ValueError, match="geometric grid"):
            geometric_grid(low, high, n)


# --- the law ----------------------------------------------------------------------------------------------------------


def test_law_recovers_the_curve_that_made_the_data():
    # β² + 1 at 1, 2, 3 is 2, 5, 10.
    fit = fit_power_law([1.0, 2.0, 3.0], [2.0, 5.0, 10.0])
    assert (fit.a, fit.b, fit.c) == pytest.approx((1, 2, 1), rel=1e-5)
    assert fit([0.0, 4.0]) == pytest.approx([1, 17], rel=1e-5)
    assert fit.r_squared == pytest.approx(1)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_law_does_not_depend_on_units(unit, scale):
    # In β·s and AUGC·u the law is u·a·s^−b · β^b + u·c.
    reference, fit = fit_power_law(BETA, AUGC), fit_power_law(BETA * scale, AUGC * unit)
    assert fit.b == pytest.approx(reference.b, rel=1e-4)
    assert fit.a == pytest.approx(unit * reference.a * scale**-reference.b, rel=1e-3)
    assert fit(BETA * scale) == pytest.approx(unit * AUGC, rel=1e-5)


@given(
    points=st.lists(st.tuples(st.floats(-5, 1), st.floats(0, 100)), min_size=3, max_size=7, unique_by=lambda p: p[0])
)
@settings(max_examples=25, deadline=None)
def test_law_is_the_least_squares_minimum(points):
    # For a given b the best a, c ≥ 0 are a non-negative linear problem: no b of a fine scan may do better.
    beta, augc = np.exp(np.array(points)[:, 0]), np.array(points)[:, 1]
    if np.ptp(augc) < 1e-3 or np.diff(np.sort(beta)).min() < 1e-3 * beta.max():
        return
    fit = fit_power_law(beta, augc)
    ours = np.sum((fit(beta) - augc) ** 2)
    scan = min(
        nnls(np.stack([(beta / beta.max()) ** b, np.ones_like(beta)], axis=1), augc)[1] ** 2
        for b in np.geomspace(0.01, 50, 60)
    )
    assert fit.a >= 0
    assert fit.b >= 0
    assert fit.c >= 0
    assert ours <= scan + 1e-6 * np.sum((augc - augc.mean()) ** 2)


def test_zero_damage_at_the_smallest_beta_is_fitted():
    # Appendix E's b₀ = log(max/0) is undefined there; β² − 1 is out of bounds (c ≥ 0), β² with c = 0 is not.
    fit = fit_power_law([1.0, 2.0, 4.0], [0.0, 4.0, 16.0])
    assert fit.refusal is None
    assert fit.c == pytest.approx(0, abs=1e-6)
    assert 1.5 < fit.b < 3


def test_repeated_beta_are_fitted_as_points():
    # Two seeds at ±1 around 2, 5, 10: the law is that of the means, the residual 6·1², the spread around the mean
    # 17/3 is 6 + 2·((11/3)² + (2/3)² + (13/3)²) = 6 + 2·294/9 = 214/3.
    fit = fit_power_law([1.0, 2.0, 3.0] * 2, [3.0, 6.0, 11.0, 1.0, 4.0, 9.0])
    assert (fit.n, fit.n_beta) == (6, 3)
    assert (fit.a, fit.b, fit.c) == pytest.approx((1, 2, 1), rel=1e-4)
    assert fit.r_squared == pytest.approx(1 - 6 / (214 / 3))
    # AICc of the law: 6 ln(6/6) + 8 + 2·4·5/(6 − 5) = 48; of a constant: 6 ln(214/18) + 4 + 2·2·3/(6 − 3) = 22.9.
    assert fit.aicc == pytest.approx(48)
    assert fit.aicc_constant == pytest.approx(6 * np.log(214 / 18) + 8)
    assert fit.beats_constant is False


def test_three_points_are_fitted_exactly_and_prove_nothing():
    fit = fit_power_law(BETA, AUGC)
    assert fit(BETA) == pytest.approx(AUGC, rel=1e-6)
    assert np.isnan(fit.aicc), "3 points, 4 parameters"
    assert fit.beats_constant is None


def test_falling_data_come_out_as_a_constant():
    fit = fit_power_law(BETA, AUGC[::-1])
    assert (fit.a, fit.b, fit.c) == (0, 0, pytest.approx(AUGC.mean()))
    assert fit.r_squared == 0


@pytest.mark.parametrize(
    ("beta", "augc", "refusal", "words"),
    [
        ([1.0, 2.0, 3.0], [1.0, np.nan, 2.0], "undefined AUGC", "in 1 of 3 conditions"),
        ([1.0, 2.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0], "too few β", "2 distinct β"),
        ([1.0, 2.0, 3.0], [7.0, 7.0, 7.0], "constant AUGC", "7 in every condition"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "constant AUGC", "0 in every condition"),
    ],
)
def test_a_refused_fit_is_named_and_has_no_number(beta, augc, refusal, words):
    fit = fit_power_law(beta, augc)
    assert fit.refusal == refusal
    assert fit.reason is not None
    assert words in fit.reason
    assert np.isnan([fit.a, fit.b, fit.c, fit.r_squared, fit.aicc, *fit([1.0, 2.0])]).all()
    assert np.isnan(practical_beta_star(fit, beta, "beta_min"))


def test_a_search_that_does_not_converge_is_a_refusal(monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError("Optimal parameters not found: The maximum number of function evaluations is exceeded.")

    monkeypatch.setattr(conservatism, "curve_fit", exhausted)
    assert fit_power_law(BETA, AUGC).refusal == "no convergence"
    assert star(BETA, [AUGC]).status == "refused"


def test_impossible_input_is_an_error():
    with pytest.raises(ValueError, match="positive"):
        fit_power_law([0.0, 1.0, 2.0], AUGC)
    with pytest.raises(ValueError, match="at least 0"):
        fit_power_law(BETA, -AUGC)
    with pytest.raises(ValueError, match=r"\[S, B\]"):
        star(BETA, AUGC)


# --- β★ ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "printed"), [("beta_min", 1.105), ("grid", 1.081)])
def test_both_readings_of_the_papers_beta_star(reference, printed):
    # SPEC E5: the paper prints 1.082. By hand, with its data's exact fit 12.523·β^2.5617 + 30.477:
    #   at β_min the fit is 31.1, so β = ((46.65 − 30.477)/12.523)^(1/2.5617) = 1.1050;
    #   at 0.1·β_min it is 30.478, so β = ((45.717 − 30.477)/12.523)^(1/2.5617) = 1.0797; a grid step is 0.0047.
    fit = fit_power_law(BETA, AUGC)
    assert practical_beta_star(fit, BETA, reference) == pytest.approx(printed, abs=0.001)


def test_practical_beta_star_of_a_parabola():
    # β² + 1 exceeds 1.5·2 at √2; the grid from 0.1 to 6 has steps of 5.9/999.
    beta = [1.0, 2.0, 3.0]
    value = practical_beta_star(fit_power_law(beta, [2.0, 5.0, 10.0]), beta, "beta_min")
    assert value >= 2**0.5 - 1e-6
    assert value <= 2**0.5 + 5.9 / 999 + 1e-6


def test_practical_beta_star_that_is_never_exceeded():
    # 10 → 10.4 → 11 cannot reach 15 by 2·β_max.
    beta, augc = [1.0, 2.0, 3.0], [10.0, 10.4, 11.0]
    assert np.isnan(practical_beta_star(fit_power_law(beta, augc), beta, "beta_min"))
    result = star(beta, [augc])
    assert (result.status, np.isnan(result.value)) == ("never exceeded", True)


def test_no_damage_at_the_reference_makes_no_threshold():
    result = star([1.0, 2.0, 3.0], [[0.0, 0.0, 100.0]])
    assert result.status == "refused"
    assert "0 at the reference" in result.reason


def test_definition_weighs_damage_against_alignment():
    # AUGC − 100·𝒜: 31.1 − 60 = −28.9; 43 − 75 = −32; 145.8 − 80 = 65.8. Without weight: the least AUGC.
    assert definition_beta_star(BETA, AUGC, [0.6, 0.75, 0.8], 100) == 1.0
    assert definition_beta_star(BETA, AUGC, [0.6, 0.75, 0.8], 0) == 0.310
    assert definition_beta_star([2.0, 1.0], [3.0, 3.0], [0.5, 0.5], 1) == 1.0
    assert np.isnan(definition_beta_star(BETA, AUGC, [0.6, np.nan, 0.8], 100))
    with pytest.raises(ValueError, match="lam at least 0"):
        definition_beta_star(BETA, AUGC, [0.6, 0.75, 0.8], -1)


def test_the_papers_table_is_interpolation_without_an_interval():
    result = star(BETA, [AUGC])
    assert result.status == "estimate"
    assert result.value == pytest.approx(1.105, abs=0.001)
    assert result.label == "interpolation, not evidence"
    assert np.isnan([result.interval.low, result.interval.high]).all()
    assert result.interval.reason == "an interval over seeds needs two seeds"
    assert "3 points cannot tell" in result.reason


def test_seeds_that_agree_give_an_interval():
    # Seeds are Table 1 times 0.9, 1, 1.1: the same β★ in every resample, for 1.5 times a value has no unit. Then a
    # seed with a higher floor c, whose threshold is further away.
    same = star(BETA, np.outer([0.9, 1.0, 1.1], AUGC))
    assert same.status == "estimate"
    assert same.interval[:2] == pytest.approx((same.value, same.value), abs=0.005)
    table = np.array([AUGC, AUGC, AUGC + 10])
    spread = star(BETA, table)
    rows = [practical_beta_star(fit_power_law(BETA, row), BETA, "beta_min") for row in table]
    # 27 draws: the one of only the third seed has weight 1/27 = 3.7 % > 2.5 %, so the interval ends at its β★.
    assert spread.interval[:2] == pytest.approx((rows[0], rows[2]), abs=1e-9)
    assert "beats a constant" in spread.reason


def test_beta_star_outside_the_measured_range_is_labelled():
    # β + 10: 11, 12, 13 exceed 1.5·11 = 16.5 only at 6.5; β_max = 4 and the search ends at 8.
    result = star([1.0, 2.0, 3.0, 4.0], [[11.0, 12.0, 13.0, 14.0]])
    assert result.value == pytest.approx(6.5, abs=0.02)
    assert result.label == "not tested against a constant; extrapolated"


def test_resamples_without_a_crossing_count_as_beyond_the_search():
    # Seed 0 is 10 + β: 11 · 1.5 = 16.5 at β = 6.5. Seed 1 is 13 + 0.4β: 13.4 · 1.5 = 20.1 only at 17.75, past the
    # search's end at 16. Their mean 11.5 + 0.7β: 12.2 · 1.5 = 18.3 at 9.714. Weights 1/4, 1/4, 1/2.
    beta = np.arange(1.0, 9.0)
    result = star(beta, [10 + beta, 13 + 0.4 * beta])
    step = (16 - 0.1) / 999
    assert result.value == pytest.approx(9.714, abs=2 * step)
    assert result.label == "extrapolated"
    assert result.interval.low == pytest.approx(6.5, abs=2 * step)
    assert result.interval.high == np.inf


def test_no_interval_where_too_few_resamples_have_a_threshold():
    # Seed 1 alone (weight 1/4 > 5 %) has damage at the last β only: 1.5 times 0 is no threshold.
    beta = np.arange(1.0, 9.0)
    result = star(beta, [5 + 100 * (beta / 8) ** 20, np.where(beta < 8, 0, 100)])
    assert result.status == "estimate"
    assert np.isnan(result.interval.low)
    assert result.interval.reason == "only 75% of the seed resamples allow a β★ to be computed"


NOISE = np.random.default_rng(3).normal(0, 3, (3, 3))


@pytest.mark.parametrize(
    ("means", "status", "words"),
    [
        ([50, 50, 50], "no dependence", "no β★: AUGC does not depend on β in this data"),
        ([90, 50, 20], "not a rising law", "AUGC falls with β in this data"),
        ([90, 20, 90], "not a rising law", "AUGC changes with β in this data"),
        ([20, 50, 90], "estimate", "the power law beats a constant by"),
    ],
)
def test_what_three_seeds_can_show(means, status, words):
    result = star(BETA, np.array(means) + NOISE)
    assert result.status == status
    assert words in result.reason
    assert np.isnan(result.value) == (status != "estimate")


def test_refusals_carry_a_reason_and_no_number():
    for table, status in [
        ([[7.0, 7.0, 7.0]] * 2, "no dependence"),
        ([[1.0, np.nan, 2.0]], "refused"),
    ]:
        result = star(BETA, table)
        assert result.status == status
        assert result.reason.startswith("no β★: ")
        assert np.isnan([result.value, result.interval.low, result.interval.high]).all()
    assert star([1.0, 2.0], [[1.0, 2.0]]).status == "refused"


def test_noise_seldom_yields_a_beta_star():
    # 80 tables of 3 seeds × 3 β of pure noise: the AICc test lets few of them through.
    tables = rng(4).uniform(10, 90, (80, 3, 3))
    estimates = sum(fit_power_law(np.tile(BETA, 3), table.ravel()).beats_constant is True for table in tables)
    assert estimates <= 8


def test_many_seeds_use_the_generator_and_few_need_none():
    table = AUGC * np.exp(rng(5).normal(0, 0.2, (8, 3)))  # 8 seeds have 6 435 distinct resamples
    runs = [beta_star(BETA, table, reference="beta_min", rng=rng(seed), n_resamples=40).interval for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    few = [beta_star(BETA, table[:3], reference="beta_min", rng=rng(seed)).interval for seed in (1, 2)]
    assert few[0] == few[1]


def test_the_interval_of_three_seeds_is_quick():
    start = time.perf_counter()
    star(BETA, AUGC * np.exp(rng(6).normal(0, 0.1, (3, 3))))
    assert time.perf_counter() - start < 3


@given(
    points=st.lists(st.tuples(st.floats(-8, 8), st.floats(-30, 10)), min_size=3, max_size=6, unique_by=lambda p: p[0])
)
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("error")
def test_wild_data_give_finite_numbers_or_a_named_refusal(points):
    beta, augc = np.exp(np.array(points)).T
    fit = fit_power_law(beta, augc)
    if fit.refusal is None:
        assert np.isfinite([fit.a, fit.b, fit.c, *fit(beta)]).all()
        assert fit.r_squared <= 1
    for reference in ("beta_min", "grid"):
        value = practical_beta_star(fit, beta, reference)
        assert np.isnan(value) or 0.1 * beta.min() <= value <= 2.001 * beta.max()
