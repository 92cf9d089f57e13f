"""What a careful reader must be told about a result, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def warnings(results: Mapping[str, Any]) -> list[str]:
    """One sentence for everything that limits what `results` can show."""
    found: list[str] = []
    records: Sequence[Mapping[str, Any]] = results["conditions"]
    for reward, name in (("true_strict", "true reward"), ("proxy", "proxy reward")):
        near = [r for r in records if r["start_near_zero"][reward]]
        if near:
            zero = sum(r[reward]["start"] == 0 for r in near)
            extra = f" ({zero} exactly 0)" if zero else ""
            found.append(
                f"Paper-form gap is unreliable: in {len(near)} of {len(records)} conditions the {name} at t=0 is "
                f"within 10 standard errors of zero{extra}, and Def. 3.1 divides by it. Read the standardised form."
            )
    if all(r["true_strict"]["highest"] == 0 for r in records):
        found.append(
            "The true reward is 0 in every condition at every point: this model cannot do the task, so nothing here "
            "says whether it hacked the reward."
        )
    betas, seeds = {r["beta"] for r in records}, {r["seed"] for r in records}
    if len(betas) == 1:
        found.append(
            "With one β, or none known, nothing here says how damage depends on β: five to eight over two orders of "
            "magnitude are needed for evidence."
        )
    elif len(betas) <= 3:
        found.append(
            f"With {len(betas)} β a power law fits exactly or nearly so by construction, and the smallest possible "
            f"one-sided p of Spearman's ρ is {_smallest_p(len(betas))}: five to eight β over two orders of magnitude "
            "are needed for evidence."
        )
    if len(seeds) < 3:
        found.append(f"{len(seeds)} seed{'s' * (len(seeds) > 1)}: standard errors are undefined or very uncertain.")
    accuracy = results.get("rewards", {}).get("validation", {}).get("mean_accuracy")
    if accuracy is not None and accuracy < 0.6:
        found.append(
            f"The reward ensemble ranks only {accuracy:.0%} of validation pairs rightly, so its score says little."
        )
    limits = [r for r in records if r["at_limit"]["end"] > 0.5]
    if limits:
        found.append(
            f"In {len(limits)} of {len(records)} conditions most responses end at the length limit; their true reward "
            "is partly a matter of length."
        )
    if results.get("prompt_split") == "test":
        found.append("Online prompts come from the test part, as in the paper: the evaluation is not held out.")
    return found + _of_logs(records)


def _of_logs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a log that was not written for this analysis may lack."""
    found: list[str] = []
    missing = [r.get("missing", {}) for r in records]
    for reason in dict.fromkeys(m["gap_standardised"] for m in missing if "gap_standardised" in m):
        count = sum(m.get("gap_standardised") == reason for m in missing)
        found.append(f"The standardised gap is undefined in {count} of {len(records)} conditions: {reason}.")
    if any(None in r["start_near_zero"].values() for r in records):
        found.append(
            "How near zero the rewards at t=0 are is unknown without the number of responses behind them (n) and their "
            "standard deviation; Def. 3.1 divides by them."
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
        found.append(f"Not logged, so null here, with all that rests on it: {', '.join(nowhere)}.")
    return found


def _smallest_p(n: int) -> str:
    return {2: "1/2", 3: "1/6"}[n]
