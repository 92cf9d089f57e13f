"""A condition as its measures see it, and the table of what computes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from betastar.maths.outcomes import SeriesNoise, series_noise
from betastar.maths.statistics import Interval
from betastar.record.answers import Grid

Array = NDArray[np.float64]

NO_TRUTH = "no true reward is known"


class Undefined(NamedTuple):
    """What a measure gives in place of a number, and why."""

    reason: str


class Floor(NamedTuple):
    """What noise alone would give on average, and how that is known; NaN with a reason where it is not."""

    value: float
    method: str | None = None
    reason: str | None = None


class Estimate(NamedTuple):
    """A number with its interval and its noise floor, as far as either is known."""

    value: float
    interval: Interval | None = None
    floor: Floor | None = None


Value = float | int | bool | str | None | Undefined | Estimate
COMPUTED: dict[str, Callable[[Trajectory], Value]] = {}
"""By name, what computes each measure of a condition."""


class Scale(NamedTuple):
    """What a form of the gap divides the rise of each reward by, and whose spread that is; NaN with the reason where
    there is none."""

    proxy: float
    truth: float
    source: str | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A condition. `points` [T rows] are in the order of steps, with a column for every measure of a point, NaN where
    it was not logged. By form: the `gap` [T], `undefined`, why it is so somewhere, the `threshold` τ, the `scales`, and
    the standard deviation of A/A differences over the variant (`repeats`, with that of the truth). `extra`: what is
    known of the checkpoint besides. `grid`: single answers at the steps of the points. `is_the_truth`: the proxy is."""

    points: pd.DataFrame
    gap: Mapping[str, np.ndarray]
    undefined: Mapping[str, str | None]
    threshold: Mapping[str, float]
    extra: Mapping[str, Any]
    scales: Mapping[str, Scale] = field(default_factory=dict)
    repeats: Mapping[str, float] = field(default_factory=dict)
    grid: Grid | None = None
    is_the_truth: bool = False
    found: dict[str, Any] = field(default_factory=dict)
    """What several measures share, computed once (`once`)."""

    @cached_property
    def steps(self) -> np.ndarray:
        """[T]"""
        return self.points["step"].to_numpy()

    def column(self, name: str) -> np.ndarray:
        """A measure of a point [T]."""
        return self.points[name].to_numpy(dtype=float)

    def start(self, name: str) -> float:
        """A measure at the start."""
        return float(self.points[name].iloc[0])

    @property
    def share(self) -> bool:
        """Whether the true reward is a share of right answers."""
        return not self.points["score"].iloc[0]

    # By problem, the mean over its answers; only problems that have both rewards at every point. None without a table
    # of answers, or with fewer than two such problems.

    @cached_property
    def whole(self) -> np.ndarray | None:
        """Of the grid's problems, which have both rewards at every point [P]."""
        if self.grid is None:
            return None
        there = ~(np.isnan(self.grid.proxy) | np.isnan(self.grid.strict)).all(axis=2)
        whole: Any = there.all(axis=0)
        return whole if whole.sum() >= 2 else None

    @cached_property
    def truth(self) -> Array | None:
        """True reward [T, P]."""
        return self._by_problem("strict")

    @cached_property
    def lenient(self) -> Array | None:
        """Lenient true reward [T, P], None where some is missing."""
        found = self._by_problem("lenient")
        return None if found is None or np.isnan(found).any() else found

    @cached_property
    def proxy(self) -> Array | None:
        """Proxy reward [T, P]."""
        return self._by_problem("proxy")

    def _by_problem(self, name: str) -> Array | None:
        if self.grid is None or self.whole is None:
            return None
        return mean_over_answers(getattr(self.grid, name)[:, self.whole])

    @cached_property
    def again(self) -> tuple[Array, Array] | None:
        """What changed between the two evaluations of the checkpoint: proxy and truth, [P] each."""
        if self.grid is None or self.grid.again is None:
            return None
        proxy, truth = (mean_over_answers(values) for values in self.grid.again)
        changes = proxy - mean_over_answers(self.grid.proxy[0]), truth - mean_over_answers(self.grid.strict[0])
        known = ~(np.isnan(changes[0]) | np.isnan(changes[1]))
        return (changes[0][known], changes[1][known]) if known.sum() >= 2 else None

    # From means alone: the noise of one value.

    @cached_property
    def truth_noise(self) -> SeriesNoise:
        """Of one mean true reward: binomial (or the logged spread over √n), which problems that are the same at every
        point make too large; or what the series shows, if that is more or n is unknown."""
        n, truth = self.start("n"), self.column("true_strict")
        if self.share:
            q = (float(np.nanmean(truth)) * n + 1) / (n + 2)
            expected = math.sqrt(q * (1 - q) / n) if not math.isnan(n) else math.nan
        else:
            expected = self.start("true_std") / math.sqrt(n)
        return _larger(expected, series_noise(self.steps, truth))

    @cached_property
    def proxy_noise(self) -> SeriesNoise:
        """Of one mean proxy reward: the logged spread over √n, or what the series shows, if that is more."""
        expected = self.start("proxy_std") / math.sqrt(self.start("n"))
        return _larger(expected, series_noise(self.steps, self.column("proxy")))


def mean_over_answers(values: Array) -> Array:
    """The mean over the last axis without its NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.divide(np.where(known, values, 0).sum(axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)


def _larger(expected: float, series: SeriesNoise) -> SeriesNoise:
    if math.isnan(expected) or series.deviation > expected:
        return series
    return SeriesNoise(expected, math.inf)


Found = TypeVar("Found")


def once(function: Callable[[Trajectory], Found]) -> Callable[[Trajectory], Found]:
    """Marks what several measures of a condition share: it is computed once for each condition."""

    @wraps(function)
    def remembered(run: Trajectory) -> Found:
        if function.__qualname__ not in run.found:
            run.found[function.__qualname__] = function(run)
        return run.found[function.__qualname__]

    return remembered


def computes(*names: str) -> Callable[[Any], Any]:
    """Marks the function that computes the measures of a condition with these names; of several, it is given the name
    as its second argument."""

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        for name in names:
            COMPUTED[name] = function if len(names) == 1 else partial(function, name=name)
        return function

    return register
