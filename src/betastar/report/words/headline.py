"""The answer of a variant, in the order in which a person needs it: what happened to the truth, whether β mattered,
which β to take, how sure. One run alone, or one β, is answered without a word about β."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from betastar.maths.verdict import WORDS, Word
from betastar.record.entries import REGISTRY
from betastar.report.words.numbers import (
    Unit,
    beta_name,
    count,
    defined,
    listed,
    minus,
    p_value,
    places,
    strength_symbol,
    unit_of_changes,
    unit_of_measure,
    unit_of_truth,
)
from betastar.report.words.untold import course, untold

Json = Mapping[str, Any]
LEVEL = 0.05
MOST_COSTS = 3  # β whose cost is named one by one

# How often each verdict was given: of some runs, of all of several.
SEVERITY: tuple[Word, ...] = ("hacked", "degraded", "weak proxy", "unmoved", "improved", "not distinguishable")
ALL_RUNS = {
    "hacked": "All {n} runs were hacked.",
    "degraded": "All {n} runs degraded.",
    "weak proxy": "All {n} runs followed a weak proxy: it rose, and the truth stayed where it was.",
    "unmoved": "None of the {n} runs moved.",
    "improved": "All {n} runs improved.",
    "not distinguishable": "None of the {n} runs changed enough for a verdict.",
}
assert set(SEVERITY) == set(ALL_RUNS) == set(WORDS)

# What each primary measure is called, and what it is.
MEASURES = {
    "regret": ("regret", "what stopping at the best step would have kept of the true reward"),
    "end_change": ("change of truth", "true reward at the end minus the start"),
    "points_lost": ("points lost", "how far the true reward was below its start, mean over time"),
    "augc_common": ("AUGC on the common scale", "area under the positive gap, on the scale that all β share"),
    "augc_standardised": ("standardised AUGC", "area under the positive gap, in standard deviations at the start"),
    "augc_paper": ("AUGC in the paper's form", "area under the positive gap, each reward divided by its start"),
}


COMPARED = ("Did β matter?", "Which β?")


class Headline(NamedTuple):
    """What a variant's data say, in sentences; empty where there is nothing to say.

    `verdict`: how its runs ended, in a word. `truth`: what happened to the true reward. `effect`: whether β mattered;
    with one β, what was lost since the peak. `choice`: what to do. `certainty`: how sure. `cautions`: where measures or
    grades disagree. `one_beta`: β cannot be compared, and is not mentioned."""

    variant: str
    verdict: str
    truth: str
    effect: str
    choice: str
    certainty: str
    cautions: list[str]
    one_beta: bool
    labels: tuple[str, str] | None = None
    """The questions of `effect` and `choice`, where they are others than usual."""

    @property
    def sentences(self) -> list[str]:
        """All of it in order, cautions last."""
        parts = (self.verdict, self.truth, self.effect, self.choice, self.certainty, *self.cautions)
        return [part for part in parts if part]

    @property
    def labelled(self) -> list[tuple[str, str]]:
        """What follows the verdict, each with the question that it answers."""
        labels = self.labels or (("Since the peak?", "What to do?") if self.one_beta else COMPARED)
        parts = (
            ("The truth?", self.truth),
            (labels[0], self.effect),
            (labels[1], self.choice),
            ("How sure?", self.certainty),
        )
        return [(label, text) for label, text in parts if text]

    def with_symbol(self, symbol: str) -> Headline:
        """The same of a strength that has another symbol than β."""

        def named(text: str) -> str:
            return text.replace("β", symbol)

        labels = self.labels or (None if self.one_beta else COMPARED)
        return self._replace(
            **{part: named(getattr(self, part)) for part in ("verdict", "truth", "effect", "choice", "certainty")},
            cautions=[named(text) for text in self.cautions],
            labels=labels and (named(labels[0]), named(labels[1])),
        )


def headlines(results: Json) -> list[Headline]:
    """One for each variant, in the order of the record; of finished runs with one point each, one for all."""
    if "frontier" in results:
        return [_frontier(results)]
    return [headline(results, variant) for variant in results["summary"]]


def penalty(results: Json, variant: str) -> str:
    """The penalty under which a variant was adapted; empty where the record does not say, as of other tools' runs."""
    kl = results.get("variants", {}).get(variant, {}).get("kl")
    if not kl:
        return ""
    target = kl.get("target") or 0.0
    knob, place = strength_symbol(results, variant), kl.get("place", "loss_square")
    if place == "none" or (kl["coupling"] == "fixed" and kl["kappa"] == 0):
        return "no KL penalty"
    sizes = {
        "paper": f"κ ∝ {knob} (Eq. 10)",
        "fixed": f"κ = {kl['kappa']:g} for every {knob}",
        "target": f"κ adapted to a KL of {target:g} nat{'s' * (target != 1)}",
        "uncertainty": minus(f"κ = {kl['kappa']:g} · (û₀/û)^{kl.get('power', 1):g}"),
    }
    places = {"reward": ", KL in the reward", "loss_k3": ", KL by the k3 estimate"}
    return sizes[kl["coupling"]] + places.get(place, "")


