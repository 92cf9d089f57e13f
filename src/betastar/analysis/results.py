"""`results.json`: every number of a run in one record, with its warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import compress
from typing import Any

import pandas as pd

from betastar import __version__
from betastar.analysis.chain import chains
from betastar.analysis.conditions import Records, condition_records
from betastar.analysis.decision import decide, no_rise
from betastar.analysis.distance import distance
from betastar.analysis.frontier import frontier
from betastar.analysis.protocol import protocol_record
from betastar.analysis.signals import warning_signs
from betastar.analysis.summary import objectives_of, paired_differences, summarise
from betastar.maths.goodhart import HACKING_PERCENTILE
from betastar.record.answers import grids
from betastar.record.points import counted
from betastar.record.series import MOST_IN_JSON, POINTS
from betastar.record.shapes.results import SCHEMA_VERSION

MOST_NAMED = 5  # conditions in a sentence


def warnings(results: Mapping[str, Any]) -> list[str]:
    """One sentence for everything that limits what `results` can show."""
    found: list[str] = []
    records = counted(results["conditions"])
    if all(r["n_points"] == 1 for r in records):
        return ["Of every run one evaluation point is known: nothing here says how a run changed, and there is no gap."]
    for reward, name in (("true_strict", "true reward"), ("proxy", "proxy reward")):
        near = [r for r in records if r["start_near_zero"][reward]]
        if near:
            zero = sum(r[reward]["start"] == 0 for r in near)
            extra = f" ({zero} exactly 0)" if zero else ""
            found.append(
                f"The paper-form gap is unreliable: in {len(near)} of {len(records)} conditions the {name} at t=0 is "
                f"within 10 standard errors of zero{extra}, and Def. 3.1 divides by it. Use the standardised form."
            )
    if all(r["true_strict"]["highest"] == 0 for r in records):
        found.append(
            "The true reward is 0 everywhere: this model cannot do the task, so these results cannot tell whether it "
            "hacked the reward."
        )
    betas, seeds = {r["beta"] for r in records}, {r["seed"] for r in records}
    if 1 < len(betas) <= 3:  # with one, nothing is said about β at all
        found.append(
            f"With {len(betas)} values of β a power law fits (almost) exactly by construction, and the smallest "
            f"possible one-sided p of Spearman's ρ is {_smallest_p(len(betas))}; evidence takes five to eight values "
            "over two orders of magnitude."
        )
    if (every := results["warning_signs"].get("every", 1)) > 1:
        found.append(
            f"Warning signs use every {every}th evaluation point: a horizon of h points is {every} × h logged ones."
        )
    if len(seeds) < 3 and len(records) > 1:
        found.append(f"{len(seeds)} seed{'s' * (len(seeds) > 1)}: standard errors are undefined or very uncertain.")
    accuracy = results.get("rewards", {}).get("validation", {}).get("mean_accuracy")
    if accuracy is not None and accuracy < 0.6:
        found.append(
            f"The reward ensemble ranks only {accuracy:.0%} of validation pairs correctly, so its score means little."
        )
    limits = [r for r in records if r["at_limit"]["end"] > 0.5]
    if limits:
        found.append(
            f"In {len(limits)} of {len(records)} conditions most responses hit the length limit, so their true reward "
            "partly reflects length."
        )
    if results.get("prompt_split") == "test":
        found.append("Online prompts come from the test split, as in the paper, so the evaluation is not held out.")
    return (
        _of_divergence(results["conditions"]) + found + _of_methods(results) + _of_outcomes(records) + _of_logs(records)
    )


def _of_divergence(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which conditions diverged."""
    names = [f"{r['variant']}, β {r['beta']:g}, seed {r['seed']}" for r in records if "diverged" in r]
    if not names:
        return []
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    left_out = "so there is no result" if len(names) == len(records) else "left out of every mean, test and figure"
    return [
        f"{len(names)} of {len(records)} conditions diverged, {left_out}: {'; '.join(names[:MOST_NAMED])}{more}. Lower "
        "the learning rate."
    ]


def _of_methods(results: Mapping[str, Any]) -> list[str]:
    """Where a larger strength does not mean what a larger β does."""
    found = []
    for name, method in results.get("methods", {}).items():
        if method["closer"] == "smaller":
            found.append(
                f"The strength of {name} is {method['strength']}, and a larger one leads further from the base: where "
                f"β is said to grow more conservative, read the opposite for {', '.join(method['variants'])}."
            )
    return found


