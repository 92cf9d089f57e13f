"""The answer over β: one declared measure, one test, one effect, and which β to choose. Everything else is secondary.

Which statistic is computed how, and how often it errs: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from betastar.analysis.summary import NO_TENFOLD, NO_WHOLE_SEED, Record, slope_record, value_at
from betastar.errors import BetastarError
from betastar.maths.choice import best_columns, problem_variance, spread_of_means, widened
from betastar.maths.intervals import seed_mean
from betastar.maths.power import POWER, power_of, residual_deviation, smallest_rise
from betastar.maths.statistics import Interval
from betastar.maths.trend import ROUNDING, TrendTest, holm, shrunk, slope_within, trend_test
from betastar.record.answers import Grid
from betastar.record.entries import REGISTRY
from betastar.record.shapes.decision import PRIMARY

Array = NDArray[np.float64]
Key = tuple[str, float, int]

LEVEL = 0.05
BETTER_IF_HIGHER = ("end_change", "end_change_lenient")
SECONDARY = (*PRIMARY, "gap_area_common", "gap_area_standardised", "gap_area_paper", "end_change_lenient")
NO_ANSWERS = "problems are not resampled: single answers are not known"


class Grown(NamedTuple):
    """A quantity of whole seeds: `values` [S, B], and where single answers are known, the contribution of every problem
    to each, `by_problem` [S, B, P]."""

    values: Array
    by_problem: Array | None


def check_primary(name: str) -> None:
    """Raises BetastarError, which lists the choices, for a measure that a run cannot be judged by."""
    if name not in PRIMARY:
        raise BetastarError(
            f"{name!r} is not a measure that a run can be judged by", where="primary", remedy=f"choose {_or(PRIMARY)}"
        )


def decide(
    records: Mapping[str, Sequence[Record]],
    *,
    primary: str = "regret",
    smallest_effect: float | None = None,
    answers: Mapping[Key, Grid] | None = None,
    root_seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The decision of every variant from the records of its conditions (`results.json`: `decision`).

    `primary`: the declared measure; where a variant's records do not have it, the next of PRIMARY that they have, said
    in `fallback`. `smallest_effect`: what would matter, per tenfold β. `answers`: single answers by condition.
    Holm's adjustment is over the variants. Raises BetastarError for an unknown `primary`.
    """
    check_primary(primary)
    found = {
        variant: _decision(variant, some, primary, smallest_effect, answers or {}, root_seed)
        for variant, some in records.items()
    }
    adjusted = holm([one["test"]["p_corrected"] for one in found.values()])
    tests = int((~np.isnan(adjusted)).sum())
    for one, p in zip(found.values(), adjusted, strict=True):
        one["test"] |= {"p_holm": float(p), "n_variants": tests}
        one |= _verdict(one)
        one["disagreements"] = _disagreements(one)
    return found


def no_rise(decision: Mapping[str, Any]) -> str | None:
    """Why there may be no β★ of this variant: the primary test sees no rise of damage. None where it does."""
    if decision["damage"] == "rises":
        return None
    return f"by the primary test damage does not rise with β ({decision['measure']}: {decision['verdict_reason']})"