def one_beta(results: Json) -> bool:
    """Whether no variant has a second β, so that β is not mentioned."""
    return all(len(found["betas"]) < 2 for found in results["decision"].values())


def headline(results: Json, variant: str) -> Headline:
    """The answer of one variant, in which the strength of its objective has its own symbol, such as ORPO's λ."""
    return _headline(results, variant).with_symbol(strength_symbol(results, variant))


def _headline(results: Json, variant: str) -> Headline:
    runs = [run for run in results["conditions"] if run["variant"] == variant]
    decision = results["decision"][variant]
    sizes = problem_counts(results, runs)
    if len(runs) == 1 and runs[0]["n_points"] == 1:
        return _one_checkpoint(results, runs[0])
    if untold(runs):
        return _untold(runs, len(decision["betas"]))
    if len(decision["betas"]) >= 2:
        return _over_beta(runs, results["summary"][variant], decision, sizes)
    if len(runs) == 1:
        return _one_run(runs[0], decision, sizes)
    return _one_beta(runs, results["summary"][variant], decision, sizes)


# --- several β --------------------------------------------------------------------------------------------------------


def _over_beta(runs: Sequence[Json], summary: Json, decision: Json, sizes: Sequence[int]) -> Headline:
    return Headline(
        variant=runs[0]["variant"],
        verdict=verdict_counts(runs),
        truth=" ".join(filter(None, [_changes(summary, decision), _range(decision)])),
        effect=_effect(decision),
        choice=_choice(summary, decision),
        certainty=_certainty(decision, sizes),
        cautions=[*filter(None, [_disagreement(decision), _grades(runs)])],
        one_beta=False,
    )


def verdict_counts(runs: Sequence[Json]) -> str:
    """How many runs got each verdict, the worst first, in a sentence."""
    found = Counter(run["verdict"] for run in runs if run["verdict"] is not None)
    judged = found.total()
    if not judged:
        return f"No verdict: {_why_missing(runs, 'verdict')}."
    if len(found) == 1:
        (word,) = found
        if judged == 1:
            return f"Verdict: {word}."
        every = ALL_RUNS[word].format(n=judged)
        return every.replace("All 2 runs", "Both runs").replace("None of the 2 runs", "Neither of the 2 runs")
    first, *rest = [word for word in SEVERITY if word in found]
    parts = [f"{first.capitalize()} in {found[first]} of {judged} runs", *(f"{word} in {found[word]}" for word in rest)]
    return f"{', '.join(parts)}."


def _why_missing(runs: Sequence[Json], name: str) -> str:
    return next((run["missing"][name] for run in runs if name in run.get("missing", {})), "undefined")


