"""Which column of a log is what: the names that trainers use, and what to say where they leave it open."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from betastar.errors import BetastarError
from betastar.record.entries import REGISTRY

# A name is a phase ("train/", "eval_", …) and a bare name. Patterns are for whole bare names, best first.
PREFIX = re.compile(r"(train|training|trainer|eval|evaluation|goodhart|betastar)[/_](?=.)")
EVALUATION = re.compile(r"(^|/)(eval|evaluation|val|val-core|val-aux|test|goodhart|betastar)[/_]")

REWARD_MODEL = r"(proxy|reward_?model|preference|learned|(?<![a-z])(rm|judge))"
CORRECT = (
    r"((?<![a-z])(acc|accuracy|correct|correctness|exact|exact_match|solved?|verified|verifiable|gold|true|truth))"
)

FUNCTION = r"rewards/(?!.*/(std|min|max)$)"  # TRL logs each reward function, older versions without "/mean"

# Trainers log means; `reward` of TRL and OpenRLHF is the total that training optimises.
PROXY = (
    r"(mean_)?proxy(_reward)?([/_]mean)?|reward_proxy",
    r"critic/score/mean",  # verl, before the KL penalty
    r"critic/rewards/mean",  # verl, after it
    rf"{FUNCTION}.*{REWARD_MODEL}.*",
    r"(mean_)?reward([/_]mean)?|rewards/mean|objective/scores",
    r"(mean_)?scores?([/_]mean)?",
    rf"(?!.*(std|min|max|zero|frac)).*{REWARD_MODEL}.*",
    r"(?!.*(std|min|max|zero|frac)).*(reward|score).*",
)
TRUE = (
    r"true(_strict|_reward)?([/_]mean)?|reward_true|gold(_reward)?([/_]mean)?",
    r"val-core/.+/acc/mean@\d+",  # verl, by data set
    r"val-core/.+/mean@\d+|val/test_score/.+",
    rf"{FUNCTION}.*{CORRECT}(?![a-z]).*",
    r".+_pass1",  # OpenRLHF, by data set
    r"(?!.*token)(.*[/_])?(acc|accuracy|exact_match|correct|correctness|(solve|pass|success)_rate|pass@1)([/_]mean)?",
)
STEP = (r"step|steps|global_step", r"_step|Step|iteration|iter|update")
# Fields of metrics.jsonl. verl's actor/ppo_kl is left out: it is a distance to the sampling policy, not the reference.
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "n": (r"n",),
    "correct_strict": (r"correct_strict",),
    "proxy_std": (r"proxy_std",),
    "true_std": (r"true_std",),
    "true_lenient": (r"true_lenient",),
    "disagreement": (r"disagreement|uncertainty|(reward_)?ensemble_std", r"reward_uncertainty|uncertainty/mean"),
    "disagreement_centred": (r"disagreement_centred",),
    "kl": (r"kl", r"objective/kl", r"actor/kl_loss", r"actor/reward_kl_penalty"),
    "response_entropy": (
        r"response_entropy",
        r"entropy",
        r"actor/entropy",
        r"actor/entropy_loss",
        r"policy/entropy_avg",
    ),
    "policy_entropy": (r"policy_entropy",),
    "response_tokens": (r"response_tokens", r"completions/mean_length", r"response_length(/mean)?", r"length"),
    "at_limit": (r"at_limit", r"completions/clipped_ratio", r"response_length/clip_ratio"),
    "unparsable": (r"unparsable",),
    "ood_distance": (r"ood_distance",),
    "diversity": (r"diversity",),
}
# What a person calls a field on the command line and in Python, where that differs from its name in metrics.jsonl.
ALIASES = {
    "true": "true_strict",
    "uncertainty": "disagreement",
    "entropy": "response_entropy",
    "length": "response_tokens",
}
LABELS = {field: alias for alias, field in ALIASES.items()}
MAIN = ("step", "proxy", "true_strict")
SHOWN = 40


def others() -> dict[str, tuple[str, ...]]:
    """Field → patterns for every measure of a point that a log may have, beside the two rewards. One without patterns
    of its own is known by its name."""
    measures = [m.name for m in REGISTRY.logged if m.kind != "numbers" and m.name not in MAIN]
    return {**PATTERNS, **{name: (re.escape(name),) for name in measures if name not in PATTERNS}}


def field_name(name: str) -> str:
    """The field that a person means; BetastarError where there is none of that name."""
    field = ALIASES.get(name, name)
    fields = {*MAIN, *others()}
    if field not in fields:
        known = sorted({*fields, *ALIASES} - {"true_strict"})
        raise BetastarError(f"{name!r} is no field of an analysis; use one of {', '.join(known)}.")
    return field


def choose(names: Sequence[str], told: Mapping[str, str], where: str) -> dict[str, str]:
    """The column of each field among `names`, the numeric columns of the log called `where`.

    Proxy and true reward must be found, both from evaluation if both are logged there. `told` maps fields to columns
    and overrides every guess. Raises BetastarError for a column that is absent, and where a reward is unknown or open.
    """
    for field, column in told.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"numeric columns: {_listed(names)}."
            raise BetastarError(
                f"{where}: there is no numeric column {column!r} for {LABELS.get(field, field)}; {hint}"
            )
    free = [name for name in names if name not in told.values()]
    true = [told["true_strict"]] if "true_strict" in told else _reward(free, TRUE, "true", where, names)
    proxy = [told["proxy"]] if "proxy" in told else _reward(_without(free, true), PROXY, "proxy", where, names)
    phases = {is_evaluation(name) for name in proxy} & {is_evaluation(name) for name in true}
    evaluation = True in phases or (not phases and is_evaluation(true[0]))
    chosen = {"proxy": _of_phase(proxy, evaluation), "true_strict": _of_phase(true, evaluation)}
    for field, reward in (("proxy_std", "proxy"), ("true_std", "true_strict")):
        companion = re.sub(r"(?<![a-z])mean$", "std", chosen[reward])
        companion = f"{companion}_std" if companion == chosen[reward] else companion
        if companion in free:
            chosen[field] = companion
    for field, patterns in others().items():
        if field not in chosen and (found := _first_match(_without(free, [*chosen.values()]), patterns)):
            chosen[field] = max(found, key=lambda name: _nearness(name, chosen["proxy"]))
    if chosen["proxy"] == chosen["true_strict"]:
        raise BetastarError(
            f"{where}: {chosen['proxy']} is both the proxy and the true reward; name another with --true."
        )
    return {**chosen, **told}


def step_columns(names: Sequence[str]) -> list[str]:
    """The columns that count steps: several where a tracker keeps one for training and one for evaluation."""
    return _first_match(names, STEP)


def is_evaluation(name: str) -> bool:
    """Whether a column comes from evaluation rather than from training batches."""
    return bool(EVALUATION.search(name))


def bare(name: str) -> str:
    """A column's name without what says from which phase it is: "train/", "eval_", "goodhart/", …"""
    while (shorter := PREFIX.sub("", name, count=1) if PREFIX.match(name) else name) != name:
        name = shorter
    return name


def _first_match(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The columns that match the first pattern that any matches."""
    for pattern in patterns:
        if found := [name for name in names if re.fullmatch(pattern, bare(name))]:
            return found
    return []


def _reward(free: Sequence[str], patterns: Sequence[str], flag: str, where: str, names: Sequence[str]) -> list[str]:
    """The columns of one reward, which differ in phase alone."""
    found = _first_match(free, patterns)
    if len({bare(name) for name in found}) == 1:
        return found
    problem = f"{_listed(found)} could each be" if found else "no column is known to be"
    raise BetastarError(
        f"{where}: {problem} the {flag} reward; name it with --{flag} COLUMN (in Python {flag}=COLUMN). "
        f"Numeric columns: {_listed(names)}."
    )


def _of_phase(names: Sequence[str], evaluation: bool) -> str:
    return next((name for name in names if is_evaluation(name) == evaluation), names[0])


def _nearness(name: str, proxy: str) -> tuple[bool, bool]:
    """How sure it is that a column was measured on the same responses as the proxy: larger is surer."""
    return name.removesuffix(bare(name)) == proxy.removesuffix(bare(proxy)), is_evaluation(name) == is_evaluation(proxy)


def _without(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    return [name for name in names if name not in taken]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more