def _decision(
    variant: str,
    records: Sequence[Record],
    primary: str,
    smallest_effect: float | None,
    answers: Mapping[Key, Grid],
    root_seed: int,
) -> dict[str, Any]:
    betas, seeds = sorted({r["beta"] for r in records}), sorted({r["seed"] for r in records})
    at = {(r["seed"], r["beta"]): r for r in records}
    whole = [seed for seed in seeds if all((seed, beta) in at for beta in betas)]
    rows = [[at[seed, beta] for beta in betas] for seed in whole]
    measure, fallback = _measure(records, rows, primary)
    grids = _grids(variant, whole, betas, answers)
    values = Grown(_values(rows, (measure,), len(betas)), _contributions(grids, measure))
    trend = trend_test(values.values)
    scale, unit = _truth_unit(records)
    truth = Grown(scale * _values(rows, ("true_strict", "end"), len(betas)), _contributions(grids, "truth"))
    note = _power(values.values, betas, smallest_effect)
    return {
        "measure": measure,
        "declared": primary,
        "fallback": fallback,
        "unit": _unit(measure),
        "betas": betas,
        "seeds": whole,
        "n_seeds": len(whole),
        "n_beta": len(betas),
        "verdict": "cannot be said",
        "damage": None,
        "verdict_reason": "",
        "test": _test(trend, values, betas, whole, note),
        "guard": _guard(measure, rows, len(betas)),
        "effect": _effect(values, betas, smallest_effect, root_seed),
        "truth_unit": unit,
        "truth_by_beta": _truth_by_beta(variant, records, betas, scale, answers, root_seed),
        "truth_range": _truth_range(truth, betas),
        "choose": _choose(truth, betas),
        "directions": _directions(rows, betas),
        "disagreements": [],
        "power": note,
    }


# --- the measure ------------------------------------------------------------------------------------------------------


def _measure(records: Sequence[Record], rows: Sequence[Sequence[Record]], primary: str) -> tuple[str, str]:
    """The measure that the variant is judged by, and why it is not the declared one."""
    counted = [record for row in rows for record in row] or list(records)
    for name in (primary, *(other for other in PRIMARY if other != primary)):
        if not any(np.isnan(value_at(record, (name,))) for record in counted):
            if name == primary:
                return name, ""
            return name, f"{primary} is {_why_undefined(counted, primary)}; {name} is used instead"
    return primary, f"{primary} is {_why_undefined(counted, primary)}, and so is every other measure"


def _why_undefined(records: Sequence[Record], name: str) -> str:
    lacking = [record for record in records if np.isnan(value_at(record, (name,)))]
    why = next((r["missing"][name] for r in lacking if name in r.get("missing", {})), "not in the record")
    return f"undefined in {len(lacking)} of {len(records)} conditions ({why})"


def _values(rows: Sequence[Sequence[Record]], path: Sequence[str], n_beta: int) -> Array:
    """A number of every condition of whole seeds [S, B]."""
    return np.array([[value_at(r, path) for r in row] for row in rows], dtype=np.float64).reshape(len(rows), n_beta)


def _unit(name: str) -> str:
    entry = {m.name: m for m in REGISTRY.at("condition")}.get(name)
    return entry.unit if entry and entry.unit else "gap × steps" if name.startswith("augc") else "pp"


def _worse(name: str) -> int:
    """Which sign of a change is damage."""
    return -1 if name in BETTER_IF_HIGHER else 1


# --- the test ---------------------------------------------------------------------------------------------------------


def _test(
    trend: TrendTest, values: Grown, betas: Sequence[float], seeds: Sequence[int], note: Mapping[str, Any]
) -> dict[str, Any]:
    page = trend.page
    reason = _few(betas, seeds) or page.reason
    other, why = nan, NO_ANSWERS
    if values.by_problem is not None and not reason and all(beta > 0 for beta in betas):
        x = _centred_logs(betas)
        drawn, _ = problem_variance(values.by_problem.transpose(0, 2, 1) @ x / (x @ x))
        own = note["residual_sd"] ** 2 / (len(seeds) * (x @ x))
        other = min(1.0, 2 * float(shrunk(trend.p_two_sided / 2, 1 + drawn / own))) if own > 0 else trend.p_two_sided
        why = "the residual spread is 0" if np.isnan(other) else ""
    elif not reason and values.by_problem is not None:
        why = NO_TENFOLD
    return {
        "L": page.L,
        "p_greater": page.p_greater,
        "p_less": page.p_less,
        "p_two_sided": page.p_two_sided,
        "spread_ratio": trend.spread_ratio,
        "inflation": trend.inflation,
        "p_corrected": trend.p_two_sided,
        "p_holm": nan,
        "p_other_problems": other,
        "n_variants": 0,
        "n_seeds": len(seeds),
        "n_beta": len(betas),
        "method": f"Page's L over seeds ({page.method})",
        **({"missing": {"p_other_problems": why}} if why else {}),
        "reason": reason,
    }