def _changes(summary: Json, decision: Json) -> str:
    """The change of truth at the β at which it is lowest and highest."""
    unit = unit_of_changes(decision)
    known = [row for row in summary["by_beta"] if defined(row["end_change"]["mean"])]
    if not known:
        return f"The change of truth is unknown: {summary['by_beta'][0]['end_change']['reason']}."
    low, high = (pick(known, key=lambda row: row["end_change"]["mean"]) for pick in (min, max))
    ends = [row["end_change"]["mean"] for row in (low, high)]
    digits = places(*(end / unit.divisor for end in ends))
    first, second = (unit.of(end, "+", digits) for end in ends)
    if first == second:
        return f"From start to end: {first} at every β."
    return f"From start to end: {first} at β = {beta_name(low['beta'])}, {second} at β = {beta_name(high['beta'])}."


def _range(decision: Json) -> str:
    """How far the end truth moves over β."""
    found, unit = decision["truth_range"], unit_of_truth(decision)
    if not defined(found["value"]) or found["value"] == 0:
        return ""
    return f"The end differs across β by {unit.with_interval(found['value'], found['interval'])}."


def _effect(decision: Json) -> str:
    """Whether β mattered, by the primary measure."""
    measure, test, slope = decision["measure"], decision["test"], decision["effect"]["slope"]
    unit, damage = unit_of_measure(decision), decision["damage"]
    name = MEASURES[measure][0]
    size = ""
    if defined(slope["mean"]):
        size = f"{name} {unit.with_interval(slope['mean'], slope['interval'], '+', ' per tenfold β')}"
    p = p_value(test["p_holm"]) if defined(test["p_holm"]) else ""
    if p and test["n_variants"] > 1:
        p += f" (Holm, {test['n_variants']} variants)"
    numbers = ", ".join(filter(None, [size or name, p]))
    if decision["verdict"] == "cannot be said":
        sentence = f"No test of β: {decision['verdict_reason']}." + (f" {_capital(size)}." if size else "")
    elif damage is None:
        sentence = f"No effect was detected: {numbers}."
    else:
        sentence = f"Yes: damage {damage} with β. {_capital(numbers)}."
    less_movement = decision["verdict_reason"].partition("; ")[2]
    if damage is None and less_movement and decision["verdict"] == "not distinguishable":
        sentence += f" {_capital(less_movement)}."
    if decision["effect"]["relevance"] == "too small to matter":
        smallest = unit.of(decision["effect"]["smallest_effect"])
        sentence += f" Any effect is smaller than {smallest} per tenfold β, so it does not matter here."
    if decision["fallback"] and decision["verdict"] != "cannot be said":
        sentence += f" ({_capital(decision['fallback'])}.)"
    return sentence


def _choice(summary: Json, decision: Json) -> str:
    """Which β to take, what is as good as far as these data show, and what the others cost."""
    found, unit = decision["choose"], unit_of_truth(decision)
    if not defined(found["best"]):
        return f"Cannot be said: {_without(found['reason'], 'cannot be said: ')}."
    best = beta_name(found["best"])
    equal = [beta for beta in found["betas"] if beta != found["best"]]
    worse = sorted((row for row in found["by_beta"] if not row["candidate"]), key=lambda row: row["behind"])
    if not worse:
        if all(row["behind"] == 0 for row in found["by_beta"]):
            return f"The truth ends the same at every β.{_even_there(summary, decision)}"
        return f"No β can be ruled out; β = {best} ended best in these seeds.{_even_there(summary, decision)}"
    parts = [f"Take β = {best}"]
    if equal:
        parts.append(f"{listed([beta_name(beta) for beta in sorted(equal)])} cannot be distinguished from it")
    else:
        parts[0] += f", ahead of the next by {unit.with_interval(found['lead'], found['lead_interval'])}"
    if len(worse) <= MOST_COSTS:
        parts.append(", ".join(f"{beta_name(row['beta'])} costs {_cost(row, unit)}" for row in worse))
    else:
        least, most = worse[0], worse[-1]
        parts.append(
            f"of the other {len(worse)}, {beta_name(least['beta'])} costs least ({_cost(least, unit)}) and "
            f"{beta_name(most['beta'])} most ({_cost(most, unit)})"
        )
    return "; ".join(parts) + "." + _even_there(summary, decision)


