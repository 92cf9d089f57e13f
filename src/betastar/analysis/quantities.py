"""What is summarised of a condition: tables of a measure by seed and β, and means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np

from betastar.maths.intervals import seed_mean
from betastar.record.entries import REGISTRY

Record = Mapping[str, Any]
CORRELATION = (-1.0, 1.0)


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
    path = REGISTRY.summary(name).value_path
    for record in records:
        if record["seed"] in seeds and record["beta"] in betas:
            place = seeds.index(record["seed"]), betas.index(record["beta"])
            values[place], present[place] = value_at(record, path), True
    return Table(values, present)


def described(values: np.ndarray, name: str | None = None, *, difference: bool = False, root_seed: int = 0) -> dict:
    """Mean over seeds, standard error, 95 % interval, n and reason of `values` [S] of a quantity (or differences of
    it): see `maths.intervals.seed_mean`."""
    low, high = range_of(name) if name else (-inf, inf)
    if difference:
        low, high = low - high, high - low
    if not ((values >= low) & (values <= high)).all():
        low, high = -inf, inf
    return seed_mean(values, bounds=(low, high), root_seed=root_seed).record()


def range_of(name: str) -> tuple[float, float]:
    """The values that a summary's measure can take. (A true reward read from someone else's logs need not be a share of
    right answers: a range counts only where the data keep to it.)"""
    measure = REGISTRY.summary(name)
    return measure.low, measure.high
