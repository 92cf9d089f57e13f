"""What the grid and the seeds of a plan can find: the smallest dependence on β, by simulation of the primary test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log10, nan, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from betastar.errors import BetastarError
from betastar.maths.power import POWER, power_of, residual_deviation, smallest_rise, smallest_rises
from betastar.record.files import read_results
from betastar.settings.config import Config
from betastar.settings.phases import Grid

SEEDS, BETAS = (3, 5, 10), (3, 5, 7)
"""Of the table; the plan's own numbers join them."""


class Pilot(NamedTuple):
    """What a finished run says of the spread. `residual_sd`: of the primary measure, without the means of seeds and of
    β, on so many `degrees_of_freedom`, all variants pooled; `decades`: of β between the smallest and the largest."""

    name: str
    residual_sd: float
    degrees_of_freedom: int
    decades: float


class Power(NamedTuple):
    """What the plan can find with probability `power`. `rise`: the smallest rise of the `primary` measure from the
    smallest to the largest β, in residual standard deviations; infinity where none can be found. `slope`: the same per
    tenfold β in the measure's unit, NaN without a pilot. `table`: the rise by numbers of `seeds` and of `betas`, evenly
    spaced in log. `for_smallest_effect`: power for analysis.smallest_effect, NaN where that or the pilot is missing."""

    primary: str
    power: float
    n_seeds: int
    n_beta: int
    rise: float
    slope: float
    for_smallest_effect: float
    pilot: Pilot | None
    seeds: tuple[int, ...]
    betas: tuple[int, ...]
    table: list[list[float]]


def plan_power(config: Config, pilot: Path | None = None) -> Power:
    """The power of a configuration's grid and seeds, with the spread of a finished run `pilot` if one is given.

    Raises BetastarError where the pilot has no results, its grid has other ends than this one, or it lacks the measure.
    """
    found = None if pilot is None else read_pilot(pilot, config)
    seeds, betas = len(config.seeds), betas_of(config.grid)
    rise = smallest_rise(seeds, betas)
    slope = effect = nan
    if found is not None:
        slope = rise * found.residual_sd / found.decades if found.residual_sd > 0 else nan
        if config.analysis.smallest_effect is not None and found.residual_sd > 0:
            wanted = config.analysis.smallest_effect * found.decades / found.residual_sd
            effect = power_of(wanted, seeds, betas)
    count = betas if isinstance(betas, int) else len(betas)
    rows, columns = sorted({*SEEDS, seeds}), sorted({*BETAS, count})
    table = smallest_rises(rows, columns).tolist()
    return Power(
        config.analysis.primary,
        POWER,
        seeds,
        count,
        rise,
        slope,
        effect,
        found,
        tuple(rows),
        tuple(columns),
        table,
    )


def betas_of(grid: Grid) -> Sequence[float] | int:
    """The values of β of a grid, or only how many where data decide on them."""
    if grid.method == "list":
        return sorted(grid.values)
    if grid.method == "geometric":
        assert grid.low is not None and grid.high is not None and grid.n is not None  # noqa: PT018 (Grid sees to it)
        return np.geomspace(grid.low, grid.high, grid.n).tolist()
    return len(grid.percentiles)


def read_pilot(folder: Path, config: Config) -> Pilot:
    """The spread of the plan's primary measure in a finished run."""
    results: Mapping[str, Any] = read_results(folder)
    told = f"--pilot {folder}"
    ours, theirs = _ends(config.grid.model_dump()), _ends(results.get("grid"))
    if ours != theirs:
        raise BetastarError(
            f"its β run {theirs}, those of this plan {ours}, and the spread depends on β",
            where=told,
            remedy="give a run over the same range of β, or plan without --pilot",
        )
    name, squares, freedom, decades = config.analysis.primary, 0.0, 0, nan
    for variant in results["summary"]:
        records = [r for r in results["conditions"] if r["variant"] == variant]
        table, betas = _table(records, name)
        if np.isnan(table).any():
            raise BetastarError(
                f"it has no {name} in {int(np.isnan(table).sum())} conditions of variant {variant}",
                where=told,
                remedy="set analysis.primary to a measure that it has, or plan without --pilot",
            )
        deviation, degrees = residual_deviation(table)
        if degrees:
            squares, freedom = squares + degrees * deviation**2, freedom + degrees
            decades = log10(betas[-1] / betas[0])
    if not freedom:
        raise BetastarError(
            "it takes two seeds and two values of β to say how much they scatter",
            where=told,
            remedy="give a pilot with at least two of each",
        )
    return Pilot(str(folder), sqrt(squares / freedom), freedom, decades)


def _table(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, list[float]]:
    """A measure by seed and β [S, B], of seeds that have every β; NaN where it is undefined."""
    at: dict[Any, Any] = {(r["seed"], r["beta"]): r.get(name) for r in records}
    betas = sorted({beta for _, beta in at if beta is not None})
    seeds = [seed for seed in sorted({seed for seed, _ in at}) if all((seed, beta) in at for beta in betas)]
    values = [[nan if at[seed, beta] is None else float(at[seed, beta]) for beta in betas] for seed in seeds]
    return np.array(values, dtype=np.float64).reshape(len(seeds), len(betas)), betas


def _ends(grid: Mapping[str, Any] | None) -> str:
    """Between which β a grid runs, in words that are equal for grids with the same ends."""
    if grid is None:
        return "over values that its record does not explain"
    if grid["method"] == "percentiles":
        return f"from percentile {min(grid['percentiles']):g} to {max(grid['percentiles']):g} (Eq. 7)"
    low, high = (min(grid["values"]), max(grid["values"])) if grid["method"] == "list" else (grid["low"], grid["high"])
    return f"from {low:g} to {high:g}"


def power_record(power: Power) -> dict[str, Any]:
    """As JSON: infinite and undefined numbers as null; a rise of null cannot be found."""
    finite = {name: None if isinstance(v, float) and not abs(v) < inf else v for name, v in power._asdict().items()}
    return {
        **finite,
        "pilot": None if power.pilot is None else power.pilot._asdict(),
        "table": [[value if value < inf else None for value in row] for row in power.table],
    }