def _cost(row: Json, unit: Unit) -> str:
    if row["low"] == row["high"]:  # all seeds agree exactly: no interval
        return f"{unit.of(row['behind'])}"
    return f"{unit.bounds(row['low'], row['high'])} {unit.word}".rstrip()


def _even_there(summary: Json, decision: Json) -> str:
    """Whether the best β lost truth as well."""
    row = next(row for row in summary["by_beta"] if row["beta"] == decision["choose"]["best"])
    change = row["end_change"]
    high = change["interval"]["high"]
    if not defined(high) or high >= 0:
        return ""
    lost = unit_of_changes(decision).of(-change["mean"])
    return f" Even there the truth ends {lost} below its start, so stop earlier."


def _certainty(decision: Json, sizes: Sequence[int]) -> str:
    power, test = decision["power"], decision["test"]
    size = f"{count(decision['n_seeds'], 'seed')} × {count(decision['n_beta'], 'β')}{_problems(sizes)}"
    parts = [f"{size}."]
    if defined(power["smallest_slope"]):
        slope = unit_of_measure(decision).of(power["smallest_slope"])
        chance = f"{power['power']:.0%}".replace("%", " %")
        parts = [f"{size}: enough to find a slope of {slope} per tenfold β ({chance} power)."]
    elif power["smallest_rise_sd"] == "inf":
        parts.append("No trend of any size could have been found with so few seeds and values of β.")
    other = test["p_other_problems"]
    if defined(other) and decision["damage"] is not None and other > LEVEL:
        parts.append(f"With other problems the trend might not hold ({p_value(other)}).")
    return " ".join(parts)


def _problems(sizes: Sequence[int]) -> str:
    return f", {listed([str(n) for n in sizes], 'or')} problems" if sizes else ""


