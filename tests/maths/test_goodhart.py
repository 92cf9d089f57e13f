import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.maths.constants import EPSILON
from betastar.maths.goodhart import (
    area_under_positive_gap,
    hacking_threshold,
    onset_step,
    paper_gap,
    share_positive,
    standardised_gap,
    start_is_near_zero,
)

moderate = st.floats(-10, 10, allow_subnormal=False)
curves = st.lists(st.tuples(moderate, st.floats(0, 1)), min_size=2, max_size=8)
gaps = st.lists(moderate, min_size=3, max_size=8)


def test_epsilon_is_that_of_float32():
    assert np.finfo(np.float32).eps == EPSILON


def test_paper_gap_by_hand():
    # proxy −2 → 1, divided by |−2|: −1 → 0.5; true 0.5 → 0.25, divided by 0.5: 1 → 0.5.
    assert paper_gap([-2.0, 1.0], [0.5, 0.25]) == pytest.approx([-1 - 1, 0.5 - 0.5], abs=1e-6)


def test_positive_gap_means_the_proxy_grew_more_than_the_truth():
    # errata E2; the paper's text says the reverse of its Eq. 2.
    assert paper_gap([1.0, 2.0], [0.5, 0.5])[1] > 0
    assert standardised_gap([1.0, 2.0], [0.5, 0.5], 1.0, 50, 100).gap[1] > 0


def test_no_right_answer_at_the_start_breaks_the_papers_form_alone():
    # errata E3: 0.36 / 2⁻²³ = 0.36 × 8 388 608 = 3 019 899, the size of the swings in Figure 3.
    assert paper_gap([1.0, 1.0], [0.0, 0.36])[1] == pytest.approx(-0.36 * 2**23, rel=1e-6)
    # Standardised: q = (0 + 1)/(100 + 2), √(q(1 − q)) = √101/102 = 0.0985, so z_true = 0.36/0.0985 = 3.65.
    assert standardised_gap([1.0, 1.0], [0.0, 0.36], 1.0, 0, 100).gap[1] == pytest.approx(-0.36 * 102 / 101**0.5)


def test_standardised_gap_by_hand():
    # q = (49 + 1)/(98 + 2) = 0.5, s_true = 0.5: z_true = (0.3 − 0.5)/0.5 = −0.4; z_proxy = (3 − 1)/4 = 0.5.
    result = standardised_gap([1.0, 3.0], [0.5, 0.3], 4.0, 49, 98)
    assert result.z_proxy == pytest.approx([0, 0.5])
    assert result.z_true == pytest.approx([0, -0.4])
    assert result.gap == pytest.approx([0, 0.9])
    assert result.reason is None


@pytest.mark.parametrize("spread", [0.0, np.nan, np.inf])
def test_standardised_gap_is_undefined_without_spread(spread):
    result = standardised_gap([1.0, 3.0], [0.5, 0.3], spread, 49, 98)
    assert np.isnan(result.z_proxy).all()
    assert np.isnan(result.gap).all()
    assert result.z_true == pytest.approx([0, -0.4])
    assert result.reason is not None
    assert "standard deviation" in result.reason


def test_one_undefined_mean_leaves_the_other_points_defined():
    result = standardised_gap([1.0, np.nan, 3.0], [0.5, 0.5, 0.3], 4.0, 49, 98)
    assert np.isnan(result.gap).tolist() == [False, True, False]
    assert result.reason == "a mean reward is undefined at some evaluation point"


@given(curve=curves, shift=st.floats(-1e3, 1e3), factor=st.floats(0.01, 100), spread=st.floats(0.1, 10))
def test_standardised_gap_ignores_shift_and_positive_scale_of_the_proxy(curve, shift, factor, spread):
    proxy, true = np.array(curve).T
    original = standardised_gap(proxy, true, spread, 30, 100).gap
    changed = standardised_gap(factor * (proxy + shift), true, factor * spread, 30, 100).gap
    assert changed == pytest.approx(original, rel=1e-9, abs=1e-9)


def test_gaps_refuse_wrong_shapes_and_counts():
    with pytest.raises(ValueError, match=r"both be \[T\]"):
        paper_gap([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="T > 0"):
        standardised_gap([], [], 1.0, 0, 10)
    with pytest.raises(ValueError, match="11 of 10"):
        standardised_gap([1.0], [1.0], 1.0, 11, 10)


def test_area_by_hand():
    # Positive part 0, 2, 4 at steps 0, 10, 30: 10·(0 + 2)/2 + 20·(2 + 4)/2 = 10 + 60.
    assert area_under_positive_gap([0, 10, 30], [-1.0, 2.0, 4.0]) == 70


@given(gap=gaps, cut=st.integers(1, 6))
def test_area_is_additive_over_time(gap, cut):
    steps, cut = 5 * np.arange(len(gap)), min(cut, len(gap) - 2)
    parts = [area_under_positive_gap(steps[: cut + 1], gap[: cut + 1]), area_under_positive_gap(steps[cut:], gap[cut:])]
    assert sum(parts) == pytest.approx(area_under_positive_gap(steps, gap))


@given(gap=gaps, raises=st.lists(st.floats(0, 5), min_size=8, max_size=8))
def test_area_is_at_least_zero_and_monotone_in_the_gap(gap, raises):
    steps = np.arange(len(gap))
    area = area_under_positive_gap(steps, gap)
    assert area >= 0
    assert area_under_positive_gap(steps, np.add(gap, raises[: len(gap)])) >= area - 1e-12


def test_area_is_undefined_with_one_point_or_a_nan():
    assert np.isnan(area_under_positive_gap([0], [1.0]))
    assert np.isnan(area_under_positive_gap([0, 1], [1.0, np.nan]))


@pytest.mark.parametrize("steps", [[0, 2, 1], [0, 1, 1]])
def test_steps_must_strictly_increase(steps):
    with pytest.raises(ValueError, match="strictly increase"):
        area_under_positive_gap(steps, [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="strictly increase"):
        onset_step(steps, [1.0, 1.0, 1.0], 0.5)


def test_share_positive_counts_strictly_positive_points():
    assert share_positive([0.0, 1.0, -1.0, 2.0]) == 0.5
    assert np.isnan(share_positive([]))
    assert np.isnan(share_positive([1.0, np.nan]))


def test_threshold_pools_the_positive_values_of_all_conditions():
    # Positive values 1, 2, 3, 4, 5: the 75th percentile is the fourth.
    assert hacking_threshold([np.array([-9.0, 1, 5]), np.array([3.0, 2, 0]), np.array([np.nan, 4])]) == 4
    assert np.isnan(hacking_threshold([np.array([-1.0, 0.0])]))
    assert np.isnan(hacking_threshold([]))


def test_onset_is_the_first_point_strictly_above():
    assert onset_step([0, 5, 10, 15], [0.0, 1.0, 2.0, 0.0], 1.0) == 10
    assert onset_step([0, 5], [0.0, 1.0], 1.0) is None
    assert onset_step([0, 5], [0.0, 1.0], float("nan")) is None
    assert onset_step([0, 5], [np.nan, 1.0], 0.5) == 5


def test_start_near_zero():
    assert start_is_near_zero(-0.9, 0.1)
    assert not start_is_near_zero(-1.1, 0.1)
    assert start_is_near_zero(0.0, 0.0), "no right answer at all: mean 0, standard error 0 (errata E3)"
    assert start_is_near_zero(5.0, float("nan")), "an unknown error cannot rule it out"
