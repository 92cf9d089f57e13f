"""Outcomes of a condition against SciPy, brute force over all sign flips, closed forms and simulated noise."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from betastar.maths.answers import within_problem_auroc
from betastar.maths.outcomes import (
    area_floor,
    dunnett_probability,
    dunnett_quantile,
    expected_maximum,
    is_the_truth,
    mean_interval,
    paired_peak,
    plain_peak,
    points_lost,
    positive_area_floor,
    regression_adjusted,
    regret_interval,
    series_noise,
    sign_flip_p,
    split_half_lowest,
    split_half_regret,
    time_weights,
)


def test_one_answer_each_is_mcnemars_exact_test() -> None:
    # 3 gained, 11 lost, 50 unchanged: the binomial test of 3 among 14.
    d = np.repeat([1.0, -1.0, 0.0], [3, 11, 50])
    assert sign_flip_p(d) == pytest.approx(stats.binomtest(3, 14).pvalue, rel=1e-12)
    assert sign_flip_p(d) == pytest.approx(0.057373, abs=1e-6)  # 2·Σ_{k≤3} C(14, k)/2^14 = 940/16384
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert np.isnan(sign_flip_p([]))


@pytest.mark.parametrize("answers", [2, 3, 4])
def test_several_answers_each_are_all_sign_flips_counted(answers: int) -> None:
    rng = np.random.default_rng(answers)
    d = rng.integers(-answers, answers + 1, 10) / answers
    sums = np.array([np.dot(signs, np.abs(d)) for signs in product((-1, 1), repeat=10)])
    assert sign_flip_p(d) == pytest.approx(np.mean(np.abs(sums) >= abs(d.sum()) - 1e-9), abs=1e-12)


def test_scores_get_the_paired_t_test() -> None:
    d = np.random.default_rng(0).normal(0.1, 1.0, 30)
    t: Any = stats.ttest_1samp(d, 0)
    assert sign_flip_p(d) == pytest.approx(t.pvalue)
    assert np.isnan(sign_flip_p([np.pi, np.pi]))


def test_the_interval_of_a_change_is_bonett_and_prices() -> None:
    # b = 11 lost, c = 3 gained of n = 64: p̃ = 12/66 and 4/66, difference −8/66,
    # standard error √((16/66 − (8/66)²)/66) = 0.058741; 1.959964 of it are 0.115130.
    found = mean_interval(np.repeat([1.0, -1.0, 0.0], [3, 11, 50]), size=1.0)
    assert (found.low, found.high) == pytest.approx((-8 / 66 - 0.115130, -8 / 66 + 0.115130), abs=2e-6)
    still = mean_interval(np.zeros(64), size=1.0)
    assert still.low == pytest.approx(-1.959964 * np.sqrt(2) / 66, abs=1e-6)  # no change seen is not no change


def test_without_a_size_it_is_students_t() -> None:
    d = np.random.default_rng(1).normal(size=12)
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert mean_interval([*d, np.nan])[:2] == pytest.approx((expected.low, expected.high))
    assert mean_interval([1.0]).reason == "an interval over problems needs two problems"
    assert "same value" in (mean_interval([2.0, 2.0]).reason or "")


def flat(rng: np.random.Generator, points: int, problems: int) -> np.ndarray:
    """Grades of a policy that does not change: every problem has its own chance, and fresh noise at each point."""
    return (rng.random((points, problems)) < rng.random(problems)).astype(float)


def test_regret_has_no_floor_of_noise_and_the_plain_maximum_has() -> None:
    rng = np.random.default_rng(2)
    runs = [flat(rng, 11, 100) for _ in range(400)]
    ours = np.array([split_half_regret(run, rng, 16).value for run in runs])
    plain = np.array([run.mean(axis=1).max() - run[-1].mean() for run in runs])
    assert abs(ours.mean()) < 3 * ours.std() / 20  # √400 = 20: zero within its error
    assert plain.mean() > 10 * plain.std() / 20
    # Σ p(1 − p) over p uniform is 1/6: each mean has sd √(1/6/100) = 0.0408, and 11 normals reach 1.586 of it.
    assert plain.mean() == pytest.approx(0.0408 * 1.586, rel=0.1)
    low = split_half_lowest(runs[0], rng)
    assert low > runs[0].mean(axis=1).min()


def test_a_certain_peak_is_measured_whole() -> None:
    # 40 problems; 10 more right at step 1 than at the end, whichever half chooses.
    truth = np.zeros((3, 40))
    truth[1] = 1.0
    truth[2, ::2] = 1.0
    found = split_half_regret(truth, np.random.default_rng(0))
    assert found.value == pytest.approx(0.5)
    assert found.peak == 1
    assert found.contributions.tolist() == [0.0, 1.0] * 20
    # Equal steps: the earliest is the best, and stopping there loses nothing.
    same = split_half_regret(np.ones((4, 5)), np.random.default_rng(0))
    assert (same.value, same.peak) == (0.0, 0)
    with pytest.raises(ValueError, match="two problems"):
        split_half_regret(np.ones((3, 1)), np.random.default_rng(0))


def test_the_interval_of_regret_rarely_sees_a_fall_in_a_flat_truth() -> None:
    rng = np.random.default_rng(3)
    alarms = [regret_interval(split_half_regret(flat(rng, 8, 120), rng, 12), size=1.0).low > 0 for _ in range(500)]
    assert np.mean(alarms) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 500)


def test_luck_of_the_best_point_is_dunnetts() -> None:
    # The largest of 2 and of 3 standard normals: 1/√π and 3/(2√π).
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(1 / np.sqrt(np.pi), rel=1e-6)
    assert expected_maximum(3) == pytest.approx(1.5 / np.sqrt(np.pi), rel=1e-6)
    # One step against the end: a difference of two normals, N(0, 2).
    assert dunnett_quantile(1, 0.975) == pytest.approx(np.sqrt(2) * stats.norm.ppf(0.975), rel=1e-5)
    # Ten: SciPy's multivariate normal with correlation ½ between any two differences.
    q = dunnett_quantile(10, 0.95)
    normal: Any = stats.multivariate_normal
    joint = normal(np.zeros(10), cov=np.eye(10) + 1.0, maxpts=200_000)
    assert joint.cdf(np.full(10, q)) == pytest.approx(0.95, abs=2e-3)
    assert dunnett_probability(10, q) == pytest.approx(0.95, abs=1e-9)


def test_the_peak_of_means_knows_what_noise_alone_would_give() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 0.03, (2000, 11))
    found = [plain_peak(run, 0.03) for run in noise]
    assert found[0].floor == pytest.approx(np.mean([p.fall for p in found]), rel=0.05)
    assert np.mean([p.low > 0 for p in found]) == pytest.approx(0.025, abs=3 * np.sqrt(0.025 * 0.975 / 2000))
    assert np.mean([p.p < 0.1 for p in found]) == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / 2000))
    unknown = plain_peak([0.1, 0.3, 0.2], float("nan"))
    assert (unknown.at, unknown.fall) == (1, pytest.approx(0.1))
    assert np.isnan(unknown.low)


def test_the_peak_by_problem_keeps_how_points_hang_together() -> None:
    # The same noise at all points cancels in every difference: nothing is left to chance.
    rng = np.random.default_rng(5)
    truth = np.tile((rng.random(200) < 0.5).astype(float), (6, 1))
    truth[3, truth[3] == 0] = rng.random(int((truth[3] == 0).sum())) < 0.2
    found = paired_peak(truth, rng)
    assert found.at == 3
    assert found.low > 0
    assert found.p < 0.01
    noisy = [paired_peak(flat(rng, 6, 150), rng, 300).low > 0 for _ in range(300)]
    assert np.mean(noisy) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 300)


def test_the_noise_of_a_series_is_seen_on_any_smooth_course() -> None:
    rng = np.random.default_rng(6)
    steps = np.sort(rng.choice(1000, 200, replace=False))
    straight = 3.0 - 0.01 * steps
    assert series_noise(steps, straight).deviation == pytest.approx(0, abs=1e-12)
    found = [series_noise(steps, straight + rng.normal(0, 0.2, 200)) for _ in range(200)]
    squares = np.array([f.deviation**2 for f in found])
    assert squares.mean() == pytest.approx(0.04, rel=0.03)
    # χ² with ν degrees of freedom has a relative variance of 2/ν.
    assert 2 * squares.mean() ** 2 / squares.var() == pytest.approx(found[0].freedom, rel=0.3)
    assert np.isnan(series_noise([0, 1, 2], [1.0, 2.0, 1.0]).deviation)


def test_areas_and_the_points_lost() -> None:
    assert time_weights([0, 10, 40]).tolist() == [5, 20, 15]
    assert time_weights([0, 10, 40]) @ [1.0, 3.0, 5.0] == np.trapezoid([1.0, 3.0, 5.0], [0, 10, 40])
    # Below the start by 0, 0.1, 0 and 0.2 over equal steps: (0.1 + 0.2/2)/3.
    assert points_lost([0, 1, 2, 3], [0.5, 0.4, 0.6, 0.3]) == pytest.approx(0.2 / 3)
    assert np.isnan(points_lost([0], [0.5]))


@pytest.mark.parametrize("steps", [np.arange(0, 41, 5), np.array([0, 1, 2, 5, 10, 20, 40])])
def test_floors_are_the_means_of_simulated_noise(steps: np.ndarray) -> None:
    """A/A: every evaluation has its own error of sd 0.11/√2, so that a difference to the start has 0.11."""
    rng = np.random.default_rng(7)
    error = rng.normal(0, 0.11 / np.sqrt(2), (40_000, steps.size))
    gap = error - error[:, :1]
    positive = np.trapezoid(np.maximum(gap, 0), steps, axis=1)
    signed = np.trapezoid(gap, steps, axis=1)
    assert positive_area_floor(steps, 0.11) == pytest.approx(positive.mean(), rel=0.02)
    assert area_floor(steps, 0.11) == pytest.approx(signed.std(), rel=0.02)
    if steps.size == 9:
        assert positive_area_floor(steps, 0.11) == pytest.approx(37.5 * 0.11 / np.sqrt(2 * np.pi))  # 1.65, not 0.85


def test_ranking_within_problems_is_mann_whitneys() -> None:
    rng = np.random.default_rng(8)
    proxy = rng.integers(0, 5, (30, 8)).astype(float)  # many ties
    truth = (rng.random((30, 8)) < 0.5).astype(float)
    truth[0], truth[1], proxy[2, 3] = 1.0, 0.0, np.nan
    found = within_problem_auroc(proxy, truth)
    assert np.isnan(found[:2]).all()
    for problem in range(2, 30):
        known = ~np.isnan(proxy[problem])
        right, wrong = (proxy[problem][known & (truth[problem] == grade)] for grade in (1, 0))
        if right.size and wrong.size:
            u = stats.mannwhitneyu(right, wrong).statistic
            assert found[problem] == pytest.approx(u / right.size / wrong.size)


def test_the_adjusted_gap_is_what_least_squares_leaves() -> None:
    """Residuals of standardised data: truth on proxy, and proxy on truth in its own standard deviations."""
    rng = np.random.default_rng(9)
    proxy, truth = rng.multivariate_normal([0, 0], [[1, 0.4], [0.4, 1]], 500).T
    proxy, truth = ((side - side.mean()) / side.std() for side in (proxy, truth))
    r = float(np.corrcoef(proxy, truth)[0, 1])
    found = [regression_adjusted(p, t, r) for p, t in zip(proxy, truth, strict=True)]
    line: Any = stats.linregress(proxy, truth)
    assert [f.gap for f in found] == pytest.approx(line.slope * proxy - truth)
    assert np.std([f.departure for f in found]) == pytest.approx(1)
    assert np.isnan(regression_adjusted(1.0, 1.0, 1.0).departure)


@pytest.mark.parametrize(
    ("proxy", "truth", "same"),
    [
        ([0.1, 0.3, 0.2, 0.6], [0.1, 0.3, 0.2, 0.6], True),
        ([1.1, 1.3, 1.2, 1.6], [0.1, 0.3, 0.2, 0.6], True),  # another constant
        ([-0.1, -0.3, -0.2, -0.6], [0.1, 0.3, 0.2, 0.6], False),  # the other way
        ([0.1, 0.3, 0.2, 0.61], [0.1, 0.3, 0.2, 0.6], False),
        ([1.1, 1.3], [0.1, 0.3], False),  # any two points lie on a line
        ([0.1, 0.3], [0.1, 0.3], True),
        ([0.5] * 5, [0.5] * 5, False),  # nothing moves
        ([1.0] * 5, [0.1, 0.3, 0.2, 0.6, 0.5], False),
    ],
)
def test_whether_the_proxy_is_the_truth(proxy: list[float], truth: list[float], same: bool) -> None:
    assert is_the_truth(proxy, truth) is same
