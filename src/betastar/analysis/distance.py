"""Rewards against √KL from the checkpoint and from the base: Gao's forms, β at equal KL, conservatism measured.

How each number is computed and how sure it is: docs/distance.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from betastar.analysis.decision import BETTER_IF_HIGHER
from betastar.maths.conservatism import DistanceLaw, DistanceStar, distance_law
from betastar.maths.gao import Form, GaoFit, at_distance, gao_fit, no_fit, root_kl
from betastar.maths.intervals import seed_mean
from betastar.maths.power_law import PowerLawFit
from betastar.maths.statistics import Interval, pearson
from betastar.maths.trend import page_trend, slope_within
from betastar.randomness import numpy_generator
from betastar.record.schema import FORMS

Record = Mapping[str, Any]
Array = NDArray[np.float64]

KINDS = {"from_checkpoint": "kl", "from_base": "kl_base"}
"""The columns of a point that hold the KL; with `_error` and `_k3` its standard error and its other estimate."""

ORIGINS = {"from_checkpoint": "checkpoint", "from_base": "base"}
QUANTITIES = ("truth", "proxy")

N_MATCHED = 5
"""Distances at which β are compared, evenly spaced over the range that all conditions cover."""

ONLY_ONE = "there is only one β"
NO_TENFOLD = "a change per tenfold β needs β > 0"
ALTERNATIVES = {
    "p_greater": "one-sided: rises with the distance from the base",
    "p_less": "one-sided: falls with the distance from the base",
    "p_two_sided": "two-sided: rises or falls with the distance from the base",
}


class Curve(NamedTuple):
    """One condition: √KL `distance`, `truth` in the unit of the record and `proxy`, all [T]; and how many k1 were
    replaced."""

    beta: float
    seed: Any
    distance: Array
    truth: Array
    proxy: Array
    n_k3: int
    n_clamped: int

    def changed(self) -> Curve:
        """With rewards as changes from the start."""
        return self._replace(truth=self.truth - self.truth[:1], proxy=self.proxy - self.proxy[:1])


def distance(records: Sequence[Record], *, primary: str = "regret", root_seed: int = 0) -> dict[str, Any]:
    """Of one variant: forms of truth and proxy in √KL for each β, differences over β at equal KL, and the outcome
    `primary` against the measured distance of the checkpoint from the base. `records` as `condition_records` gives
    them. What was not logged is undefined, with its reason."""
    truths = [_column(r, "true_strict") for r in records]
    shares = all(bool((np.isnan(truth) | ((truth >= 0) & (truth <= 1))).all()) for truth in truths)
    scale, unit = (100.0, "pp") if shares else (1.0, "true reward")
    curves = {kind: [_curve(r, column, scale) for r in records] for kind, column in KINDS.items()}
    return {
        "unit": unit,
        "by_beta": [
            {"beta": beta, **{kind: _by_form(kind, [c for c in curves[kind] if c.beta == beta]) for kind in KINDS}}
            for beta in sorted({r["beta"] for r in records})
        ],
        "matched": {kind: _matched(kind, curves[kind], root_seed) for kind in KINDS},
        "conservatism": _conservatism(records, curves["from_base"], primary, scale, root_seed),
    }


def _column(record: Record, name: str) -> Array:
    """A series of a record [T]; all NaN where it was not logged."""
    series = record["series"]
    values = series.get(name)
    return np.full(len(series["step"]), nan) if values is None else np.asarray(values, dtype=np.float64)


def _curve(record: Record, column: str, scale: float) -> Curve:
    found = root_kl(*(_column(record, f"{column}{part}") for part in ("", "_error", "_k3")))
    truth, proxy = scale * _column(record, "true_strict"), _column(record, "proxy")
    return Curve(record["beta"], record["seed"], found.values, truth, proxy, found.n_k3, found.n_clamped)


def _not_logged(kind: str, curves: Sequence[Curve]) -> str | None:
    missing = all(np.isnan(c.distance).all() for c in curves)
    return f"KL from the {ORIGINS[kind]} is not logged" if missing else None


def _by_form(kind: str, curves: Sequence[Curve]) -> dict[str, Any]:
    """The forms of both rewards at one β."""
    reason = _not_logged(kind, curves)
    found = {}
    for name in QUANTITIES:
        fit = no_fit(reason) if reason else gao_fit([c.distance for c in curves], [getattr(c, name) for c in curves])
        found[name] = _fit_record(fit)
    return {
        **found,
        "n_points": sum(int(np.isfinite(c.distance).sum()) for c in curves),
        "n_k3": sum(c.n_k3 for c in curves),
        "n_clamped": sum(c.n_clamped for c in curves),
    }


def _fit_record(fit: GaoFit) -> dict[str, Any]:
    record = {name: value for name, value in vars(fit).items() if name != "forms"}
    return {**record, "plausible": list(fit.plausible), **{name: _form(name, form) for name, form in fit.forms.items()}}


def _form(name: str, form: Form) -> dict[str, Any]:
    undetermined = "the points do not determine the form" if isnan(form.alpha) else None
    record = {"alpha": form.alpha, "alpha_interval": form.alpha_interval._asdict(), "reason": undetermined}
    if name == "line":
        return record
    peak = {**form.peak._asdict(), "interval": form.peak.interval._asdict()}
    return {**record, "delta": form.delta, "delta_interval": form.delta_interval._asdict(), "peak": peak}


def _matched(kind: str, curves: Sequence[Curve], root_seed: int) -> dict[str, Any]:
    """Differences over β at equal distance, paired in seeds that have every β."""
    betas, seeds = sorted({c.beta for c in curves}), sorted({c.seed for c in curves})
    at = {(c.seed, c.beta): (c.changed() if kind == "from_checkpoint" else c) for c in curves}
    whole = [s for s in seeds if all((s, b) in at and np.isfinite(at[s, b].distance).any() for b in betas)]
    used = [at[s, b] for s in whole for b in betas]
    starts, ends = [c.distance[np.isfinite(c.distance)][0] for c in used], [np.nanmax(c.distance) for c in used]
    reason = _not_logged(kind, curves)
    if reason is None and len(betas) < 2:
        reason = ONLY_ONE
    elif reason is None and not whole:
        reason = f"no seed has a KL from the {ORIGINS[kind]} at every β"
    low, high, limit = nan, nan, None
    if not reason:
        low, high, limit = max(starts), min(ends), used[int(np.argmin(ends))]
        if not low < high:
            reason = (
                f"the ranges of √KL do not overlap: β = {used[int(np.argmax(starts))].beta:g} starts at {low:.3g}, and "
                f"β = {limit.beta:g} gets no farther than {high:.3g}"
            )
    at_values = low + (high - low) * np.arange(1, N_MATCHED + 1) / N_MATCHED

    def mean(values: Array) -> dict[str, Any]:
        return _none(reason) if reason else seed_mean(values, root_seed=root_seed).record()

    def slope(table: Array) -> Array:
        return np.full(len(whole), nan) if reason else slope_within(betas, table)

    def slope_mean(table: Array) -> dict[str, Any]:
        return _none(NO_TENFOLD) if not reason and min(betas) <= 0 else mean(slope(table))

    shape = len(whole), len(betas)
    last = np.array([c.distance[np.isfinite(c.distance)][-1] for c in used]).reshape(shape)
    rows: list[dict[str, Any]] = [] if reason else [{"distance": float(value)} for value in at_values]
    by_beta: list[dict[str, Any]] = [{"beta": beta} for beta in betas]
    found: dict[str, Any] = {}
    for name in QUANTITIES:
        read = [at_distance(c.distance, getattr(c, name), at_values) for c in used]
        curve = np.array(read).reshape(*shape, N_MATCHED)
        end = np.array([getattr(c, name)[-1] for c in used]).reshape(shape)
        equal = curve.mean(axis=2)
        for i, row in enumerate(rows):
            row[name] = slope_mean(curve[:, :, i])
        for i, row in enumerate(by_beta):
            row[name] = mean(equal[:, i])
        found[name] = {
            "matched": slope_mean(equal),
            "at_end": slope_mean(end),
            "explained": slope_mean(end - equal),
        }
    return {
        "low": float(low),
        "high": float(high),
        "limited_by": None if reason or limit is None else {"beta": limit.beta, "seed": limit.seed},
        "n_seeds": len(whole),
        "n_beta": len(betas),
        "reached": slope_mean(last),
        **found,
        "rows": rows,
        "by_beta": by_beta,
        "reason": reason,
    }


def _conservatism(
    records: Sequence[Record], curves: Sequence[Curve], primary: str, scale: float, root_seed: int
) -> dict[str, Any]:
    """How far each checkpoint is from the base, and whether the outcome goes with that."""
    betas, seeds = sorted({r["beta"] for r in records}), sorted({r["seed"] for r in records})
    reason = _not_logged("from_base", curves)
    start = {(c.seed, c.beta): float(c.distance[0]) for c in curves}
    whole = [s for s in seeds if all(not isnan(start.get((s, b), nan)) for b in betas)]
    if reason is None and not whole:
        reason = "no seed has a KL from the base at the start of every β"
    far = np.array([[start[s, b] for b in betas] for s in whole]).reshape(len(whole), len(betas))
    rows = []
    for beta in betas:
        values = np.array([d for (_, b), d in start.items() if b == beta and not isnan(d)])
        rows.append({"beta": beta, "distance": _none(reason) if reason else _mean(values, root_seed)})
    order = np.tile(np.asarray(betas, dtype=np.float64), (len(whole), 1))
    outcomes = []
    for name in dict.fromkeys((primary, "end_change")):
        of = {(r["seed"], r["beta"]): _outcome(r, name, scale) for r in records}
        table = np.array([[of[s, b] for b in betas] for s in whole], dtype=np.float64).reshape(far.shape)
        absent = all(value is None for value in of.values())
        why = reason or (f"there is no {name} in these records" if absent else None)
        outcomes.append(_against(name, far, table, why, root_seed))
    return {
        "by_beta": rows,
        "with_beta": _none(reason or ONLY_ONE)
        if reason or len(betas) < 2
        else seed_mean(_spearman(order, far), bounds=(-1, 1), root_seed=root_seed).record(),
        "outcomes": outcomes,
        "laws": {
            form: _law(form, records, whole, betas, far, reason or _no_rise(outcomes[0]), root_seed, reason)
            for form in FORMS
        },
        "n_seeds": len(whole),
        "n_beta": len(betas),
        "reason": reason,
    }


def _outcome(record: Record, name: str, scale: float) -> float | None:
    """An outcome of a condition; NaN where it is undefined, None where there is no such field."""
    if name in record:
        value = record[name]
        return nan if value is None else float(value)
    if name != "end_change":
        return None
    truth = _column(record, "true_strict")
    return scale * float(truth[-1] - truth[0])


def _against(name: str, far: Array, outcome: Array, reason: str | None, root_seed: int) -> dict[str, Any]:
    """An outcome [S, B] against the distance of the checkpoint from the base [S, B]: within seeds, over β."""
    if reason is None and far.shape[1] < 2:
        reason = ONLY_ONE
    if reason:
        page = {**asdict(page_trend(np.full(far.shape, nan))), "reason": reason}
        return {"outcome": name, "spearman": _none(reason), "slope": _none(reason), "page": _page(page)}
    centred = far - far.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1)
    slopes = np.divide((centred * outcome).sum(axis=1), squares, out=np.full(len(far), nan), where=squares > 0)
    ordered = np.take_along_axis(outcome, np.argsort(far, axis=1), axis=1)
    tied = bool((np.diff(np.sort(far, axis=1), axis=1) == 0).any())
    page = asdict(page_trend(np.full(far.shape, nan) if tied else ordered))
    if tied:
        page["reason"] = "two checkpoints of a seed are equally far from the base, which Page's order does not allow"
    return {
        "outcome": name,
        "spearman": seed_mean(_spearman(far, outcome), bounds=(-1, 1), root_seed=root_seed).record(),
        "slope": seed_mean(slopes, root_seed=root_seed).record(),
        "page": _page(page),
    }


LEVEL = 0.05


def _no_rise(outcome: Record) -> str | None:
    """Why there may be no d★: the primary outcome does not get worse as checkpoints stay nearer to the base."""
    page, name = outcome["page"], outcome["outcome"]
    p = page["p_two_sided"]
    worse = "p_greater" if name in BETTER_IF_HIGHER else "p_less"
    if page["reason"] or isnan(p):
        return f"the trend of {name} with the distance is undefined ({page['reason']})"
    if p <= LEVEL and page[worse] <= LEVEL / 2:
        return None
    return f"{name} does not get worse as checkpoints stay nearer to the base (Page's trend, p = {p:.2g})"


def _law(
    form: str,
    records: Sequence[Record],
    seeds: Sequence[Any],
    betas: Sequence[float],
    far: Array,
    refusal: str | None,
    root_seed: int,
    undefined: str | None,
) -> dict[str, Any]:
    """The law of AUGC in the mean distance of each β's checkpoints. `far` [S, B] of `seeds`; `refusal`: why there may
    be no d★; `undefined`: why there is no distance."""
    name = f"augc_{form}"
    of = {(r["seed"], r["beta"]): r.get(name) for r in records}
    values = np.array([[of[s, b] for b in betas] for s in seeds], dtype=np.float64).reshape(far.shape)
    if not undefined and not (far.mean(axis=0) > 0).all():
        undefined = "a checkpoint's distance from the base is 0, which has no inverse"
    if undefined:
        law = _no_law(undefined, len(seeds), len(betas))
    else:
        rng = numpy_generator(root_seed, "law over distance", form)
        law = distance_law(betas, far.mean(axis=0), values, rng=rng, refusal=refusal)
    fit, missing = law.fit, {}
    if fit.reason is None:
        few = "too few points for AICc, which needs two more than parameters"
        missing = {n: few for n in ("aicc", "aicc_constant") if isnan(getattr(fit, n))}
        missing |= {"beats_constant": few} if fit.beats_constant is None else {}
    if isnan(law.aicc_beta) and fit.reason is None:
        missing["aicc_beta"] = "the law in β is undefined at these points"
    return {
        **{n: getattr(fit, n) for n in ("a", "b", "c", "r_squared", "n", "n_beta", "aicc", "aicc_constant")},
        "beats_constant": fit.beats_constant,
        "aicc_beta": law.aicc_beta,
        "intervals": {n: interval._asdict() for n, interval in law.intervals.items()},
        "n_seeds": len(values),
        "label": law.label,
        "star": {**asdict(law.star), "interval": law.star.interval._asdict()},
        **({"missing": missing} if missing else {}),
        "reason": fit.reason,
    }


def _no_law(reason: str, n_seeds: int, n_beta: int) -> DistanceLaw:
    none = Interval(nan, nan, reason)
    fit = PowerLawFit(nan, nan, nan, nan, 0, n_beta, nan, nan, None, "undefined AUGC", reason)
    star = DistanceStar(nan, none, "refused", "", f"no d★: {reason}", n_seeds)
    return DistanceLaw(fit, dict.fromkeys("abc", none), nan, star, "")


def _page(page: dict[str, Any]) -> dict[str, Any]:
    return {**page, "alternatives": ALTERNATIVES}


def _spearman(x: Array, y: Array) -> Array:
    """ρ of each row of x and y [S, B], midranks for ties; with two columns the sign. NaN where a side is constant."""
    found = np.full(len(x), nan)
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        if np.isfinite(a).all() and np.isfinite(b).all() and np.ptp(a) > 0 and np.ptp(b) > 0:
            ranks = stats.rankdata(a), stats.rankdata(b)
            found[i] = pearson(*ranks) if a.size > 2 else np.sign((a[1] - a[0]) * (b[1] - b[0]))
    return found


def _mean(values: Array, root_seed: int) -> dict[str, Any]:
    return seed_mean(values, bounds=(0, np.inf), root_seed=root_seed).record()


def _none(reason: str) -> dict[str, Any]:
    """A mean over seeds that is undefined."""
    interval = Interval(nan, nan, reason)._asdict()
    return {"mean": nan, "standard_error": nan, "interval": interval, "n": 0, "reason": reason}
