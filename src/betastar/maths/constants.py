"""Constants that several modules share."""

from __future__ import annotations

EPSILON = 2.0**-23
"""Machine epsilon of float32, about 1.19e-7: the ε of arXiv:2606.30627 Eq. 2, 7, 9 and 10."""
INTERPOLATION = "interpolation, not evidence"
"""Label of a law that goes through as many points as it has parameters."""
