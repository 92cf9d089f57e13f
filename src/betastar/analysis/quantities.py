"""What is summarised of a condition: each quantity's name, its path in the condition's record, and its range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np

from betastar.maths.intervals import seed_mean

Record = Mapping[str, Any]

QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "augc_standardised": ("augc_standardised",),
    "augc_paper": ("augc_paper",),
    "share_gap_positive_standardised": ("share_gap_positive_standardised",),
    "share_gap_positive_paper": ("share_gap_positive_paper",),
    "proxy_start": ("proxy", "start"),
    "proxy_end": ("proxy", "end"),
    "proxy_standardised_rise": ("proxy_standardised_rise",),
    "true_start": ("true_strict", "start"),
    "true_lowest": ("true_strict", "lowest"),
    "true_end": ("true_strict", "end"),
    "disagreement": ("disagreement", "mean"),
    "disagreement_centred": ("disagreement_centred", "mean"),
    "policy_entropy": ("policy_entropy", "checkpoint"),
    "entropy_collapse": ("policy_entropy", "collapse"),
    "response_entropy_end": ("response_entropy", "end"),
    "ood_distance_start": ("ood_distance", "start"),
    "ood_distance": ("ood_distance", "mean"),
    "diversity_start": ("diversity", "start"),
    "diversity": ("diversity", "mean"),
    "kl_end": ("kl", "end"),
    "uq_gap_correlation": ("uq_gap_correlation_standardised",),
    "uq_gap_correlation_paper": ("uq_gap_correlation_paper",),
    "pair_accuracy": ("alignment", "pair_accuracy"),
    "win_rate": ("alignment", "win_rate"),
}

SHARE, CORRELATION, MAGNITUDE = (0.0, 1.0), (-1.0, 1.0), (0.0, inf)
RANGE: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("augc_standardised", "augc_paper", "proxy_standardised_rise"), MAGNITUDE),
    **dict.fromkeys(("share_gap_positive_standardised", "share_gap_positive_paper"), SHARE),
    **dict.fromkeys(("true_start", "true_lowest", "true_end", "pair_accuracy", "win_rate"), SHARE),
    **dict.fromkeys(("disagreement", "disagreement_centred", "policy_entropy", "response_entropy_end"), MAGNITUDE),
    **dict.fromkeys(("ood_distance_start", "ood_distance", "diversity_start", "diversity"), (0.0, 2.0)),  # 1 − cosine
    **dict.fromkeys(("uq_gap_correlation", "uq_gap_correlation_paper"), CORRELATION),
}
"""The values a quantity can take at all, where they are bounded: its intervals are cut there. (A true reward read from
someone else's logs need not be a share of right answers: a range counts only where the data keep to it.)"""


class Table(NamedTuple):
    """Values [S, B] of a quantity by seed and β; `present` [S, B]: whether there is such a condition at all. A value
    that is NaN in a present condition is undefined there, and so is every mean over it."""

    values: np.ndarray
    present: np.ndarray

    @property
    def complete(self) -> np.ndarray:
        """[S] whether the seed has every β."""
        return np.all(self.present, axis=1)


def value_at(record: Record, path: Sequence[str]) -> float:
    """The number at a path of a record; NaN where it is absent."""
    value: Any = record
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return float("nan") if value is None else float(value)


def table(records: Sequence[Record], name: str, seeds: Sequence[int], betas: Sequence[float]) -> Table:
    """A quantity of the records of one variant."""
    values, present = np.full((len(seeds), len(betas)), np.nan), np.zeros((len(seeds), len(betas)), dtype=bool)
    for record in records:
        if record["seed"] in seeds and record["beta"] in betas:
            place = seeds.index(record["seed"]), betas.index(record["beta"])
            values[place], present[place] = value_at(record, QUANTITIES[name]), True
    return Table(values, present)


def described(values: np.ndarray, name: str | None = None, *, difference: bool = False, root_seed: int = 0) -> dict:
    """Mean over seeds, standard error, 95 % interval, n and reason of `values` [S] of a quantity (or differences of
    it): see `maths.intervals.seed_mean`."""
    low, high = RANGE.get(name or "", (-inf, inf))
    if difference:
        low, high = low - high, high - low
    if not ((values >= low) & (values <= high)).all():
        low, high = -inf, inf
    return seed_mean(values, bounds=(low, high), root_seed=root_seed).record()