def _few(betas: Sequence[float], seeds: Sequence[int]) -> str | None:
    if len(betas) < 2:
        return "there is only one β"
    if len(betas) < 3:
        return "there are only two values of β, and a trend needs three"
    return None if seeds else NO_WHOLE_SEED


def _guard(measure: str, rows: Sequence[Sequence[Record]], n_beta: int) -> dict[str, Any] | None:
    """Of a positive area: whether the signed area falls too. The positive part of a gap of mean 0 falls wherever the
    policy moves less, and a large β makes it move less."""
    if not measure.startswith("augc_"):
        return None
    form = measure.removeprefix("augc_")
    areas = np.array([[_signed_area(r, form) for r in row] for row in rows], dtype=np.float64).reshape(-1, n_beta)
    trend = trend_test(areas)
    reason = trend.page.reason
    return {"measure": f"gap_area_{form}", "p_less": trend.p_less, "n_seeds": len(rows), "reason": reason}


def _signed_area(record: Record, form: str) -> float:
    area = value_at(record, (f"gap_area_{form}",))
    if not np.isnan(area):
        return area
    series = record.get("series", {})
    gap, steps = series.get(f"gap_{form}"), series.get("step")
    return float(np.trapezoid(gap, steps)) if gap is not None and steps is not None else nan


def _verdict(one: Mapping[str, Any]) -> dict[str, Any]:
    test, p = one["test"], one["test"]["p_holm"]
    missing = {"damage": "no change with β was found"}
    if one["guard"] is None:
        missing["guard"] = "only a fall of a positive area is guarded"
    if np.isnan(p):
        reason = test["reason"] or one["fallback"] or "the test is undefined"
        return {"verdict": "cannot be said", "damage": None, "verdict_reason": reason, "missing": missing}
    told = f"p = {p:.2g}" + (f", Holm-adjusted over {test['n_variants']} variants" if test["n_variants"] > 1 else "")
    verdict, guard = "not distinguishable", one["guard"]
    if p <= LEVEL:
        verdict = "rose" if test["p_greater"] < test["p_less"] else "fell"
        if verdict == "fell" and guard is not None and not guard["p_less"] <= LEVEL / 2:
            told += "; the area of the positive gap falls, but not the gap itself: less movement, not less damage"
            verdict = "not distinguishable"
    if verdict == "not distinguishable":
        return {"verdict": verdict, "damage": None, "verdict_reason": told, "missing": missing}
    rising = (verdict == "rose") == (_worse(one["measure"]) > 0)
    del missing["damage"]
    found = {"verdict": verdict, "damage": "rises" if rising else "falls", "verdict_reason": told}
    return {**found, **({"missing": missing} if missing else {})}


# --- the effect -------------------------------------------------------------------------------------------------------


def _centred_logs(betas: Sequence[float]) -> Array:
    x = np.log10(np.asarray(betas, dtype=np.float64))
    return x - x.mean()


