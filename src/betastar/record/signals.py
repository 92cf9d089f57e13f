"""Warning signs that follow from what is logged: entries of the registry. Their formulas: `betastar.maths.signals`."""

from __future__ import annotations

from math import inf
from typing import Any

from betastar.record.measures import Measure

OURS = "not in the paper; the direction is our choice"


def _sign(name: str, meaning: str, **entry: Any) -> Measure:
    return Measure(name=name, level="point", meaning=meaning, derived=True, warns_because=OURS, **entry)


SIGNALS = (
    _sign(
        "ceiling_share",
        "share of responses whose proxy exceeds the 95th percentile of the checkpoint's responses",
        symbol="share at the ceiling",
        needs="the proxy of single responses",
        low=0,
        high=1,
        warns=1,
    ),
    _sign(
        "advantage_drift",
        "rise of the proxy since the last point, in standard deviations of its responses: the mean advantage that "
        "today's responses would have had there",
        symbol="advantage drift",
        unit="sd per step",
        needs="the standard deviation of the proxy at every point",
        warns=1,
    ),
    _sign(
        "proxy_per_entropy",
        "rise of the proxy since the start, in its standard deviations there, per nat by which response entropy fell; "
        "undefined where it has not fallen",
        symbol="proxy per entropy",
        unit="sd per nat",
        needs="response entropy, and the standard deviation of the proxy at the start",
        warns=1,
    ),
    _sign(
        "proxy_cusum",
        "one-sided CUSUM of the proxy's rise from point to point beyond its mean rise so far in the run",
        symbol="proxy CUSUM",
        unit="sd",
        source="Page 1954",
        needs="the standard deviation of the proxy at the start",
        low=0,
        high=inf,
        warns=1,
    ),
    _sign(
        "kl_acceleration",
        "rise of the KL per step since the last point, minus the same one point before",
        symbol="KL acceleration",
        unit="nats per step",
        needs="KL to the checkpoint",
        warns=1,
    ),
)
"""Series that are no fields of `metrics.jsonl` and are not kept in a condition's record."""
