"""Statistics for people with an array of their own: values [S, B] by seed and β, or curves over steps.

    import betastar as bs
    bs.stats.page_trend([[1.0, 2.0, 3.0], [2.0, 2.5, 4.0]])  # does it rise with β within seeds?

Every function names its source, and says with NaN and a `reason` what it cannot compute.
"""

from __future__ import annotations

from betastar.maths.conservatism import ConservatismLaw, conservatism_law, definition_beta_star
from betastar.maths.goodhart import (
    area_under_positive_gap,
    hacking_threshold,
    onset_step,
    paper_gap,
    share_positive,
    standardised_gap,
)
from betastar.maths.intervals import Difference, SeedMean, seed_mean, welch_difference
from betastar.maths.power_law import PowerLawFit, fit_power_law, practical_beta_star
from betastar.maths.statistics import Interval, Spearman, pearson, spearman_exact
from betastar.maths.trend import Page, page_trend, slope_within, spearman_within

__all__ = [
    "ConservatismLaw",
    "Difference",
    "Interval",
    "Page",
    "PowerLawFit",
    "SeedMean",
    "Spearman",
    "area_under_positive_gap",
    "conservatism_law",
    "definition_beta_star",
    "fit_power_law",
    "hacking_threshold",
    "onset_step",
    "page_trend",
    "paper_gap",
    "pearson",
    "practical_beta_star",
    "seed_mean",
    "share_positive",
    "slope_within",
    "spearman_exact",
    "spearman_within",
    "standardised_gap",
    "welch_difference",
]