def _effect(values: Grown, betas: Sequence[float], smallest_effect: float | None, root_seed: int) -> dict[str, Any]:
    slopes = slope_within(betas, values.values)
    slope = slope_record(slopes, betas, root_seed)
    if len(betas) < 2:
        slope |= {"reason": "there is only one β", "interval": _no_interval("there is only one β")}
    problems: dict[str, Any] = {"standard_error": nan, "n_problems": 0, "reason": NO_ANSWERS}
    if values.by_problem is not None and len(betas) > 1 and all(beta > 0 for beta in betas):
        x = _centred_logs(betas)
        variance, n = problem_variance(values.by_problem.transpose(0, 2, 1) @ x / (x @ x))
        problems = {"standard_error": sqrt(variance), "n_problems": n, "reason": None}
        interval = widened(Interval(**slope["interval"]), slope["mean"], variance, n)
        slope |= {"interval": interval._asdict()}
    relevance, reason = None, "analysis.smallest_effect is not set"
    if smallest_effect is not None:
        low, high = slope["interval"]["low"], slope["interval"]["high"]
        relevance, reason = "cannot be said", None
        if max(abs(low), abs(high)) < smallest_effect:
            relevance = "too small to matter"
        elif low > smallest_effect or high < -smallest_effect:
            relevance = "large enough to matter"
    return {
        "slope": slope,
        "problems": problems,
        "smallest_effect": nan if smallest_effect is None else smallest_effect,
        "relevance": relevance,
        "reason": reason,
    }


def _power(table: Array, betas: Sequence[float], smallest_effect: float | None) -> dict[str, Any]:
    n_seeds = len(table)
    deviation, freedom = residual_deviation(table)
    positive = all(beta > 0 for beta in betas)
    rise = smallest_rise(n_seeds, betas if positive else len(betas))
    decades = log10(betas[-1] / betas[0]) if positive else nan
    missing: dict[str, str] = {}
    slope = rise * deviation / decades if decades > 0 and deviation > 0 else nan
    if np.isnan(slope):
        missing["smallest_slope"] = "the residual spread is 0" if positive else NO_TENFOLD
    power = nan
    if smallest_effect is None:
        missing["power_for_smallest_effect"] = "analysis.smallest_effect is not set"
    elif deviation > 0 and decades > 0:
        power = power_of(smallest_effect * decades / deviation, n_seeds, betas)
    else:
        missing["power_for_smallest_effect"] = "it needs a residual spread and β > 0"
    reason = None
    if freedom == 0:
        reason = f"a residual spread needs two seeds and two values of β (seeds: {n_seeds}, values of β: {len(betas)})"
    elif np.isnan(deviation):
        reason = "the measure is undefined somewhere"
    return {
        "residual_sd": deviation,
        "degrees_of_freedom": freedom,
        "power": POWER,
        "smallest_rise_sd": rise,
        "smallest_slope": slope,
        "power_for_smallest_effect": power,
        "n_seeds": n_seeds,
        "n_beta": len(betas),
        **({"missing": missing} if missing else {}),
        "reason": reason,
    }


# --- the truth --------------------------------------------------------------------------------------------------------


def _truth_unit(records: Sequence[Record]) -> tuple[float, str]:
    """Factor and unit of true rewards: percentage points of a share of right answers, or a score as it is."""
    series = [np.asarray(r["series"].get("true_strict", []), dtype=float) for r in records]
    share = all(bool((np.isnan(values) | ((values >= 0) & (values <= 1))).all()) for values in series)
    return (100.0, "pp") if share else (1.0, "score")


def _truth_by_beta(
    variant: str,
    records: Sequence[Record],
    betas: Sequence[float],
    scale: float,
    answers: Mapping[Key, Grid],
    root_seed: int,
) -> list[dict[str, Any]]:
    bounds = (0.0, 100.0) if scale == 100 else (-np.inf, np.inf)
    rows = []
    for beta in betas:
        mine = [r for r in records if r["beta"] == beta]
        values = scale * np.array([value_at(r, ("true_strict", "end")) for r in mine])
        found = seed_mean(values, bounds=bounds, root_seed=root_seed)
        grids = _grids(variant, [r["seed"] for r in mine], [beta], answers)
        by_problem = _contributions(grids, "truth")
        interval, n, reason = found.interval, 0, found.reason
        if by_problem is not None and not np.isnan(found.mean):
            variance, n = problem_variance(by_problem[:, 0])
            if len(mine) == 1 and n > 1:
                half = float(stats.t.ppf((1 + interval.level) / 2, n - 1)) * sqrt(variance)
                method = "Student's t over problems; one seed"
                interval = Interval(found.mean - half, found.mean + half, None, interval.level, method)
                reason = None
            else:
                interval = widened(interval, found.mean, variance, n)
            low, high = (float(np.clip(bound, *bounds)) for bound in interval[:2])
            interval = interval._replace(low=low, high=high)
        rows.append(
            {
                "beta": beta,
                "mean": found.mean,
                "interval": interval._asdict(),
                "n_seeds": len(mine),
                "n_problems": n,
                "reason": reason,
            }
        )
    return rows


