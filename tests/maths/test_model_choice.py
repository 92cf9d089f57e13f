"""The power law against simpler models: AICc by hand and from data whose law is known."""

from math import isnan, log

import numpy as np
import pytest

from betastar.maths.model_choice import compare_models, leave_one_beta_out
from betastar.maths.power_law import fit_power_law

BETA = np.array([0.1, 0.3, 1.0, 3.0, 10.0])
SHAPES = {
    "power law": 2 * BETA**1.8 + 10,
    "constant": np.full(5, 40.0),
    "linear": 40 - 3 * BETA,
    "logarithmic": 40 - 5 * np.log(BETA),
}
NOISE = np.random.default_rng(11).normal(0, 0.5, (4, 5))
NOISE -= NOISE.mean(axis=0)  # of the seeds; their mean curve is the shape itself


def compared(table):
    beta, augc = np.tile(BETA, len(table)), np.ravel(table)
    return compare_models(beta, augc, fit_power_law(beta, augc))


@pytest.mark.parametrize("name", SHAPES)
def test_the_model_that_made_the_data_is_found(name):
    result = compared(SHAPES[name] + NOISE)
    assert result.best == name
    assert result.difference[name] == 0
    assert result.n == 20
    assert all(difference >= 0 for difference in result.difference.values())


def test_aicc_of_a_constant_by_hand():
    """n·ln(RSS/n) + 2k + 2k(k+1)/(n−k−1), k = 2: the mean and the residual variance."""
    y = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 7.0])
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    rss, n = float(((y - y.mean()) ** 2).sum()), 6
    by_hand = n * log(rss / n) + 4 + 12 / (n - 3)
    found = compare_models(x, y, fit_power_law(x, y)).aicc
    assert found["constant"] == pytest.approx(by_hand)
    slope, intercept = np.polyfit(x, y, 1)
    error = float(((y - intercept - slope * x) ** 2).sum())
    assert found["linear"] == pytest.approx(n * log(error / n) + 6 + 24 / (n - 4))


def test_too_few_points_have_no_best_model_and_say_so():
    result = compared([SHAPES["linear"]])
    assert result.best is None
    assert result.reason == "5 points are too few for the AICc of: power law"
    assert isnan(result.aicc["power law"])
    assert not isnan(result.aicc["constant"])


def test_a_left_out_beta_is_predicted_from_the_others():
    """A line predicts a left-out point of a line exactly; the constant misses it by how far the others' mean lies."""
    beta = np.array([1.0, 2.0, 3.0, 4.0])
    result = leave_one_beta_out(beta, [[10.0, 20.0, 30.0, 40.0], [12.0, 22.0, 32.0, 42.0]])
    assert [p.measured for p in result.predictions] == [11.0, 21.0, 31.0, 41.0]
    for prediction in result.predictions:
        assert prediction.predicted["linear"] == pytest.approx(prediction.measured)
    # Means of the others: 31, 83/3, 73/3, 21, so the constant misses by 20, 20/3, 20/3, 20.
    assert result.error["constant"] == pytest.approx(np.sqrt((400 + 400 / 9) / 2))
    assert result.error["linear"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("beta", "table", "words"),
    [
        ([1.0, 2.0, 3.0], [[1.0, 2.0, 3.0]], "leaving out one of 3 values of β leaves too few"),
        ([1.0, 2.0, 3.0, 4.0], [[1.0, np.nan, 3.0, 4.0]], "undefined"),
    ],
)
def test_what_cannot_be_left_out_has_a_reason(beta, table, words):
    result = leave_one_beta_out(beta, table)
    assert words in str(result.reason)
    assert all(isnan(error) for error in result.error.values())
    assert result.predictions == ()
