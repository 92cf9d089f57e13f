import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from betastar.maths.statistics import (
    aicc,
    mean_and_standard_error,
    pearson,
    seed_resamples,
    spearman_exact,
)

pairs = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=6)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_mean_and_standard_error_by_hand():
    # Deviations from 3: −2, 0, 2; variance 8/2 = 4; standard error 2/√3.
    mean, error, n = mean_and_standard_error([1.0, 3.0, 5.0])
    assert (mean, error, n) == (3, pytest.approx(2 / 3**0.5), 3)


@pytest.mark.parametrize(
    ("values", "mean", "n", "reason"),
    [
        ([2.0], 2.0, 1, "a standard error needs two values"),
        ([], np.nan, 0, "there are no values"),
        ([1.0, np.nan], np.nan, 2, "a value is undefined"),
    ],
)
def test_undefined_standard_error_is_nan_with_a_reason(values, mean, n, reason):
    result = mean_and_standard_error(values)
    assert result.mean == pytest.approx(mean, nan_ok=True)
    assert np.isnan(result.standard_error)
    assert (result.n, result.reason) == (n, reason)
    assert mean_and_standard_error([1.0, 2.0]).reason is None


def test_two_seeds_have_three_resamples():
    draws, weights = seed_resamples(2, rng(), 1000)
    assert draws.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert weights.tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize(("n_seeds", "distinct"), [(1, 1), (3, 10), (4, 35), (6, 462)])
def test_few_seeds_are_enumerated_with_the_probabilities_of_the_multinomial(n_seeds, distinct):
    draws, weights = seed_resamples(n_seeds, rng(), 1000)
    counts = np.array([np.bincount(draw, minlength=n_seeds) for draw in draws])
    assert len(draws) == distinct == len(np.unique(draws, axis=0))
    assert weights == pytest.approx(stats.multinomial.pmf(counts, n_seeds, np.full(n_seeds, 1 / n_seeds)))


def test_many_seeds_are_drawn_and_merged():
    draws, weights = seed_resamples(12, rng(), 500)
    assert weights.sum() == pytest.approx(1)
    assert len(draws) == len(np.unique(draws, axis=0)) <= 500
    assert weights @ np.array([(draw == 0).sum() for draw in draws]) == pytest.approx(1, abs=0.15)


def test_counts_of_a_resample():
    assert seed_resamples(2, rng(), 10).counts.tolist() == [[2, 0], [1, 1], [0, 2]]


def test_three_ordered_beta_cannot_reach_five_percent():
    # errata E4: the paper prints ρ = 1, "p = 0.0000". One of 3! = 6 orders has ρ = 1, one more has ρ = −1.
    result = spearman_exact([0.310, 1.0, 2.379], [31.1, 43.0, 145.8])
    assert result.rho == 1
    assert result.p_greater == pytest.approx(1 / 6)
    assert result.p_two_sided == pytest.approx(1 / 3)
    assert (result.p_less, result.n, result.exact, result.reason) == (1, 3, True, None)


def test_four_beta_reach_it_one_sided_and_five_two_sided():
    four, five = (spearman_exact(range(n), range(n)) for n in (4, 5))
    assert four.p_greater == pytest.approx(1 / 24)
    assert four.p_two_sided == pytest.approx(1 / 12)
    assert five.p_two_sided == pytest.approx(1 / 60)


def test_spearman_with_ties_by_hand():
    # Midranks of y: 1.5, 1.5, 3. Of the 6 orders, 2 put the 3 last, so ρ is at its largest with p = 2/6.
    result = spearman_exact([1, 2, 3], [0, 0, 7])
    assert result.p_greater == pytest.approx(2 / 6)
    # ranks − mean: (−1, 0, 1)·(−0.5, −0.5, 1) = 1.5; norms √2 and √1.5: ρ = 1.5/√3.
    assert result.rho == pytest.approx(1.5 / 3**0.5)


