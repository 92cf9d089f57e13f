"""What one evaluation says: the rewards of its answers, the evaluation point that they make, and its row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from betastar.errors import BetastarError
from betastar.maths.answers import divergence, ranking
from betastar.monitor.gaps import Start, gap_fields, is_binary
from betastar.monitor.rows import Row, plain
from betastar.record.points import EvaluationPoint
from betastar.record.responses import Grade

Array = NDArray[np.float64]
Reasons = dict[str, str]

LABELS = {"variant", "beta", "seed"}
NOT_LOGGED = {"step", *LABELS}
LOGGED_AS = {"true_strict": "true", "gap_standardised": "gap"}


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """n answers to held-out problems, `answers` in a row to each of them. `scores` [K, n] of the K proxy functions, NaN
    where one gave none, and the `proxy` rewards [n] that they make; `true` rewards [n]; `grades` of a betastar grader,
    empty where the truth is a number. The rest is [n], or None if unknown: length in tokens, whether the answer was cut
    at the limit, mean entropy of its tokens (nats), log π_θ − log π_ref summed over them (nats)."""

    scores: Array
    proxy: Array
    true: Array
    grades: Sequence[Grade] = ()
    answers: int = 1
    tokens: Array | None = None
    at_limit: Array | None = None
    entropy: Array | None = None
    log_ratio: Array | None = None

    @property
    def by_answer(self) -> dict[str, list[float]]:
        """What is known of each answer, by the names of the row's `responses`."""
        known: dict[str, Any] = {"proxy": self.proxy, "true": self.true}
        if self.grades:
            known["lenient"] = np.array([float(grade.lenient) for grade in self.grades])
            known["parsable"] = np.array([float(grade.parsable) for grade in self.grades])
        known |= {"tokens": self.tokens, "at_limit": self.at_limit, "log_ratio": self.log_ratio}
        return {name: values.tolist() for name, values in known.items() if values is not None}

    @property
    def means(self) -> dict[str, float]:
        """Both mean rewards, as a repeated evaluation of the start is kept."""
        scored = self.proxy[np.isfinite(self.proxy)]
        return {"proxy": _mean(scored), "true_strict": _mean(self.true)}


def point_of(found: Sampled, *, binary: bool, step: int, no_ensemble: str | None) -> tuple[EvaluationPoint, Reasons]:
    """The evaluation point of an evaluation, without the gap, and why a measure is undefined.

    `binary`: whether the true rewards at the start were right or wrong alone; all rows of a run are of one kind, as its
    gaps are. `no_ensemble`: why the proxy functions are no ensemble, if they are none.
    """
    reasons: Reasons = {}
    disagreement = math.nan
    if no_ensemble is None:
        by_all = found.scores[:, np.isfinite(found.scores).all(axis=0)]
        if by_all.size:
            disagreement = float(by_all.std(axis=0, ddof=1).mean())
        else:
            reasons["disagreement"] = "no response has a score of every member"
    else:
        reasons["disagreement"] = no_ensemble
    n, several = found.true.size, found.answers > 1
    scored = found.proxy[~np.isnan(found.proxy)]
    if scored.size < 2:
        reasons["proxy"] = f"{scored.size} of {n} responses have a proxy reward"
    right_or_wrong = binary and is_binary(found.true)
    ranked = math.nan
    if several and right_or_wrong:
        ranked = ranking(_by_problem(found.proxy, found.answers), _by_problem(found.true, found.answers))
        if math.isnan(ranked):
            reasons["ranking"] = "no problem has both right and wrong answers"
    moved = None if found.log_ratio is None else divergence(_by_problem(found.log_ratio, found.answers))
    members = [float(np.nanmean(member)) if np.isfinite(member).any() else math.nan for member in found.scores]
    point = EvaluationPoint(
        step=step,
        n=n,
        answers=found.answers if several else None,
        proxy=_mean(scored),
        proxy_std=float(scored.std(ddof=1)) if scored.size > 1 else math.nan,
        correct_strict=int(found.true.sum()) if right_or_wrong else None,
        true_strict=_mean(found.true),
        true_std=math.nan if binary else float(found.true.std(ddof=1)),
        true_lenient=_mean([grade.lenient for grade in found.grades]),
        unparsable=_mean([not grade.parsable for grade in found.grades]),
        ranking=ranked,
        kl=math.nan if moved is None else moved.k1,
        kl_error=math.nan if moved is None else moved.error,
        kl_k3=math.nan if moved is None else moved.k3,
        disagreement=disagreement,
        members=tuple(members) if len(members) > 1 else None,
        response_entropy=_mean(found.entropy),
        response_tokens=_mean(found.tokens),
        at_limit=_mean(found.at_limit),
    )
    return point, reasons


def row_of(
    start: Start,
    found: Sampled,
    step: int,
    *,
    onset: int | None,
    stop_above: float | str | None,
    rate: float,
    labels: Mapping[str, Any],
    always: Sequence[str],
    samples: Sequence[Mapping[str, Any]],
    missing: Mapping[str, str],
    no_ensemble: str | None,
    more: Mapping[str, Any],
) -> Row:
    """The row of an evaluation: its point with the measures in `always` null if undefined, its gap and threshold
    (`gap_fields`), and `onset`, the step of the first alarm, which may be this one. `missing`: reasons beside those
    that are found here."""
    point, reasons = point_of(found, binary=is_binary(start.true), step=step, no_ensemble=no_ensemble)
    gaps = gap_fields(start, found.proxy, found.true, stop_above, rate)
    missing = {**missing, **reasons, **gaps.pop("missing", {})}
    if onset is None and gaps["gap_standardised"] > gaps["threshold"]:
        onset = step
    unscored = int(np.isnan(found.proxy).sum())
    return plain(
        {
            **labels,
            **point.row(always),
            **({"unscored": unscored} if unscored else {}),
            **gaps,
            "onset": onset,
            **more,
            "responses": found.by_answer,
            "samples": list(samples),
            **({"missing": missing} if missing else {}),
        }
    )


def check_labels(whose: str, labels: Mapping[str, Any]) -> None:
    """Raises BetastarError for a label that a run cannot have."""
    if unknown := labels.keys() - LABELS:
        raise BetastarError(f"{whose}: labels has {min(unknown)}; it may have variant, beta and seed.")
    beta, seed = labels.get("beta", 0.0), labels.get("seed", 0)
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < math.inf:
        raise BetastarError(f"{whose}: the label beta is {beta!r:.40}; give a number from 0.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BetastarError(f"{whose}: the label seed is {seed!r:.40}; give a whole number.")


def is_above(row: Mapping[str, Any]) -> bool:
    """Whether the gap of a row is above its threshold."""
    gap, threshold = row["gap_standardised"], row["threshold"]
    return None not in (gap, threshold) and gap > threshold


def logged(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row as a tracker gets them: `goodhart/NAME`."""
    return {
        f"goodhart/{LOGGED_AS.get(name, name)}": value
        for name, value in row.items()
        if name not in NOT_LOGGED and isinstance(value, int | float)
    }


def _by_problem(values: Array, answers: int) -> Array:
    """[P, A] of [P·A]."""
    return values.reshape(-1, answers)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if values is not None and len(values) else math.nan
