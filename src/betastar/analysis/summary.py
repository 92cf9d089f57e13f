"""One summary per variant over seeds: means with intervals, trend in β, the conservatism law, the instrument's noise.

Which statistic is computed how, and how often its interval covers the truth: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from math import inf, nan, sqrt
from typing import Any, NamedTuple

import numpy as np

from betastar.maths.conservatism import BetaStar, ConservatismLaw, conservatism_law, definition_beta_star
from betastar.maths.goodhart import paper_gap, paper_gap_undefined, standardised_gap
from betastar.maths.intervals import root_mean_square_interval, seed_mean
from betastar.maths.outcomes import time_weights
from betastar.maths.statistics import Interval, spearman_exact
from betastar.maths.trend import ALTERNATIVES, page_trend, slope_within, spearman_within
from betastar.randomness import numpy_generator
from betastar.record.entries import REGISTRY
from betastar.record.schema import BETWEEN_VARIANTS, FORMS

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


def paired_differences(
    records: Sequence[Record], *, objectives: Mapping[str, str] | None = None, root_seed: int = 0
) -> list[dict[str, Any]]:
    """For every pair of variants, `variant` minus `minus` at the same β and seed, in the order of the records.

    `by_beta`: one row per β that both have: mean difference over seeds, standard error, interval, n and reason, for
    each quantity of BETWEEN_VARIANTS. `over_beta`: the same for each seed's mean over those β, for seeds that have all
    of them in both variants.

    The strengths of two offline `objectives`, given by variant, are not comparable: there is no row by β then, and
    `over_beta` is of each seed's mean over each variant's own strengths.
    """
    of = {name: [r for r in records if r["variant"] == name] for name in dict.fromkeys(r["variant"] for r in records)}
    objective = {name: (objectives or {}).get(name) for name in of}
    return [
        {
            "variant": later,
            "minus": earlier,
            **(between if objective[later] == objective[earlier] else between_objectives)(
                of[later], of[earlier], root_seed=root_seed
            ),
        }
        for earlier, later in combinations(of, 2)
    ]


def objectives_of(results: Mapping[str, Any]) -> dict[str, str]:
    """Variant → offline objective behind it, as a record says where there are others than DPO."""
    return {
        variant: method["objective"]
        for method in (results.get("methods") or {}).values()
        for variant in method["variants"]
    }


def minus_smallest_beta(records: Sequence[Record], *, root_seed: int = 0) -> dict[str, Any]:
    """Of one variant: every quantity at each β minus the same at the smallest β, within seeds that have both."""
    betas, seeds = sorted({r["beta"] for r in records}), sorted({r["seed"] for r in records})
    rows: list[dict[str, Any]] = [{"beta": beta} for beta in betas[1:]]
    for name in (m.name for m in REGISTRY.summaries):
        values, present = table(records, name, seeds, betas)
        for i, row in enumerate(rows, start=1):
            both = present[:, 0] & present[:, i]
            difference = values[both, i] - values[both, 0]
            row[name] = described(difference, name, difference=True, root_seed=root_seed)
    reason = None if rows else "there is only one β"
    return {"smallest_beta": betas[0] if rows else None, "by_beta": rows, "reason": reason}


def between(ours: Sequence[Record], theirs: Sequence[Record], *, root_seed: int = 0) -> dict[str, Any]:
    """`ours` minus `theirs`, the records of a variant each, within the seeds and at the β that both have: `by_beta` and
    `over_beta` as in `paired_differences`."""
    sides = ours, theirs
    betas, seeds = (sorted(set.intersection(*({r[k] for r in side} for side in sides))) for k in ("beta", "seed"))
    rows: list[dict[str, Any]] = [{"beta": beta} for beta in betas]
    over: dict[str, Any] = {}
    for name in BETWEEN_VARIANTS:
        (ours_at, ours_there), (theirs_at, theirs_there) = (table(side, name, seeds, betas) for side in sides)
        difference, there = ours_at - theirs_at, ours_there & theirs_there
        for i, row in enumerate(rows):
            row[name] = described(difference[there[:, i], i], name, difference=True, root_seed=root_seed)
        everywhere = difference[there.all(axis=1)].mean(axis=1) if betas else difference.ravel()
        over[name] = described(everywhere, name, difference=True, root_seed=root_seed)
    return {"by_beta": rows, "over_beta": over}


def between_objectives(ours: Sequence[Record], theirs: Sequence[Record], *, root_seed: int = 0) -> dict[str, Any]:
    """`ours` minus `theirs`, the records of an offline objective each: as `between`, but with each seed's mean over the
    own strengths of each, as far as it has all of them."""
    over: dict[str, Any] = {}
    for name in BETWEEN_VARIANTS:
        mine, other = (_mean_over_own_strengths(side, name) for side in (ours, theirs))
        values = np.array([mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())])
        over[name] = described(values, name, difference=True, root_seed=root_seed)
    return {"by_beta": [], "over_beta": over}


def _mean_over_own_strengths(side: Sequence[Record], name: str) -> dict[int, float]:
    """Seed → mean of a quantity over all strengths in the records, of the seeds that have all of them."""
    betas, seeds = sorted({r["beta"] for r in side}), sorted({r["seed"] for r in side})
    found = table(side, name, seeds, betas)
    return {seed: float(found.values[i].mean()) for i, seed in enumerate(seeds) if found.present[i].all()}


PARTS = ("gap", "z_proxy", "z_true", "gap_paper")


def instrument_noise(records: Sequence[Record]) -> dict[str, Any]:
    """The gap of the second evaluation at t=0 (`again`) against the first, of one variant's records (A/A comparison).

    `conditions`: both forms of that gap, and the two standardised parts, per β and seed. For each of them
    `standard_deviation`: root mean square over conditions (the mean is 0 by construction), with n, an interval that
    counts the noise the β of a seed share, and for the standardised form what theory expects (`_expected`). A gap at
    t > 0 carries this much noise where the policy has moved, and less where it has not, since evaluations share their
    sampling noise over time. `augc`: the AUGC that such noise alone would give on average at the run's own evaluation
    points, were it fresh at each; E max(N(0, s²), 0) = s/√(2π). Null with a reason where nothing was evaluated twice.
    """
    rows = [_row(record) for record in records]
    seeds = sorted({row["seed"] for row in rows})
    pooled = {}
    for part in PARTS:
        by_seed = [np.array([r[part] for r in rows if r["seed"] == s and not np.isnan(r[part])]) for s in seeds]
        values = np.concatenate([np.zeros(0), *by_seed])
        expected = np.array([r["expected"][part] for r in rows if part in r["expected"] and not np.isnan(r[part])])
        reason = None if values.size else "no condition has two evaluations at t=0 with known n and standard deviation"
        pooled[part] = {
            "standard_deviation": sqrt(float(np.mean(values**2))) if values.size else nan,
            "interval": root_mean_square_interval(by_seed)._asdict(),
            "expected": sqrt(float(np.mean(expected**2))) if expected.size else nan,
            "n": int(values.size),
            "n_seeds": sum(v.size > 0 for v in by_seed),
            "reason": reason or (None if expected.size else "there is no theoretical value for a ratio to the start"),
        }
    noise = pooled["gap"]
    area = float(np.mean([_weight(record) for record in records])) / sqrt(2 * np.pi) if records else nan
    bounds = {side: noise["interval"][side] * area for side in ("low", "high")}
    return {
        **pooled,
        "augc": {
            "value": noise["standard_deviation"] * area,
            "interval": {**noise["interval"], **bounds},
            "n": noise["n"],
            "reason": noise["reason"],
        },
        "conditions": rows,
    }


def _row(record: Record) -> dict[str, Any]:
    again = record.get("again")
    row: dict[str, Any] = {"beta": record["beta"], "seed": record["seed"], "n": record.get("n", nan)}
    row |= {**dict.fromkeys(PARTS, nan), "expected": {}}
    if not isinstance(again, Mapping) or again.get("proxy") is None or again.get("true_strict") is None:
        return {**row, "reason": "the checkpoint was not evaluated twice"}
    if np.isnan(record["n"]):
        return {**row, "reason": "the number of responses is unknown"}
    n, deviation = int(record["n"]), _first(record["series"].get("proxy_std"))
    proxy = [value_at(record, ("proxy", "start")), float(again["proxy"])]
    true = [value_at(record, ("true_strict", "start")), float(again["true_strict"])]
    if np.isnan(proxy[0]) or np.isnan(true[0]):  # a log that lost one of its rewards
        return {**row, "reason": "the start has not both rewards"}
    correct = round(true[0] * n)
    gap = standardised_gap(proxy, true, deviation, correct, n)
    row |= {"gap": float(gap.gap[1]), "z_proxy": float(gap.z_proxy[1]), "z_true": float(gap.z_true[1])}
    undefined = paper_gap_undefined(proxy[0], true[0])
    if undefined is None:
        row["gap_paper"] = float(paper_gap(proxy, true)[1] - paper_gap(proxy, true)[0])
    return {**row, "expected": _expected(n, correct, true), "reason": gap.reason or undefined}


def _first(values: Sequence[float | None] | None) -> float:
    """The first of a series; NaN where there is none."""
    return nan if values is None or values[0] is None else float(values[0])


def _expected(n: int, correct: int, true: Sequence[float]) -> dict[str, float]:
    """Standard deviations of two evaluations' difference, were the n responses independent draws.

    Normal theory for the proxy: s²/n twice, in units of s. Binomial for the true reward: p(1−p)/n twice, p from both
    evaluations, in units of √(q(1−q)), q as in the gap. The gap's is that of uncorrelated rewards. Problems are the
    same in both evaluations and their differences in difficulty cancel, so measured values lie below these; a positive
    correlation of the two rewards within a response lowers the gap's further.
    """
    q, p = (correct + 1) / (n + 2), float(np.mean(true))
    z_proxy, z_true = sqrt(2 / n), sqrt(2 * p * (1 - p) / n / (q * (1 - q)))
    return {"gap": sqrt(z_proxy**2 + z_true**2), "z_proxy": z_proxy, "z_true": z_true}


def _weight(record: Record) -> float:
    """Steps that the trapezoid gives to the points after the start."""
    steps = np.asarray(record["series"]["step"], dtype=np.float64)
    return float(time_weights(steps)[1:].sum()) if steps.size > 1 else 0.0


N_DRAWS = 1000
NO_RANK_INTERVAL = (
    "no resampling of seeds covers the rank correlation of means (measured: docs/statistics.md); the exact p-value "
    "and the correlation within seeds show how certain the order is"
)
NO_WHOLE_SEED = "no seed has every β"
NO_TENFOLD = "a change per tenfold β needs β > 0"


def summarise(
    records: Sequence[Record], *, root_seed: int = 0, trade_off: float | None = None, refusal: str | None = None
) -> dict[str, Any]:
    """Summary of the records of one variant. `refusal`: why there may be no β★ (`decision.no_rise`).

    A quantity's row counts the seeds that have that β. Whatever compares β (trend, law, β★) takes the seeds that have
    all of them; `incomplete_seeds` names the others.
    """
    betas, seeds = sorted({r["beta"] for r in records}), sorted({r["seed"] for r in records})
    tables = {name: table(records, name, seeds, betas) for name in (m.name for m in REGISTRY.summaries)}
    onset = {(r["seed"], r["beta"]): r["onset_step"] for r in records}
    by_beta: dict[float, list[Record]] = {}
    for record in records:
        by_beta.setdefault(record["beta"], []).append(record)
    rows = []
    for i, beta in enumerate(betas):
        row: dict[str, Any] = {"beta": beta}
        for name, (values, present) in tables.items():
            entry = described(values[present[:, i], i], name, root_seed=root_seed)
            row[name] = entry if entry["reason"] is None else _explained(entry, by_beta[beta], name)
        row["onset_steps"] = [onset[s, beta] for s in seeds if (s, beta) in onset]
        if None in row["onset_steps"]:
            why = [r.get("missing", {}).get("onset_step") for r in by_beta[beta]]
            row["missing"] = {"onset_steps": "; ".join(dict.fromkeys(filter(None, why)))}
        rows.append(row)
    complete = tables["augc_standardised"].complete
    summary: dict[str, Any] = {
        "betas": betas,
        "seeds": seeds,
        "incomplete_seeds": [seed for seed, whole in zip(seeds, complete, strict=True) if not whole],
        "by_beta": rows,
        "minus_smallest_beta": minus_smallest_beta(records, root_seed=root_seed),
        "instrument_noise": instrument_noise(records),
    }
    for form in FORMS:
        augc = tables[f"augc_{form}"]
        law = _law(betas, augc.values[complete], root_seed, form, refusal)
        summary[form] = {
            **_trend(betas, augc, root_seed),
            **law,
            "beta_star_definition": _definition(betas, augc, tables["win_rate"], trade_off, root_seed),
        }
    return summary


def _explained(entry: dict[str, Any], mine: Sequence[Record], name: str) -> dict[str, Any]:
    """A mean over the records `mine` of one β that is undefined, with why its values are, where they say so."""
    if not np.isnan(entry["mean"]):
        return entry
    field, *_ = REGISTRY.summary(name).value_path
    why = next((r["missing"][field] for r in mine if field in r.get("missing", {})), None)
    if why is None and all(field not in r for r in mine):
        why = "not logged"
    return entry if why is None else {**entry, "reason": f"{entry['reason']}: {why}"}


def _trend(betas: Sequence[float], augc: Table, root_seed: int) -> dict[str, Any]:
    """Tests and measures of AUGC rising with β; of each p the alternative it is against."""
    whole = augc.values[augc.complete]
    # Without a seed that has every β there are still means per β, over different seeds.
    counted = augc.present & augc.complete[:, None] if len(whole) else augc.present
    mean = [augc.values[counted[:, i], i].mean() for i in range(len(betas))]
    spearman = spearman_exact(betas, mean, numpy_generator(root_seed, "spearman"))
    within, slope = spearman_within(whole), slope_within(betas, whole)
    return {
        "spearman": {
            **asdict(spearman),
            "interval": Interval(np.nan, np.nan, NO_RANK_INTERVAL)._asdict(),
            "n_seeds": len(whole),
            "alternatives": ALTERNATIVES,
        },
        "spearman_within_seeds": seed_mean(within, bounds=CORRELATION, root_seed=root_seed).record(),
        "slope_per_tenfold_beta": slope_record(slope, betas, root_seed),
        "page": {**asdict(page_trend(whole)), "alternatives": ALTERNATIVES},
    }


def slope_record(slopes: np.ndarray, betas: Sequence[float], root_seed: int) -> dict[str, Any]:
    """The mean of slopes [S] per tenfold β, one of each seed, or why there is none."""
    record = seed_mean(slopes, root_seed=root_seed).record()
    if all(beta > 0 for beta in betas):
        return record
    return {**record, "reason": NO_TENFOLD, "interval": Interval(np.nan, np.nan, NO_TENFOLD)._asdict()}


def _law(betas: Sequence[float], augc: np.ndarray, root_seed: int, form: str, refusal: str | None) -> dict[str, Any]:
    """The law with everything about it, and β★ by both readings of Eq. 15. `augc`: [S, B], whole seeds."""
    undefined = np.full((1, len(betas)), np.nan)
    law = conservatism_law(
        betas,
        augc if len(augc) else undefined,
        rng=numpy_generator(root_seed, "law", form),
        n_draws=N_DRAWS,
        refusal=refusal,
    )
    found = {
        "law": _law_record(law, len(augc)),
        "beta_star": _star_record(law.beta_star["beta_min"]),
        "beta_star_grid_reference": _star_record(law.beta_star["grid"]),
    }
    if not len(augc):
        found["law"] |= {"n": 0, "reason": NO_WHOLE_SEED}
        for name in ("beta_star", "beta_star_grid_reference"):
            none = {"n_seeds": 0, "reason": f"no β★: {NO_WHOLE_SEED}"}
            found[name] |= {**none, "augc": {**found[name]["augc"], **none}}
    return found


def _law_record(law: ConservatismLaw, n_seeds: int) -> dict[str, Any]:
    left_out, fit = law.leave_one_beta_out, law.fit
    missing = {}
    if fit.reason is None and fit.beats_constant is None:
        few = f"{fit.n} points are too few: AICc needs at least two more points than parameters"
        names = ("aicc", "aicc_constant", "beats_constant")
        missing = {name: few for name in names if name == "beats_constant" or np.isnan(getattr(fit, name))}
    return {
        **asdict(fit),
        **({"missing": missing} if missing else {}),
        "n_seeds": n_seeds,
        "label": law.label,
        "intervals": {name: interval._asdict() for name, interval in law.intervals.items()},
        "models": asdict(law.comparison),
        "leave_one_beta_out": {
            **asdict(left_out),
            "predictions": [prediction._asdict() for prediction in left_out.predictions],
        },
    }


def _star_record(star: BetaStar) -> dict[str, Any]:
    record = asdict(star)
    interval = record.pop("augc_interval")
    return {
        **record,
        "interval": star.interval._asdict(),
        "augc": {
            "value": star.augc,
            "interval": interval._asdict(),
            "n_seeds": star.n_seeds,
            "reason": star.reason if np.isnan(star.augc) else None,
        },
    }


def _definition(
    betas: Sequence[float], augc: Table, alignment: Table, trade_off: float | None, root_seed: int
) -> dict[str, Any]:
    """β★ by Def. 6.1 with 𝒜 the win rate, or why there is none."""
    record: dict[str, Any] = {"value": np.nan, "trade_off": trade_off, "alignment": "win_rate"}
    whole, reason = augc.complete, None
    if trade_off is None:
        reason = "λ is not given (law.trade_off)"
    elif not whole.any():
        reason = NO_WHOLE_SEED
    elif len(betas) < 2:
        reason = "Def. 6.1 chooses among values of β, and there is only one"
    if trade_off is None or reason:
        return {**record, "interval": Interval(np.nan, np.nan, reason)._asdict(), "n_seeds": 0, "reason": reason}
    rng = numpy_generator(root_seed, "definition")
    star = definition_beta_star(betas, augc.values[whole], alignment.values[whole], trade_off, rng=rng)
    share = [{"beta": beta, "share": share} for beta, share in star.share.items()]
    return {**record, **asdict(star), "share": share, "interval": star.interval._asdict()}
