"""From the record to rows that a chart draws: evaluation points over seeds, and quantities by β."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from betastar.record.points import counted
from betastar.report.palette import beta_labels

Row = dict[str, Any]
BESIDE = "beside"  # field of a record in memory: the β of other records on the same page
MOST_POINTS = 240  # of a line: more cannot be seen
MOST_DRAWN = 2000  # of a condition: all others of a long run are in points.parquet
MOST_LINES = 200
MOST_ROWS = 4000  # of all lines of a quantity together: a page has a size


def labels(results: Mapping[str, Any]) -> dict[float | None, str]:
    """The name of every β of the record, in order; of a record that is shown `beside` others, of all their β."""
    return beta_labels([*(r["beta"] for r in results["conditions"]), *results.get(BESIDE, [])])


def beside(several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of one page: each knows the β of all, so that a β has one name and one colour throughout."""
    betas = {r["beta"] for results in several for r in results["conditions"]}
    return [{**results, BESIDE: list(betas)} for results in several]


def series_frame(results: Mapping[str, Any]) -> pd.DataFrame:
    """Evaluation points of the conditions that did not diverge, one row each (of all, if there are no others); of a
    condition with more than `MOST_DRAWN`, so many evenly chosen ones."""
    conditions = counted(results["conditions"])
    places = [_places(len(record["series"]["step"]), MOST_DRAWN) for record in conditions]
    sizes = [len(at) for at in places]
    columns: dict[str, Any] = {
        name: np.concatenate(
            [np.asarray(r["series"][name], dtype=float)[at] for r, at in zip(conditions, places, strict=True)]
        )
        for name in conditions[0]["series"]
    }
    columns |= {name: np.repeat([r[name] for r in conditions], sizes) for name in ("variant", "seed")}
    columns["beta"] = np.repeat(np.array([r["beta"] for r in conditions], dtype=float), sizes)
    return pd.DataFrame(columns)


def known(points: pd.DataFrame, name: str) -> bool:
    """Whether a column is there and has any number."""
    return name in points and bool(points[name].notna().any())


def over_seeds(points: pd.DataFrame, names: Sequence[str], of_beta: Mapping[float | None, str]) -> list[Row]:
    """One row per variant, β and step: of each name the mean over seeds, and `NAME_low` and `NAME_high` one standard
    error below and above; `n` seeds. A seed that was not evaluated at a step which others have counts there by the
    straight line between its neighbours."""
    rows: list[Row] = []
    groups: Any = points.groupby(["variant", "beta"], dropna=False, sort=False)
    most = most_points(groups.ngroups)
    for (variant, beta), group in groups:
        columns: dict[str, pd.Series] = {}
        for name in names:
            seeds = group.pivot(index="step", columns="seed", values=name)
            seeds = seeds.interpolate(method="index", limit_area="inside")
            mean, error = seeds.mean(axis=1), seeds.sem(axis=1).fillna(0.0)
            columns |= {name: mean, f"{name}_low": mean - error, f"{name}_high": mean + error}
            columns["n"] = seeds.notna().sum(axis=1)
        frame = thinned(pd.DataFrame(columns), most).reset_index()
        label = of_beta[None if pd.isna(beta) else beta]
        rows += [{"variant": variant, "beta": label, **rounded(row)} for row in frame.to_dict(orient="records")]
    return rows


def of_seeds(points: pd.DataFrame, names: Sequence[str], of_beta: Mapping[float | None, str]) -> list[Row]:
    """One row per variant, β, seed and step, with the values of these names. Of more than `MOST_LINES` conditions, so
    many evenly chosen ones: more lines cannot be told apart, and take minutes to draw."""
    rows: list[Row] = []
    shown: Any = points
    keys: Any = points.groupby(["variant", "beta", "seed"], dropna=False, sort=False)
    if keys.ngroups > MOST_LINES:
        shown = points[keys.ngroup().isin(_places(keys.ngroups, MOST_LINES))]
    groups: Any = shown.groupby(["variant", "beta", "seed"], dropna=False, sort=False)
    most = most_points(groups.ngroups)
    for (variant, beta, seed), group in groups:
        frame = thinned(group[["step", *names]], most)
        label = of_beta[None if pd.isna(beta) else beta]
        rows += [
            {"variant": variant, "beta": label, "seed": str(seed), **rounded(row)}
            for row in frame.to_dict(orient="records")
        ]
    return rows


def most_points(lines: int) -> int:
    """How many points each of so many lines may have."""
    return max(20, min(MOST_POINTS, MOST_ROWS // max(1, lines)))


def thinned(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, evenly chosen, the first and the last among them."""
    if len(frame) <= most:
        return frame
    return frame.iloc[_places(len(frame), most)]


def _places(size: int, most: int) -> list[int]:
    """At most so many places of `size`, evenly chosen, the first and the last among them."""
    if size <= most:
        return list(range(size))
    return sorted({round(i * (size - 1) / (most - 1)) for i in range(most)})


def rounded(row: Mapping[Any, Any]) -> Row:
    """Numbers with six digits, undefined ones as None: what a chart can show, and half the bytes."""
    return {str(key): number(value) if isinstance(value, float) else value for key, value in row.items()}


def number(value: float | str | None) -> float | None:
    """A number of the record with six digits; None where it is undefined or infinite."""
    if value is None or not math.isfinite(float(value)):
        return None
    return float(f"{float(value):.6g}")


def picked(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """The rows in which every field has the value given, without those fields."""
    return [
        {key: value for key, value in row.items() if key not in fields}
        for row in rows
        if all(row[key] == value for key, value in fields.items())
    ]


def extent(values: Sequence[float | None], include: Sequence[float | None] = ()) -> tuple[float, float] | None:
    """Lowest and highest defined value with a margin of 6 %; None without any."""
    there = [v for v in [*values, *include] if v is not None]
    if not there:
        return None
    low, high = min(there), max(there)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 0.5
    return low - margin, high + margin


def seed_values(results: Mapping[str, Any], variant: str, path: Sequence[str]) -> list[Row]:
    """One row per β and seed of a variant: `value` is what stands at `path` in the condition's record."""
    of_beta, rows = labels(results), []
    for record in results["conditions"]:
        if record["variant"] == variant:
            value: Any = record
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None
            row = {"x": record["beta"], "beta": of_beta[record["beta"]], "seed": str(record["seed"])}
            rows.append({**row, "value": number(value)})
    return rows


def mean_values(results: Mapping[str, Any], variant: str, name: str) -> list[Row]:
    """One row per β of a variant: `value` is the mean over seeds of a summary's measure, with its interval and n."""
    of_beta = labels(results)
    rows = results["summary"][variant]["by_beta"]
    return [mean_row(row["beta"], of_beta, row[name]) for row in rows]


def mean_row(beta: float | None, of_beta: Mapping[float | None, str], entry: Mapping[str, Any]) -> Row:
    """A mean with its interval as a chart draws it."""
    interval = entry["interval"]
    return {
        "x": beta,
        "beta": of_beta[beta],
        "value": number(entry["mean"]),
        "low": number(interval["low"]),
        "high": number(interval["high"]),
        "n": entry["n"],
    }
