"""The power law: against the curve that made the data, non-negative least squares, SciPy, and arithmetic."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from betastar.maths import power_law
from betastar.maths.power_law import fit_power_law, fit_power_laws, practical_beta_star

# arXiv:2606.30627 Table 1
BETA = np.array([0.310, 1.000, 2.379])
AUGC = np.array([31.1, 43.0, 145.8])


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
@example([(0.0, 0.375), (-2.0, 0.0), (-2.75, 0.0), (-2.375, 1.0)])  # nearly flat in b
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
        for b in np.geomspace(0.01, power_law.steepest_exponent(beta), 60)
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
        ([1.0, 2.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0], "too few β", "2 distinct values of β"),
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

    monkeypatch.setattr(power_law, "curve_fit", exhausted)
    assert fit_power_law(BETA, AUGC).refusal == "no convergence"


def test_impossible_input_is_an_error():
    with pytest.raises(ValueError, match="positive"):
        fit_power_law([0.0, 1.0, 2.0], AUGC)
    with pytest.raises(ValueError, match="at least 0"):
        fit_power_law(BETA, -AUGC)
    with pytest.raises(ValueError, match="must both be"):
        fit_power_law(BETA, AUGC[:2])


@pytest.mark.parametrize(("reference", "printed"), [("beta_min", 1.105), ("grid", 1.081)])
def test_both_readings_of_the_papers_beta_star(reference, printed):
    # errata E5: the paper prints 1.082. By hand, with its data's exact fit 12.523·β^2.5617 + 30.477:
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


def test_the_exponent_is_bounded_by_what_the_grid_can_tell():
    # 100 = 3^4.19: with β of 1/3, 1 and 3, an exponent of 4.19 leaves 1 % of the rise at β = 1.
    beta = np.array([1 / 3, 1.0, 3.0])
    assert power_law.steepest_exponent(beta) == pytest.approx(np.log(100) / np.log(3))
    assert power_law.steepest_exponent([1.0, 1.0, 2.0, 4.0]) == pytest.approx(np.log(100) / np.log(2))
    fit = fit_power_law(beta, [90.0, 90.0, 180.0])  # unbounded, the least squares are at b → ∞ (76 in a real run)
    assert fit.b == pytest.approx(np.log(100) / np.log(3), rel=1e-3)
    assert fit_power_laws(beta, [[90.0, 90.0, 180.0]]).b == pytest.approx([fit.b], rel=1e-3)