def _shared(truth: Grown) -> tuple[float, int]:
    """Variance that the draw of problems adds to a mean at one β, beside what all β share; and how many problems."""
    if truth.by_problem is None or truth.by_problem.shape[1] < 2:
        return 0.0, 0
    n_beta = truth.by_problem.shape[1]
    own = truth.by_problem - truth.by_problem.mean(axis=1, keepdims=True)
    found = [problem_variance(own[:, i]) for i in range(n_beta)]
    return float(np.mean([variance for variance, _ in found])) * n_beta / (n_beta - 1), found[0][1]


def _truth_range(truth: Grown, betas: Sequence[float]) -> dict[str, Any]:
    if not len(truth.values):
        width, interval = nan, Interval(nan, nan, NO_WHOLE_SEED)
    else:
        width, interval = spread_of_means(truth.values, _shared(truth)[0])
    undefined = np.isnan(width)
    means = truth.values.mean(axis=0) if not undefined else np.zeros(0)
    return {
        "value": width,
        "interval": interval._asdict(),
        "highest": nan if undefined else betas[int(means.argmax())],
        "lowest": nan if undefined else betas[int(means.argmin())],
        "n_seeds": len(truth.values),
        "reason": interval.reason if undefined else None,
    }


def _choose(truth: Grown, betas: Sequence[float]) -> dict[str, Any]:
    variance, n_problems = _shared(truth)
    found = best_columns(truth.values, variance)
    may = [beta for beta, candidate in zip(betas, found.candidates, strict=True) if candidate]
    best = nan if found.best is None else betas[found.best]
    if found.best is not None:
        may.sort(key=lambda beta: beta != best)
    rows = zip(betas, found.behind, found.low, found.high, found.candidates, strict=True)
    return {
        "betas": may,
        "best": best,
        "lead": found.lead,
        "lead_interval": found.lead_interval._asdict(),
        "by_beta": [
            {"beta": beta, "behind": float(b), "low": float(low), "high": float(high), "candidate": bool(candidate)}
            for beta, b, low, high, candidate in rows
        ],
        "n_seeds": len(truth.values),
        "n_problems": n_problems,
        "method": "multiple comparisons with the best (Hsu 1984), paired in seeds",
        "reason": found.reason,
    }


# --- everything else, secondary ---------------------------------------------------------------------------------------


def _directions(rows: Sequence[Sequence[Record]], betas: Sequence[float]) -> list[dict[str, Any]]:
    """Which way every measure goes that is defined in all conditions."""
    found = []
    positive = all(beta > 0 for beta in betas)
    for name in SECONDARY:
        table = _values(rows, (name,), len(betas))
        if len(betas) < 2 or not table.size or np.isnan(table).any():
            continue
        trend = trend_test(table)
        # A β of 0 has no logarithm: then the order of β stands in for it, for the sign alone.
        slope = float(slope_within(betas if positive else np.arange(1, len(betas) + 1), table).mean())
        if np.ptp(table, axis=1).max() <= ROUNDING * np.abs(table).max():
            slope = 0.0  # the same at every β but for rounding
        way = None if slope == 0 else "rises" if slope * _worse(name) > 0 else "falls"
        reason = trend.page.reason or (None if positive else NO_TENFOLD)
        found.append(
            {
                "measure": name,
                "slope": slope if positive else nan,
                "damage": way,
                "p_two_sided": trend.p_two_sided,
                "n_seeds": len(rows),
                "reason": reason or ("no change with β at all" if way is None else None),
            }
        )
    return found