def _of_outcomes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an outcome must not be taken for."""
    found: list[str] = []
    same = sum(r["proxy_is_truth"] for r in records)
    if same:
        found.append(
            f"The proxy is the true reward in {same} of {len(records)} conditions: there is no gap between them, and "
            "nothing that could be hacked."
        )
    apart = [r for r in records if _grades_differ(r)]
    if apart:
        found.append(
            f"In {len(apart)} of {len(records)} conditions the strict and the lenient grade changed in opposite "
            "directions: the format moved, not the knowledge."
        )
    return found


def _grades_differ(record: Mapping[str, Any]) -> bool:
    """Whether the two grades changed in opposite directions, at least one of them by more than noise."""
    changes = record["end_change"], record["end_change_lenient"]
    if any(change is None or not math.isfinite(change) for change in changes) or changes[0] * changes[1] >= 0:
        return False
    intervals = [record["intervals"].get(name) for name in ("end_change", "end_change_lenient")]
    return any(i is not None and (i["low"] > 0 or i["high"] < 0) for i in intervals)


def _has_truth(record: Mapping[str, Any]) -> bool:
    return any(truth is not None and math.isfinite(truth) for truth in record["series"]["true_strict"])


def _of_logs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a log that was not written for this analysis may lack."""
    found: list[str] = []
    missing = [{} if r["proxy_is_truth"] or "diverged" in r else r.get("missing", {}) for r in records]
    told = [_has_truth(r) for r in records]  # without a truth there is no gap to be missed
    for form, name in (("gap_standardised", "standardised"), ("gap_paper", "paper-form")):
        causes: dict[str, list[str]] = {}
        for reason in (m[form] for m in compress(missing, told) if form in m):
            causes.setdefault(re.sub(r"at the start is [^:]+:", "at the start is not positive:", reason), []).append(
                reason
            )
        for cause, reasons in causes.items():
            said = reasons[0] if len(set(reasons)) == 1 else cause  # one line for starts of different size
            found.append(f"The {name} gap is undefined in {len(reasons)} of {len(records)} conditions: {said}.")
    if any(None in r["start_near_zero"].values() for r in compress(records, told)):
        found.append(
            "Without the number of responses (n) and their standard deviation, it is unknown how close the rewards at "
            "t=0 are to zero; Def. 3.1 divides by them."
        )
    for variant in dict.fromkeys(r["variant"] for r in records):
        ends = {r["series"]["step"][-1] for r in records if r["variant"] == variant}
        if len(ends) > 1:
            found.append(
                f"Conditions of variant {variant} end at different steps ({min(ends)} to {max(ends)}), and AUGC is an "
                f"area that grows with the length of a run: compare them up to the same step, here {min(ends)}."
            )
    nowhere = [name for name in missing[0] if all(m.get(name) == "not logged" for m in missing)]
    if nowhere:
        found.append(f"Not logged, so null here, as is everything that depends on it: {', '.join(nowhere)}.")
    return found


def _smallest_p(n: int) -> str:
    return {2: "1/2", 3: "1/6"}[n]


BETA_UNKNOWN = "no column, name or option gives its β"


def build_results(
    points: pd.DataFrame | Sequence[Mapping[str, Any]],
    extras: Mapping[tuple[Any, ...], Mapping[str, Any]],
    context: Mapping[str, Any],
    *,
    root_seed: int = 0,
    trade_off: float | None = None,
    primary: str = "regret",
    smallest_effect: float | None = None,
    unknown_beta: Collection[str] = (),
    answers: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """The record of a run from its evaluation points; see docs/results.md for every field. `context` is put in as it
    is: name, data coverage, reward accuracy and whatever else the source of the points knows. `primary` and
    `smallest_effect`: settings of `analysis`. `unknown_beta`: variants whose β in the points is a stand-in, which must
    not be seen or compared with another. `answers`: the table of single answers, where one was kept."""
    by_condition = None if answers is None else grids(answers)
    records = condition_records(pd.DataFrame(points), extras, by_condition)
    variants = list(dict.fromkeys(r["variant"] for r in records.conditions))
    of = {variant: counted([r for r in records.conditions if r["variant"] == variant]) for variant in variants}
    sound = [record for variant in variants for record in of[variant]]
    decision = decide(of, primary=primary, smallest_effect=smallest_effect, answers=by_condition, root_seed=root_seed)
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "betastar": __version__,
        **context,
        "threshold": _threshold(records),
        "conditions": records.conditions,
        "summary": {
            variant: summarise(
                of[variant], root_seed=root_seed, trade_off=trade_off, refusal=no_rise(decision[variant])
            )
            for variant in variants
        },
        "decision": decision,
        "differences": paired_differences(
            [r for r in sound if r["variant"] not in unknown_beta],
            objectives=objectives_of(context),
            root_seed=root_seed,
        ),
        "warning_signs": warning_signs(sound, answers=by_condition),
        "chain": chains(sound, root_seed=root_seed),
        "distance": {
            variant: distance(of[variant], primary=decision[variant]["measure"], root_seed=root_seed)
            for variant in variants
        },
    }
    line = frontier(
        [{**r, "beta": math.nan} if r["variant"] in unknown_beta else r for r in records.conditions],
        BETA_UNKNOWN,
        root_seed,
    )
    if line is not None:
        results["frontier"] = line
    found = warnings(results)
    results["conditions"] = [_hidden(r) if r["variant"] in unknown_beta else r for r in results["conditions"]]
    for part in ("summary", "decision", "distance"):
        results[part] = {v: _hidden(s) if v in unknown_beta else s for v, s in results[part].items()}
    if len(points) > MOST_IN_JSON:
        results["points"] = {"file": POINTS, "rows": len(points)}
    return {**results, "protocol": protocol_record(results), "warnings": found}


def _threshold(records: Records) -> dict[str, Any]:
    """τ of each form of the gap, of which percentile of how many positive gaps."""
    undefined = [form for form, value in records.threshold.items() if math.isnan(value)]
    return {
        **records.threshold,
        "percentile": HACKING_PERCENTILE,
        "n_positive": records.n_positive,
        "reason": f"no positive gap: {', '.join(undefined)}" if undefined else None,
    }


def _hidden(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the record with every β in it, whatever its place, made NaN, and the reason for that."""
    missing = {**part.get("missing", {}), **dict.fromkeys(("beta", "betas"), BETA_UNKNOWN)}
    if "betas" not in part:
        del missing["betas"]
    return {**_without_beta(part), "missing": missing}


def _without_beta(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without_beta(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_beta(part, name) for part in value]
    return math.nan if name in ("beta", "betas") else value
