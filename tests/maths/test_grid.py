"""Grids of β against arithmetic (arXiv:2606.30627 Eq. 6–7)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.errors import BetastarError
from betastar.maths.grid import geometric_grid, log_ratio_magnitude, percentile_grid


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
