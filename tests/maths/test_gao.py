"""Gao's forms: parameters of simulated curves, AICc and intervals against independent code, error rates, equal d."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from betastar.maths.gao import FORMS, at_distance, fieller, gao_curve, gao_fit, root_kl

NAN = float("nan")


def autocorrelated(rng, n_seeds, n_points, rho):
    """AR(1) noise [S, T] with variance 1."""
    noise = rng.normal(size=(n_seeds, n_points))
    for t in range(1, n_points):
        noise[:, t] = rho * noise[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return noise


def curves(rng, form, alpha, delta, *, n_seeds=5, n_points=40, noise=0.3, rho=0.5, farthest=4.0):
    """Distances and rewards by seed; every seed has a level of its own."""
    d = [np.sqrt(np.linspace(0, far**2, n_points)) for far in rng.uniform(0.8, 1, n_seeds) * farthest]
    y = autocorrelated(rng, n_seeds, n_points, rho) * noise
    return d, [gao_curve(form, x, alpha, delta) + e + rng.normal() for x, e in zip(d, y, strict=True)]


def test_distance_by_hand():
    # 0.09 and 4 are clear of 0; 0.04 is within two errors of 0.03 and −0.01 below 0: k3 counts; −0.25 has no k3.
    found = root_kl([0, 4, 0.09, 0.04, -0.01, -0.25], [0, 0.1, 0.01, 0.03, 0.02, 0.2], [0, 3.9, 0.1, 0.01, 0.0025, NAN])
    np.testing.assert_allclose(found.values, [0, 2, 0.3, 0.1, 0.05, 0])
    assert (found.n_k3, found.n_clamped) == (2, 1)
    # Without errors only negative means are replaced, without k3 by 0; what was not measured stays so.
    plain = root_kl([0.01, -0.01, NAN])
    np.testing.assert_allclose(plain.values, [0.1, 0, NAN])
    assert (plain.n_k3, plain.n_clamped) == (0, 1)
    assert root_kl([-0.01], None, [0.04]).values.tolist() == [0.2]
    with pytest.raises(ValueError, match="equal shapes"):
        root_kl([0.0, 1.0], [0.0])


def test_k3_is_the_less_noisy_estimate_near_the_start():
    # x ~ N(m, 1) sampled from the policy, reference N(0, 1): KL = m²/2.
    rng, m, n = np.random.default_rng(0), 0.1, 200
    ratio = m * (m + rng.normal(size=(4000, n))) - m**2 / 2  # log π − log π_ref
    k1, k3 = ratio.mean(axis=1), (np.expm1(-ratio) + ratio).mean(axis=1)
    errors = ratio.std(axis=1, ddof=1) / np.sqrt(n)
    truth = m / np.sqrt(2)
    ours, clamped = root_kl(k1, errors, k3).values, root_kl(k1).values
    assert np.sqrt(np.mean((ours - truth) ** 2)) < 0.5 * np.sqrt(np.mean((clamped - truth) ** 2))
    assert k3.mean() == pytest.approx(m**2 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("form", "alpha", "delta", "peak"), [("quadratic", 6, 1.5, 2.0), ("logarithmic", 3, 2, 1.6487)]
)
def test_gaos_parameters_are_recovered(form, alpha, delta, peak):
    # d* = 6/(2·1.5) = 2 with height 36/6 = 6; d* = exp(3/2 − 1) with height δ·d*.
    rng = np.random.default_rng(1)
    d, y = curves(rng, form, alpha, delta)
    found = gao_fit(d, y)
    ours = found.forms[form]
    assert (found.best, found.verdict, found.turns, found.reason) == (form, form, True, None)
    assert ours.alpha_interval.low < alpha < ours.alpha_interval.high
    assert ours.delta_interval.low < delta < ours.delta_interval.high
    assert ours.peak.interval.low < peak < ours.peak.interval.high
    assert ours.peak.interval.high - ours.peak.interval.low < 0.5
    # Without noise they are exact, whatever the seeds' levels.
    exact = gao_fit(d, [gao_curve(form, x, alpha, delta) + i for i, x in enumerate(d)]).forms[form]
    assert (exact.alpha, exact.delta, exact.peak.distance) == pytest.approx((alpha, delta, peak), abs=1e-4)
    height = {"quadratic": 6, "logarithmic": 2 * peak}[form]
    assert exact.peak.height == pytest.approx(height, rel=1e-4)
    best = optimize.minimize_scalar(lambda x: -gao_curve(form, x, alpha, delta), bounds=(0, 4), method="bounded")
    assert exact.peak.distance == pytest.approx(best.x, abs=1e-4)
    assert exact.peak.height == pytest.approx(-best.fun)


def test_least_squares_and_covariance_against_plain_code():
    d, y = curves(np.random.default_rng(2), "quadratic", 4, 1, n_seeds=4, n_points=12)

    def coefficients(seeds):
        home = np.concatenate([np.full(12, s) for s in seeds])
        x = np.concatenate([d[s] for s in seeds])
        levels = home[:, None] == np.unique(home)
        design = np.column_stack([x, -(x**2), levels])
        return np.linalg.lstsq(design, np.concatenate([y[s] for s in seeds]), rcond=None)[0][:2]

    found = gao_fit(d, y).forms["quadratic"]
    everyone = coefficients(range(4))
    assert (found.alpha, found.delta) == pytest.approx(everyone)
    without = np.array([coefficients([s for s in range(4) if s != left]) for left in range(4)])
    error = np.sqrt(3 / 4 * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    reach = stats.t.ppf(0.975, 3) * error
    assert found.alpha_interval[:2] == pytest.approx((everyone[0] - reach[0], everyone[0] + reach[0]))
    assert found.delta_interval[:2] == pytest.approx((everyone[1] - reach[1], everyone[1] + reach[1]))


def test_aicc_of_independent_points_is_the_ordinary_one():
    # White noise, many points and two seeds, so that no clustering is estimated: n_effective is n − S, up to the
    # autocorrelations that chance makes.
    d, y = curves(np.random.default_rng(3), "line", 2, 0, n_seeds=2, n_points=400, rho=0.0)
    found = gao_fit(d, y)
    assert found.n_effective == pytest.approx(798, rel=0.15)
    residuals = np.concatenate(
        [b - b.mean() - found.forms["line"].alpha * (a - a.mean()) for a, b in zip(d, y, strict=True)]
    )
    n = found.n_effective
    expected = n * np.log(residuals @ residuals / 798) + 4 + 12 / (n - 3)
    assert found.aicc["line"] == pytest.approx(expected)
    assert set(found.difference) == set(FORMS)
    assert min(found.difference.values()) == 0


def test_fieller_by_hand_and_against_simulation():
    # Independent errors of 0.5 and 0.1, t with 10⁶ degrees of freedom: (4 − θ·2)² ≤ 3.8415·(0.25 + 0.01·θ²).
    found = fieller(4, 2, [[0.25, 0], [0, 0.01]], 10**6)
    for bound in found[:2]:
        assert (4 - 2 * bound) ** 2 == pytest.approx(3.841459 * (0.25 + 0.01 * bound**2), rel=1e-4)
    assert found.low < 2 < found.high
    none = fieller(4, 0.1, [[0.25, 0], [0, 0.01]], 10)
    assert np.isnan(none.low)
    assert none.reason == "δ cannot be told from 0, so the maximum may lie anywhere"
    rng, covered = np.random.default_rng(4), 0
    for _ in range(1000):
        sample = rng.multivariate_normal([4, 2], [[1, 0.2], [0.2, 0.3]], 12)
        means = sample.mean(axis=0)
        low, high = fieller(means[0], means[1], np.cov(sample.T) / 12, 11)[:2]
        covered += low < 2 < high
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("form", ["quadratic", "logarithmic"])
def test_the_interval_of_the_peak_covers_it(form):
    rng, alpha, delta = np.random.default_rng(5), 5.0, 2.0
    peak = alpha / 2 / delta if form == "quadratic" else np.exp(alpha / delta - 1)
    intervals = []
    for _ in range(200):
        # Seeds differ in α, so the points of a seed err together.
        d, y = curves(rng, form, alpha, delta, n_seeds=5, n_points=20, rho=0.7, noise=0.5, farthest=7)
        y = [b + 0.3 * rng.normal() * a for a, b in zip(d, y, strict=True)]
        intervals.append(gao_fit(d, y).forms[form].peak.interval[:2])
    covered = np.mean([low < peak < high for low, high in intervals])
    assert covered > 0.90  # 95 % ± 1.5 is promised


def called(rng, truth, n_seeds, n_points, noise, slopes, repeats=200):
    """Shares of simulated experiments by verdict: points along d = 0 … 3, AR(1) noise, slopes that differ by seed."""
    verdicts = []
    for _ in range(repeats):
        d, y = curves(rng, *truth, n_seeds=n_seeds, n_points=n_points, rho=noise, noise=1.0, farthest=3)
        verdicts.append(gao_fit(d, [b + slopes * rng.normal() * a for a, b in zip(d, y, strict=True)]).verdict)
    return {name: verdicts.count(name) / repeats for name in (*FORMS, "not distinguishable", "undefined")}


@pytest.mark.parametrize(
    ("n_seeds", "n_points", "noise", "slopes"),
    [(3, 17, 0.7, 0.0), (5, 17, 0.7, 0.0), (5, 60, 0.9, 0.0), (5, 17, 0.0, 1.0)],
)
@pytest.mark.thorough
def test_correlated_noise_is_seldom_called_a_curve(n_seeds, n_points, noise, slopes):
    # Points counted as independent find a curve in 10 to 40 % of these.
    flat = called(np.random.default_rng(6), ("none", 0, 0), n_seeds, n_points, noise, slopes)
    assert flat["quadratic"] + flat["logarithmic"] <= 0.06
    straight = called(np.random.default_rng(7), ("line", 1, 0), n_seeds, n_points, noise, slopes)
    assert straight["quadratic"] + straight["logarithmic"] <= 0.06


def test_a_clear_curve_is_found():
    found = called(np.random.default_rng(8), ("quadratic", 12, 3), 5, 17, 0.7, 0.0)
    assert found["quadratic"] + found["not distinguishable"] > 0.9
    assert found["none"] == found["line"] == 0


def test_forms_that_cannot_be_told_apart_are_not():
    # A short stretch of a quadratic curve is almost straight.
    rng, three = np.random.default_rng(9), 0
    for _ in range(40):
        found = gao_fit(*curves(rng, "quadratic", 4, 0.2, n_points=60, farthest=1.0))
        near = [form for form in FORMS if found.difference[form] < 2]
        assert found.plausible == tuple(near)
        assert (found.verdict == "not distinguishable") == (len(near) > 1) == (found.best is None)
        if len(near) > 1:
            assert found.reason == f"AICc differs by less than 2 between {', '.join(near)}"
            assert not found.turns
        three += near == ["line", "quadratic", "logarithmic"]
    assert three >= 10


@pytest.mark.parametrize(
    ("distance", "reward", "reason"),
    [
        ([[0, 1, 2]], [[0, 1, 2]], "3 points in 1 seed are too few for a curve"),
        ([[]], [[]], "0 points in 0 seeds are too few for a curve"),
        ([[0, 1, 2, 3, 4, NAN, 6]] * 2, [[1] * 7] * 2, "the reward does not change within any seed"),
        (
            [[1] * 7, [2] * 7, [3] * 7, [4] * 7],
            [[1, 2, 3, 4, 5, 6, 7]] * 4,
            "the distance does not change within any seed",
        ),
    ],
)
def test_what_is_undefined_says_why(distance, reward, reason):
    found = gao_fit(distance, reward)
    assert (found.verdict, found.reason, found.best) == ("undefined", reason, None)
    assert np.isnan(found.aicc["line"])
    assert found.forms["quadratic"].peak.reason == reason


def test_peaks_that_do_not_exist_say_why():
    rng = np.random.default_rng(10)
    up = gao_fit(*curves(rng, "quadratic", 1, -1)).forms["quadratic"].peak
    assert up.reason == "no maximum: δ ≤ 0, so the curve bends upwards"
    down = gao_fit(*curves(rng, "quadratic", -1, 1)).forms["quadratic"].peak
    assert down.reason == "no maximum: α ≤ 0, so the reward falls from the start"
    far = gao_fit(*curves(rng, "quadratic", 12, 1)).forms["quadratic"].peak
    assert far.distance == pytest.approx(6, abs=0.5)
    assert far.inside is False
    one = gao_fit(*curves(rng, "quadratic", 6, 1.5, n_seeds=1))
    assert one.forms["quadratic"].alpha_interval.reason == "an interval over seeds needs two seeds"
    assert one.best is not None
    assert one.forms["quadratic"].peak.distance == pytest.approx(2, abs=0.2)
    assert one.forms["quadratic"].peak.interval.reason == "an interval over seeds needs two seeds"


def test_a_curve_at_equal_distances_by_hand():
    # d: 0 1 3 2 4. 2 is first crossed half-way between 1 and 3, 3.5 between 2 and 4, at three quarters.
    d, y = [0, 1, 3, 2, 4], [10, 20, 40, 100, 200]
    np.testing.assert_allclose(at_distance(d, y, [0, 0.5, 1, 2, 3, 3.5, 4]), [10, 15, 20, 30, 40, 175, 200])
    np.testing.assert_array_equal(at_distance(d, y, [-0.1, 4.1]), [NAN, NAN])
    # From the base the start is at a distance; below it nothing is crossed. Undefined points are left out.
    np.testing.assert_array_equal(at_distance([2, NAN, 3], [1, 5, 3], [1, 2, 2.5]), [NAN, 1, 2])
    assert np.isnan(at_distance([], [], [1.0])).all()
    np.testing.assert_array_equal(at_distance([1.0], [7.0], [1.0, 2.0]), [7, NAN])
