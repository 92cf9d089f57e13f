"""One summary per variant over seeds: means with intervals, trend in β, the conservatism law, the instrument's noise.

Which statistic is computed how, and how often its interval covers the truth: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from betastar.analysis.differences import minus_smallest_beta
from betastar.analysis.instrument import instrument_noise
from betastar.analysis.quantities import CORRELATION, Record, Table, described, table
from betastar.maths.conservatism import BetaStar, ConservatismLaw, conservatism_law, definition_beta_star
from betastar.maths.intervals import seed_mean
from betastar.maths.statistics import Interval, spearman_exact
from betastar.maths.trend import ALTERNATIVES, page_trend, slope_within, spearman_within
from betastar.randomness import numpy_generator
from betastar.record.entries import REGISTRY
from betastar.record.schema import FORMS

N_DRAWS = 1000
NO_RANK_INTERVAL = (
    "no resampling of seeds covers the rank correlation of means (measured: docs/statistics.md); "
    "the exact p-value and the correlation within seeds say how sure the order is"
)
NO_WHOLE_SEED = "no seed has every β"
NO_TENFOLD = "a change per tenfold β needs β > 0"


def summarise(records: Sequence[Record], *, root_seed: int = 0, trade_off: float | None = None) -> dict[str, Any]:
    """Summary of the records of one variant.

    A quantity's row counts the seeds that have that β. Whatever compares β (trend, law, β★) takes the seeds that have
    all of them; `incomplete_seeds` names the others.
    """
    betas, seeds = sorted({r["beta"] for r in records}), sorted({r["seed"] for r in records})
    tables = {name: table(records, name, seeds, betas) for name in (m.name for m in REGISTRY.summaries)}
    onset = {(r["seed"], r["beta"]): r["onset_step"] for r in records}
    rows = []
    for i, beta in enumerate(betas):
        row: dict[str, Any] = {"beta": beta}
        for name, (values, present) in tables.items():
            entry = described(values[present[:, i], i], name, root_seed=root_seed)
            row[name] = entry if entry["reason"] is None else _explained(entry, records, beta, name)
        row["onset_steps"] = [onset[s, beta] for s in seeds if (s, beta) in onset]
        if None in row["onset_steps"]:
            why = [r.get("missing", {}).get("onset_step") for r in records if r["beta"] == beta]
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
        law = _law(betas, augc.values[complete], root_seed, form)
        summary[form] = {
            **_trend(betas, augc, root_seed),
            **law,
            "beta_star_definition": _definition(betas, augc, tables["win_rate"], trade_off, root_seed),
        }
    return summary


def _explained(entry: dict[str, Any], records: Sequence[Record], beta: float, name: str) -> dict[str, Any]:
    """A mean that is undefined, with why its values are, where the conditions say so."""
    if not np.isnan(entry["mean"]):
        return entry
    field, *_ = REGISTRY.summary(name).value_path
    mine = [r for r in records if r["beta"] == beta]
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


def _law(betas: Sequence[float], augc: np.ndarray, root_seed: int, form: str) -> dict[str, Any]:
    """The law with everything about it, and β★ by both readings of Eq. 15. `augc`: [S, B], whole seeds."""
    undefined = np.full((1, len(betas)), np.nan)
    law = conservatism_law(
        betas, augc if len(augc) else undefined, rng=numpy_generator(root_seed, "law", form), n_draws=N_DRAWS
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
        few = f"{fit.n} points are too few: AICc needs at least two more than there are parameters"
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
        reason = "Def. 6.1 chooses among β, and there is one"
    if trade_off is None or reason:
        return {**record, "interval": Interval(np.nan, np.nan, reason)._asdict(), "n_seeds": 0, "reason": reason}
    rng = numpy_generator(root_seed, "definition")
    star = definition_beta_star(betas, augc.values[whole], alignment.values[whole], trade_off, rng=rng)
    share = [{"beta": beta, "share": share} for beta, share in star.share.items()]
    return {**record, **asdict(star), "share": share, "interval": star.interval._asdict()}