def _disagreements(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    ways = {row["measure"]: row for row in one["directions"]}
    mine = ways.get(one["measure"])
    if mine is None or mine["damage"] is None:
        return []
    return [
        {
            "measure": name,
            "damage": row["damage"],
            "primary": mine["damage"],
            "clear": bool(row["p_two_sided"] <= LEVEL and mine["p_two_sided"] <= LEVEL),
            "n_seeds": row["n_seeds"],
        }
        for name, row in ways.items()
        if row["damage"] not in (None, mine["damage"])
    ]


# --- single answers ---------------------------------------------------------------------------------------------------


def _grids(
    variant: str, seeds: Sequence[int], betas: Sequence[float], answers: Mapping[Key, Grid]
) -> list[list[Grid]] | None:
    """The answers of these conditions, of problems that all of them have; None where a condition has none."""
    if not seeds or not all((variant, beta, seed) in answers for seed in seeds for beta in betas):
        return None
    found = [[answers[variant, beta, seed] for beta in betas] for seed in seeds]
    common = set.intersection(*(set(grid.problems) for row in found for grid in row))
    if len(common) < 2:
        return None
    return [[_only(grid, common) for grid in row] for row in found]


def _only(grid: Grid, problems: set[str]) -> Grid:
    if len(grid.problems) == len(problems):
        return grid
    keep = [i for i, name in enumerate(grid.problems) if name in problems]
    return grid._replace(problems=[grid.problems[i] for i in keep], strict=grid.strict[:, keep])


def _contributions(grids: list[list[Grid]] | None, measure: str) -> Array | None:
    """What every problem contributes to a measure of truth, in percentage points, [S, B, P]; its mean over problems is
    the measure. None for other measures, or where an answer is missing."""
    if grids is None or measure not in CONTRIBUTIONS:
        return None
    found = np.array([[CONTRIBUTIONS[measure](_by_problem(grid), grid.steps) for grid in row] for row in grids])
    return None if np.isnan(found).any() else found


def _by_problem(grid: Grid) -> Array:
    """True reward in percentage points by step and problem [T, P], mean over a problem's answers."""
    known = ~np.isnan(grid.strict)
    count = known.sum(axis=2)
    total = np.where(known, grid.strict, 0).sum(axis=2)
    return 100 * np.divide(total, count, out=np.full(count.shape, nan), where=count > 0)


def _regret_by_problem(truth: Array, steps: Array) -> Array:
    """The best step is chosen on every other problem and measured on the rest, both ways."""
    chosen = np.empty(truth.shape[1])
    for half in (0, 1):
        best = int(truth[:, half::2].mean(axis=1).argmax())
        chosen[1 - half :: 2] = (truth[best] - truth[-1])[1 - half :: 2]
    return chosen


def _points_lost_by_problem(truth: Array, steps: Array) -> Array:
    """The mean over time of what is lost against the start, at those steps at which the mean is below the start."""
    below = truth.mean(axis=1) < truth[0].mean()
    lost = np.where(below[:, None], truth[0] - truth, 0.0)
    span = float(steps[-1] - steps[0])
    return np.trapezoid(lost, steps, axis=0) / span if span > 0 else lost[0]


CONTRIBUTIONS = {
    "truth": lambda truth, steps: truth[-1],
    "end_change": lambda truth, steps: truth[-1] - truth[0],
    "regret": _regret_by_problem,
    "points_lost": _points_lost_by_problem,
}


def _no_interval(reason: str) -> dict[str, Any]:
    return Interval(nan, nan, reason)._asdict()


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
