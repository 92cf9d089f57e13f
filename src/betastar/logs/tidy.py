"""From the rows of a log to the evaluation points of a run: clean steps, and every quantity at the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from betastar.errors import BetastarError

Array = NDArray[np.float64]
# Logged this many times as often as the rarer reward, a quantity is averaged between evaluation points.
MUCH_MORE_OFTEN = 2


class Curve(NamedTuple):
    """The values [T] of one quantity at its own ascending steps [T]; none is NaN."""

    steps: Array
    values: Array


class Points(NamedTuple):
    """`table`: one row per evaluation point, columns "step" and the fields; `notes`: what was done to get it."""

    table: pd.DataFrame
    notes: list[str]


def numeric(rows: pd.DataFrame) -> dict[str, Array]:
    """The columns that hold a finite number somewhere, as arrays [rows]; text and infinities become NaN."""
    columns: dict[str, Array] = {}
    for name in rows:
        column: Any = rows[name]
        if column.dtype != bool:
            values = np.array(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
            values[np.isinf(values)] = np.nan
            if not np.isnan(values).all():
                columns[str(name)] = values
    return columns


def evaluation_points(
    rows: Mapping[str, Array], columns: Mapping[str, str], steps: Sequence[str], where: str, until: int | None = None
) -> Points:
    """The evaluation points of a run from its numeric `rows`, column → [rows], in the order written.

    `columns`: field → column. `steps`: the columns that may hold a row's step; with none, rows are numbered from 1.
    Steps past `until` are cut off. Of a step written twice the later row counts. The rarer reward sets the points: what
    is logged at least twice as often is there the mean since the point before, everything else its value at the step;
    a point without both rewards is left out.

    Raises BetastarError for a step that is no whole number, and for fewer than two points.
    """
    notes = []
    size = len(next(iter(rows.values())))
    step = np.full(size, np.nan) if steps else np.arange(1.0, size + 1)
    for name in steps:
        step = np.where(np.isnan(step), rows[name], step)
    if not steps:
        notes.append("no column counts steps, so the rows are numbered from 1 (--step COLUMN names one)")
    if lost := int(np.isnan(step).sum()):
        notes.append(f"{lost} rows without a step are left out")
    kept = step <= (np.inf if until is None else until)
    step = step[kept]
    if (step % 1 != 0).any():
        raise BetastarError(f"{where}: {steps[0]} is not a whole number in every row; name the step with --step.")
    if (np.diff(step) < 0).any():
        notes.append("steps are out of order, or return after a resume: they are sorted")
    curves = {field: _by_step(step, rows[column][kept]) for field, column in columns.items()}
    written = {reward: int((~np.isnan(rows[columns[reward]][kept])).sum()) for reward in ("proxy", "true_strict")}
    if repeated := max(count - curves[reward].steps.size for reward, count in written.items()):
        notes.append(
            f"{repeated} values were written again for a step that had one: the last one counts, as after a "
            "resume; where the file holds several runs, --beta and --seed name the columns that tell them apart"
        )
    table, aligned = _aligned(curves)
    if len(table) < 2:
        raise BetastarError(
            f"{where}: a gap needs two points with both rewards, and there {'is' if len(table) else 'are'} "
            f"{len(table)}; log the true reward more often, or choose other columns with --proxy and --true."
        )
    return Points(table, [*notes, *aligned])


def _by_step(step: Array, values: Array) -> Curve:
    """The last value written of each step, NaN left out."""
    known = ~np.isnan(values)
    steps, place = np.unique(step[known][::-1], return_index=True)
    return Curve(steps, values[known][::-1][place])


def _aligned(curves: Mapping[str, Curve]) -> tuple[pd.DataFrame, list[str]]:
    """All fields at the steps of the rarer reward, and what had to be done."""
    true, proxy = curves["true_strict"], curves["proxy"]
    rare, dense, names = (true, proxy, ("the proxy", "the true reward"))
    if proxy.steps.size < true.steps.size:
        rare, dense, names = (proxy, true, names[::-1])
    grid = rare.steps
    fields = {
        field: _means_since(curve, grid) if _is_dense(curve, grid) else _values_at(curve, grid)
        for field, curve in curves.items()
    }
    whole = ~np.isnan(fields["proxy"]) & ~np.isnan(fields["true_strict"])
    notes = []
    if _is_dense(dense, grid):
        notes.append(
            f"{names[0]} is logged at {dense.steps.size} steps and {names[1]} at {grid.size}: at each of these, "
            f"{names[0]} is the mean of its values since the one before"
        )
        if lost := int((~whole).sum()):
            notes.append(f"{lost} of them have nothing to average and are left out")
    elif apart := np.setxor1d(true.steps, proxy.steps).size:
        notes.append(f"{apart} steps have only one of the two rewards and are left out")
    table = {"step": grid.astype(int), **fields}
    return pd.DataFrame({field: values[whole] for field, values in table.items()}), notes


def _is_dense(curve: Curve, grid: Array) -> bool:
    return 0 < MUCH_MORE_OFTEN * grid.size <= curve.steps.size


def _values_at(curve: Curve, grid: Array) -> Array:
    """The curve's values at the steps of `grid`; NaN where it has none."""
    result = np.full(grid.size, np.nan)
    _, here, there = np.intersect1d(grid, curve.steps, assume_unique=True, return_indices=True)
    result[here] = curve.values[there]
    return result


def _means_since(curve: Curve, grid: Array) -> Array:
    """Mean of the curve over (grid[i−1], grid[i]] for every i; NaN where it has no value.

    Trainers log the reward of a batch that was sampled before the step's update. So where an evaluation before all
    training opens the grid, the first batch was answered by the same policy, and its value stands there.
    """
    place = np.searchsorted(grid, curve.steps)  # the first grid step at or after each value
    counts = np.bincount(place, minlength=grid.size)[: grid.size]
    sums = np.bincount(place, curve.values, minlength=grid.size)[: grid.size]
    means = np.divide(sums, counts, out=np.full(grid.size, np.nan), where=counts > 0)
    if counts[0] == 0 and grid.size > 1 and curve.steps[0] < grid[1]:
        means[0] = curve.values[0]
    return means