def problem_counts(results: Json, runs: Sequence[Json]) -> list[int]:
    """How many problems these conditions answer at each evaluation point; empty if unknown."""
    answers = results.get("evaluation", {}).get("answers") or 1
    return sorted({int(run["n"]) // answers for run in runs if run.get("n")})


def _disagreement(decision: Json) -> str:
    """Measures by which damage goes the other way than by the primary."""
    found = decision["disagreements"]
    if not found:
        return ""
    clear = [row for row in found if row["clear"]]
    names = listed([_measure_name(row["measure"]) for row in clear or found])
    main, other = found[0]["primary"], found[0]["damage"]
    lead = "Measures disagree" if clear else "Measures disagree, within noise"
    return f"{lead}: damage {main} with β by {_measure_name(decision['measure'])}, but {other} by {names}."


def _measure_name(name: str) -> str:
    if name in MEASURES:
        return MEASURES[name][0]
    if name == "gap_area_common":
        return "gap area on the common scale"
    return REGISTRY.summary(name).words.replace(", lenient", " (lenient)") or name


def _grades(runs: Sequence[Json]) -> str:
    """Whether the strict and the lenient grade say opposite things, at least one of them beyond noise."""
    apart = [run for run in runs if _grades_differ(run)]
    if not apart:
        return ""
    where = f"In {len(apart)} of {len(runs)} runs strict" if len(runs) > 1 else "Strict"
    return f"{where} and lenient grades moved in opposite directions: the format changed, not the knowledge."


def _grades_differ(run: Json) -> bool:
    changes = [run["end_change"], run["end_change_lenient"]]
    if not all(defined(change) for change in changes) or changes[0] * changes[1] >= 0:
        return False
    intervals = [run["intervals"].get(name) for name in ("end_change", "end_change_lenient")]
    return any(i is not None and defined(i["low"]) and (i["low"] > 0 or i["high"] < 0) for i in intervals)


def measure_note(results: Json) -> str:
    """What the primary measures are, in a sentence; empty if β is not compared."""
    if one_beta(results):
        return ""
    used = dict(MEASURES[decision["measure"]] for decision in results["decision"].values())
    return "; ".join(f"{_capital(name)}: {meaning}" for name, meaning in used.items()) + "."


# --- one β ------------------------------------------------------------------------------------------------------------


def _one_run(run: Json, decision: Json, sizes: Sequence[int]) -> Headline:
    unit = unit_of_changes(decision)
    certainty = (
        f"One run{_problems(sizes)}. Intervals cover another draw of problems, but not another seed."
        if sizes
        else "One run, and the number of responses is not logged: noise is judged by how the curve itself scatters."
    )
    if not defined(run["end_change"]):
        return Headline(run["variant"], verdict_counts([run]), "", "", "", certainty, [], True)
    effect, choice = _since_peak(run, unit)
    caution = _grades([run])
    return Headline(
        variant=run["variant"],
        verdict=verdict_counts([run]),
        truth=_course(run),
        effect=effect,
        choice=choice,
        certainty=certainty,
        cautions=[caution] if caution else [],
        one_beta=True,
    )


def _untold(runs: Sequence[Json], n_betas: int) -> Headline:
    """What the policies did, where no true reward says whether it was good."""
    return Headline(
        variant=runs[0]["variant"],
        verdict="No verdict: no true reward is known, so hacking cannot be judged.",
        truth="",
        effect=course(runs),
        choice="",
        certainty="",
        cautions=[],
        one_beta=n_betas < 2,
        labels=("What did the policy do?" if len(runs) == 1 else "What did the policies do?", ""),
    )


def _one_checkpoint(results: Json, run: Json) -> Headline:
    """What responses of one checkpoint say of it and of the proxy."""
    parts = []
    truth = run["true_strict"]["start"]
    if defined(truth):
        parts.append(f"The true reward is {minus(f'{truth:.3g}')}.")
    if defined(run["ranking_start"]):
        parts.append(
            f"The proxy ranks a right above a wrong answer to the same problem in {100 * run['ranking_start']:.0f} % "
            "of pairs (chance: 50 %)."
        )
    if defined(run["proxy_truth_correlation"]):
        parts.append(f"Over responses, proxy and truth correlate with r = {run['proxy_truth_correlation']:.2f}.")
    curve = ((results.get("best_of_n") or {}).get("by_beta") or [{"curve": []}])[0]["curve"]
    best = ""
    if curve and defined(curve[-1]["truth"]["mean"]):
        last = curve[-1]
        best = (
            f"Keeping the best of {last['best_of']} answers by the proxy gives a true reward of "
            f"{last['truth']['mean']:.3g}, at a KL of {last['kl']:.2f} nats and without training."
        )
    return Headline(
        variant=run["variant"],
        verdict="One checkpoint: what it and the proxy are like, not what training changed.",
        truth=" ".join(parts),
        effect="",
        choice=best,
        certainty=f"{run['n']} responses, one policy." if defined(run["n"]) else "",
        cautions=[],
        one_beta=True,
        labels=("What else?", "Without training?"),
    )


def _frontier(results: Json) -> Headline:
    """Finished runs of which one point each is known, in the order of their distance."""
    found = results["frontier"]
    rows, best = found["rows"], found["best"]
    far = "√KL" if found["ordered_by"] == "distance" else "the proxy"
    truth = effect = choice = ""
    if best is not None:
        top, last = rows[best], rows[-1]
        highest, before, after = (minus(f"{value:.3g}") for value in (top["truth"], top["proxy"], last["proxy"]))
        truth = f"It is highest at {_run_name(top)}: {highest}."
        if best == len(rows) - 1:
            effect = f"The truth is highest where {far} is: no run of these went too far."
        else:
            effect = (
                f"Beyond it, the truth is lower by {found['lost']:.2g} at {_run_name(last)}, while the proxy "
                f"{'rises' if last['proxy'] > top['proxy'] else 'does not rise'} "
                f"({before} to {after})."
            )
            choice = f"Runs beyond {_run_name(top)} trade truth for proxy, if the differences are no noise."
    return Headline(
        variant=rows[0]["variant"],
        verdict=f"{len(rows)} finished runs in the order of {far}, one point each: no verdict on any of them.",
        truth=truth,
        effect=effect,
        choice=choice,
        certainty="One value per run, without an interval: how much of this is noise cannot be said.",
        cautions=[],
        one_beta=True,
        labels=("Beyond it?", "What to do?"),
    )


def _run_name(row: Json) -> str:
    name = row["variant"] if row["beta"] is None else beta_name(row["beta"])
    name = name if row["beta"] is None else f"β = {name}"
    return f"{name} (√KL {row['distance']:.2f})" if defined(row["distance"]) else name


def _course(run: Json) -> str:
    """Start → peak → end of the truth."""
    truth, peak, at, last = run["true_strict"], run["true_peak"], run["turnover_step"], run["series"]["step"][-1]
    start, top, end = (minus(f"{value:.3g}") for value in (truth["start"], peak, truth["end"]))
    if at == last:
        return f"The truth went from {start} to {end}, and is highest at the end."
    if at == run["series"]["step"][0]:
        return f"The truth was highest at the start, {start}, and ended at {end}."
    return f"The truth went from {start} to a peak of {top} at step {at:g}, and ended at {end}."


def _since_peak(run: Json, unit: Unit) -> tuple[str, str]:
    """What was lost since the peak, with its interval; and what to do about it."""
    at, last = run["turnover_step"], run["series"]["step"][-1]
    change = run["end_change"]
    overall = f"Over the whole run it changed by {unit.with_interval(change, run['intervals']['end_change'], '+')}."
    if at == last:
        return overall, ""
    fall, interval = -run["since_peak"], run["intervals"]["since_peak"]
    turned = {**interval, "low": _negative(interval["high"]), "high": _negative(interval["low"])}
    lost = unit.with_interval(fall, turned)
    if not defined(turned["low"]):
        return f"The truth was highest at step {at:g}; it is lower by {lost} at the end. {overall}", ""
    if turned["low"] <= 0:
        return f"The truth was highest at step {at:g}, but a fall by {lost} since is within noise. {overall}", ""
    effect = f"The truth peaked at step {at:g} and has fallen by {lost} since."
    if at != run["series"]["step"][0]:
        effect += f" {overall}"
        return effect, f"Take the checkpoint nearest to step {at:g}."
    return effect, "Do not adapt with this reward: the truth has fallen from the start."


def _negative(value: float | None) -> float | None:
    return -value if defined(value) else None


def _one_beta(runs: Sequence[Json], summary: Json, decision: Json, sizes: Sequence[int]) -> Headline:
    unit, row = unit_of_changes(decision), summary["by_beta"][0]
    peaks = [run["turnover_step"] for run in runs if run["turnover_step"] is not None]
    change, regret = row["end_change"], row["regret"]
    known = [row[name]["mean"] for name in ("true_start", "true_peak", "true_end")]
    truth = ""
    if all(map(defined, known)) and defined(change["mean"]):
        start, peak, end = (minus(f"{value:.3g}") for value in known)
        truth = (
            f"On average the truth went from {start} to {end} (peak {peak}), a change of "
            f"{unit.with_interval(change['mean'], change['interval'], '+')}."
        )
    effect = ""
    if peaks and defined(regret["mean"]):
        at = f"step {peaks[0]:g}" if len(set(peaks)) == 1 else f"steps {min(peaks):g} to {max(peaks):g}"
        kept = unit.with_interval(regret["mean"], regret["interval"])
        effect = f"The truth peaked at {at}; stopping there would have kept {kept}."
    low = regret["interval"]["low"]
    choice = "Stop earlier: the truth falls after its peak." if effect and defined(low) and low > 0 else ""
    seeds = len({run["seed"] for run in runs})
    of = count(seeds, "seed") if seeds == len(runs) else count(len(runs), "run")
    caution = _grades(runs)
    certainty = f"{of}{_problems(sizes)}; intervals are over {'seeds' if seeds == len(runs) else 'runs'}."
    return Headline(
        variant=runs[0]["variant"],
        verdict=verdict_counts(runs),
        truth=truth,
        effect=effect,
        choice=choice,
        certainty=certainty,
        cautions=[caution] if caution else [],
        one_beta=True,
    )


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _without(text: str, start: str) -> str:
    return text.removeprefix(start)