@given(pairs=pairs)
@settings(max_examples=30, deadline=None)
def test_spearman_agrees_with_scipy_and_with_its_exact_permutation_test(pairs):
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(spearman_exact(x, y).rho)
        return
    result = spearman_exact(x, y)
    assert result.rho == pytest.approx(np.asarray(stats.spearmanr(x, y))[0])
    rx, ry = stats.rankdata(x), stats.rankdata(y)
    test = stats.permutation_test(
        (rx,), lambda r, axis: (r * ry).sum(axis=axis), permutation_type="pairings", vectorized=True,
        alternative="greater", n_resamples=10_000,
    )  # fmt: skip
    assert result.p_greater == pytest.approx(float(test.pvalue))


@given(pairs=pairs, order=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_spearman_ignores_joint_order_and_monotone_maps(pairs, order):
    x, y = np.array(pairs, dtype=float).T
    shuffled = list(range(len(x)))
    order.shuffle(shuffled)
    original = spearman_exact(x, y)
    for changed in (spearman_exact(x[shuffled], y[shuffled]), spearman_exact(x**3, 2 * y - 7)):
        assert changed.rho == pytest.approx(original.rho, nan_ok=True)
        assert changed.p_greater == pytest.approx(original.p_greater, nan_ok=True)
        assert changed.p_two_sided == pytest.approx(original.p_two_sided, nan_ok=True)
    falling = spearman_exact(x, -y)
    assert falling.p_less == pytest.approx(original.p_greater, nan_ok=True)


def test_nine_pairs_are_exact_and_ten_are_sampled():
    nine = spearman_exact(range(9), range(9))
    assert nine.exact
    assert nine.p_greater == pytest.approx(1 / 362_880)
    x, y = np.arange(12), np.array([3, 1, 2, 0, 7, 5, 4, 6, 11, 9, 8, 10])
    sampled, again = (spearman_exact(x, -y, rng=rng(5), n_permutations=2000) for _ in range(2))
    assert sampled == again
    assert not sampled.exact
    assert sampled.rho == pytest.approx(np.asarray(stats.spearmanr(x, -y))[0])
    assert sampled.p_less == pytest.approx(1 / 2001, abs=3 / 2001), "the order seen always counts, so p is never 0"
    assert sampled.p_less > 0
    with pytest.raises(ValueError, match="give rng"):
        spearman_exact(x, y)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 1, 1], [1, 2, 3], "one side is constant"),
        ([1.0, np.nan, 2], [1, 2, 3], "a value is undefined"),
        ([1], [1], "a correlation needs 2 pairs, there are 1"),
    ],
)
def test_undefined_spearman_is_nan_with_a_reason(x, y, reason):
    result = spearman_exact(x, y)
    assert np.isnan([result.rho, result.p_greater, result.p_less, result.p_two_sided]).all()
    assert result.reason == reason


@given(values=st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=10))
def test_pearson_agrees_with_numpy(values):
    x, y = np.array(values, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(pearson(x, y))
    else:
        assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


@pytest.mark.parametrize("x", [[1, 1, 1], [1, np.nan, 2], [1, np.inf, 2]])
def test_undefined_pearson_is_nan(x):
    assert np.isnan(pearson(x, [1, 2, 3]))
    assert np.isnan(pearson([1, 2], [1, 2]))


def test_correlations_refuse_unequal_shapes():
    with pytest.raises(ValueError, match=r"both be \[n\]"):
        pearson([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"both be \[n\]"):
        spearman_exact([1, 2, 3], [1, 2])


def test_aicc_by_hand():
    # n ln(8/8) + 2·2 + 2·2·3/(8 − 3) = 0 + 4 + 2.4.
    assert aicc(8.0, 8, 2) == pytest.approx(6.4)
    assert np.isnan(aicc(1.0, 5, 4)), "n ≤ k + 1"
    assert aicc(0.0, 8, 2) == -np.inf
