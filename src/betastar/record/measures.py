"""The registry of measures: what is measured of a response, an evaluation point, a condition and a variant.

One entry says everything that is known of a measure but its value. The JSON Schema of `results.json`, the tables of
docs/results.md, table heads, axes and tooltips, the columns of data frames, ranges and reasons for a null come from it.

To add a measure, add an entry and a function:

- of a point: a field of `EvaluationPoint` (points.py), and its value where points are made;
- of a condition: an entry here, and `@computes(name)` on a function in `betastar.analysis.conditions` or beside it;
- of a variant, over seeds: `over_seeds=True` on an entry of a condition, or an entry with the `path` to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Literal

Level = Literal["response", "point", "condition", "summary"]
Kind = Literal["number", "count", "step", "flag", "text", "numbers"]
Part = Literal["start", "lowest", "highest", "end", "mean", "checkpoint", "collapse"]

EXTREMES: tuple[Part, ...] = ("start", "lowest", "highest", "end")
LEVEL: tuple[Part, ...] = (*EXTREMES, "mean")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is known of a measure beside its value. `name` and `level` together are unique."""

    name: str
    """Its field in `results.json`, `metrics.jsonl` or `samples.jsonl`."""
    level: Level
    meaning: str
    """One line."""
    symbol: str = ""
    """How table heads and tooltips call it; by default its name in words."""
    title: str = ""
    """How an axis calls it; by default the symbol."""
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    """Which way is good; None where neither is."""
    source: str = ""
    """Equation or section of arXiv:2606.30627, or another reference."""
    needs: str = ""
    """What has to be logged or given for it, beyond the two rewards."""
    refinement: bool = False
    """Of a point: other people's logs have it under a plainer name or not at all, and its absence is nothing to warn
    of."""
    low: float = -inf
    high: float = inf
    """The values it can take at all. Intervals of its mean over seeds are cut there."""
    kind: Kind = "number"
    """`step`: an online step or none; `numbers`: a list, one of each reward model."""
    kept: tuple[Part, ...] = ()
    """Of a point: what a condition's record keeps of its series. Empty: the series is not kept either, unless it is
    `in_series`."""
    in_series: bool = False
    derived: bool = False
    """Of a point: follows from other measures in the analysis, and is no field of `metrics.jsonl`."""
    path: tuple[str, ...] = ()
    """Of a summary: where the value is in a condition's record."""
    over_seeds: bool = False
    """Of a condition: whether summaries average it over seeds under the same name."""
    digits: int | None = None
    """Of a summary: digits after the point in the table of the mechanism; None where it is not in the table."""
    warns: Literal[1, -1] | None = None
    """Of a point: as a warning sign of a falling truth, +1 where a rise is to warn, −1 where a fall is."""
    warns_because: str = ""

    @property
    def words(self) -> str:
        """Its name for table heads and tooltips."""
        return self.symbol or self.name.replace("_", " ")

    @property
    def axis(self) -> str:
        """Its name for an axis, with the unit."""
        return f"{self.title or self.words} ({self.unit})" if self.unit else self.title or self.words

    @property
    def unlogged(self) -> str:
        """The reason for its null where no point has it. On the bare one rests the warning about a log's gaps."""
        return f"not logged; it needs {self.needs}" if self.refinement else "not logged"

    @property
    def value_path(self) -> tuple[str, ...]:
        """Where a summary's value is in a condition's record."""
        return self.path or (self.name,)


class Registry:
    """Measures by level and name, in the order in which they are shown."""

    def __init__(self, measures: Iterable[Measure] = ()):
        self._measures: dict[tuple[Level, str], Measure] = {}
        for measure in measures:
            self.add(measure)

    def add(self, measure: Measure) -> None:
        """Raises ValueError where the level has a measure of that name."""
        key = measure.level, measure.name
        if key in self._measures:
            raise ValueError(f"there is a measure {measure.name} of a {measure.level} already")
        if measure.level == "summary" and not measure.path:
            raise ValueError(f"the measure {measure.name} of a summary needs the path to it in a condition")
        self._measures[key] = measure

    def __iter__(self) -> Iterator[Measure]:
        return iter(self._measures.values())

    def at(self, level: Level) -> list[Measure]:
        """The measures of a level."""
        return [m for m in self if m.level == level]

    def get(self, level: Level, name: str) -> Measure:
        """One measure. Raises KeyError for an unknown one."""
        return self._measures[level, name]

    @property
    def series(self) -> list[Measure]:
        """Of evaluation points, those whose series a condition's record keeps."""
        return [m for m in self.at("point") if m.kept or m.in_series]

    @property
    def logged(self) -> list[Measure]:
        """Of evaluation points, those that a log has: all that do not follow from others, and the step."""
        return [m for m in self.at("point") if not m.derived and m.name != "step"]

    @property
    def kept(self) -> list[Measure]:
        """Of evaluation points, those of which a condition's record keeps parts such as start and end."""
        return [m for m in self.at("point") if m.kept]

    @property
    def signals(self) -> list[Measure]:
        """Of evaluation points, the candidates for warning signs."""
        return [m for m in self.at("point") if m.warns is not None]

    @property
    def summaries(self) -> list[Measure]:
        """What is averaged over seeds: measures of a summary, and of a condition where `over_seeds`."""
        return [m for m in self if m.level == "summary" or (m.level == "condition" and m.over_seeds)]

    def summary(self, name: str) -> Measure:
        """A measure that is averaged over seeds. Raises KeyError for an unknown one."""
        of_runs = self._measures.get(("condition", name))
        return of_runs if of_runs is not None and of_runs.over_seeds else self._measures["summary", name]

    @property
    def table(self) -> list[Measure]:
        """The columns of the table of the mechanism."""
        return [m for m in self.summaries if m.digits is not None]

    @contextmanager
    def with_measures(self, *measures: Measure) -> Iterator[None]:
        """These measures too, while the block lasts."""
        for measure in measures:
            self.add(measure)
        try:
            yield
        finally:
            for measure in measures:
                del self._measures[measure.level, measure.name]
