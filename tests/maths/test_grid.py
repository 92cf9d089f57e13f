"""Grids of β against arithmetic (arXiv:2606.30627 Eq. 6–7)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.errors import BetastarError
from betastar.maths.grid import geometric_grid, log_ratio_magnitude, percentile_grid, strengths_at


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
    with pytest.raises(BetastarError, match=r"1 of 2 are: .* explicit list of values of β"):
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


def test_strengths_at_targets_are_interpolated_in_the_root_of_the_distance() -> None:
    """√KL falls from 2 to 1 as β goes from 0.1 to 10: √KL = 1.5 is halfway, at β = 1."""
    found = strengths_at([2.25, 1.0, 4.0], [0.1, 10.0], [4.0, 1.0])
    np.testing.assert_allclose(found, [1.0, 10.0, 0.1])
    # An objective that goes further with a larger strength, given in any order.
    np.testing.assert_allclose(strengths_at([2.25], [10.0, 0.1], [4.0, 1.0]), [1.0])


def test_distances_out_of_order_are_pooled() -> None:
    """√KL 3, 1, 2, 0.5 becomes 3, 1.5, 1.5, 0.5: the middle of 10 and 100 is at 1.5."""
    found = strengths_at([5.0625], [1.0, 10.0, 100.0, 1000.0], [9.0, 1.0, 4.0, 0.25])  # √5.0625 = 2.25: halfway
    np.testing.assert_allclose(found, [10**0.75])


@pytest.mark.parametrize("target", [0.9, 4.1])
def test_a_distance_that_was_not_reached_is_one_sentence(target: float) -> None:
    with pytest.raises(
        BetastarError, match=rf"^the distance {target} nats is outside of the 1 to 4 nats that strengths"
    ):
        strengths_at([target], [0.1, 10.0], [4.0, 1.0])
