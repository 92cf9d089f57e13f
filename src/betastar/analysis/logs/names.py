"""What trainers call what: one entry for each name that is known, with the framework that writes it.

To teach betastar another name, add an entry where it belongs; the best come first. `betastar analyze --list-names`
prints them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Per = Literal["response", "token"]


class Name(NamedTuple):
    """A pattern for a whole bare name (without "train/", "eval_", …), and whose it is. `per`: of a KL, whether it is
    summed over a response or averaged over tokens; None where the name alone does not tell."""

    pattern: str
    of: str
    per: Per | None = None


REWARD_MODEL = r"(proxy|reward_?model|preference|learned|(?<![a-z])(rm|judge))"
CORRECT = (
    r"((?<![a-z])(acc|accuracy|correct|correctness|exact|exact_match|solved?|verified|verifiable|gold|true|truth))"
)
FUNCTION = r"rewards/(?!.*/(std|min|max)$)"  # TRL logs each reward function, older versions without "/mean"
# Words in a name that say that it is no mean of rewards: a spread, a cost, a count, or of the optimiser.
NO_MEAN = (
    r"std|stddev|var|variance|min|max|median|p\d+|zero|frac|fraction|clip|clipfrac|latency|time|times|timing|seconds|"
    r"secs|duration|elapsed|memory|gpu|count|counts|num|calls|total|tokens|cost|usd|lr|grad|loss|err|error|retry|"
    r"failed|failure|rate|eligible|valid|advantage|penalty|margin|margins|chosen|rejected|accuracies|minus|weight|"
    r"kl|entropy|epoch|step|steps|learning|scale|std_dev|length|len"
)
MEANS = rf"(?!(.*[^a-z])?({NO_MEAN})([^a-z].*)?$)"

# Trainers log means; `reward` of TRL and OpenRLHF is the total that training optimises.
PROXY = (
    Name(r"(mean_)?proxy(_reward)?([/_]mean)?|reward_proxy", "betastar, own loops"),
    Name(r"critic/score/mean", "verl, before the KL penalty"),
    Name(r"critic/scores?/mean", "verl"),
    Name(r"critic/rewards/mean", "verl, after the KL penalty"),
    Name(rf"{FUNCTION}.*{REWARD_MODEL}.*", "TRL, the function of a reward model"),
    Name(r"reward/selected_mean", "ROLL"),
    Name(r"(mean_)?reward([/_]mean)?|rewards/mean|objective/scores", "TRL, OpenRLHF, trlx, tinker-cookbook"),
    Name(
        r"objective/(scores|rlhf_reward)|env/reward|rollout/(raw_)?reward|avg[_ ]reward",
        "open-instruct, slime, NeMo-RL",
    ),
    Name(r"env/all/reward/total|reward/total/mean|train_reward|mean_episode_reward", "tinker-cookbook, ART, prime-rl"),
    Name(r"(mean_)?scores?([/_]mean)?", "RL4LMs, ms-swift"),
    Name(rf"{MEANS}.*{REWARD_MODEL}.*", "own loops"),
    Name(rf"{MEANS}.*(reward|score).*", "own loops"),
)
TRUE = (
    Name(r"true(_strict|_reward)?([/_]mean)?|reward_true|gold(_reward)?([/_]mean)?", "betastar, own loops"),
    Name(r"val-core/.+/acc/mean@\d+", "verl, by data set"),
    Name(r"val-core/.+/mean@\d+|val/test_score/.+", "verl, by data set"),
    Name(rf"{FUNCTION}.*{CORRECT}(?![a-z]).*", "TRL, a checking function"),
    Name(r".+_pass1", "OpenRLHF, by data set"),
    Name(r"reward/hard_pass_rate", "ROLL, a checker"),
    Name(r"objective/verifiable_(reward|correct_rate)|verifiable_correct_rate", "open-instruct"),
    Name(r"env/all/correct|(env/)?(test/)?correct(/mean)?", "tinker-cookbook"),
    Name(
        r"(pred|answer|is|response)_?(ok|correct|right)|(is_)?(correct|solved|passed)|ok", "rollouts, graded responses"
    ),
    Name(
        r"(?!.*token)(.*[/_])?(acc|accuracy|exact_match|correct|correctness|(solve|pass|success)_rate|pass@1|pass_at_1)"
        r"([/_]mean)?",
        "all",
    ),
)
STEP = (
    Name(r"step|steps|global_step", "all"),
    Name(r"_step|iteration|iter|update|train(ing)?_step|trainer_step|current_steps?|optimizer_step|n_optim", "all"),
    Name(
        r"(training|trainer|system|progress|rollout|timing)/(global_)?(step|iteration)", "verl, ROLL, tinker-cookbook"
    ),
    Name(r"global_step/max_steps|current_step/total_steps", "ms-swift"),
)
EPOCH = r"(.*/)?epochs?"
# Fields of metrics.jsonl. verl's actor/ppo_kl is left out: it is a distance to the sampling policy, not the reference.
FIELDS: Mapping[str, tuple[Name, ...]] = {
    "n": (Name(r"n", "betastar"),),
    "correct_strict": (Name(r"correct_strict", "betastar"),),
    "proxy_std": (Name(r"proxy_std", "betastar"),),
    "true_std": (Name(r"true_std", "betastar"),),
    "true_lenient": (Name(r"true_lenient", "betastar"),),
    "disagreement": (
        Name(r"disagreement|uncertainty|(reward_)?ensemble_std", "betastar, own loops"),
        Name(r"reward_uncertainty|uncertainty/mean", "own loops"),
    ),
    "disagreement_centred": (Name(r"disagreement_centred", "betastar"),),
    "kl": (
        Name(r"kl", "betastar, TRL, OpenRLHF, own loops"),
        Name(r"objective/kl", "TRL's PPO, open-instruct, trlx", "response"),
        Name(r"actor/kl_loss", "verl, ROLL", "token"),
        Name(r"actor/reward_kl_penalty", "verl", "token"),
        Name(r"policy/kl|kl_policy_base|kl_divergence|kl_sample_train_v1", "NeMo-RL, tinker-cookbook", "token"),
    ),
    "response_entropy": (
        Name(r"response_entropy", "betastar"),
        Name(r"entropy", "TRL, OpenRLHF"),
        Name(r"actor/entropy", "verl"),
        Name(r"actor/entropy_loss", "verl"),
        Name(r"policy/entropy(_avg)?|optim/entropy", "TRL's PPO, tinker-cookbook"),
    ),
    "policy_entropy": (Name(r"policy_entropy", "betastar"),),
    "response_tokens": (
        Name(r"response_tokens", "betastar"),
        Name(r"completions?/mean_length", "TRL"),
        Name(r"response_length(/mean)?", "verl, OpenRLHF"),
        Name(r"length(/mean)?|(mean_)?(completion|response|generation)_len(gth)?", "ROLL, own loops"),
        Name(
            r"completion_length|mean generation length|avg_gen_tokens|val/sequence_lengths", "TRL before 0.16, NeMo-RL"
        ),
    ),
    "at_limit": (
        Name(r"at_limit", "betastar"),
        Name(r"completions/clipped_ratio", "TRL"),
        Name(r"response_length/clip_ratio", "verl"),
        Name(r"length/cap_hit_rate|truncated_(rate|ratio)", "ROLL, own loops"),
    ),
    "unparsable": (Name(r"unparsable", "betastar"),),
    "ood_distance": (Name(r"ood_distance", "betastar"),),
    "diversity": (Name(r"diversity", "betastar"),),
}

# A trainer on preference pairs: its accuracy is of pairs in the batch, and its rewards are implicit.
PREFERENCE = re.compile(r"(.*/)?(rewards/(chosen|rejected|margins|accuracies)|logps/(chosen|rejected))")


# `kl` alone: what else a log holds says who wrote it. TRL's GRPO and RLOO and OpenRLHF average over tokens.
KL_PER_TOKEN = re.compile(
    r"completions?/(mean_length|clipped_ratio)|completion_length|frac_reward_zero_std|rewards/.+/mean|"
    r"generate_length|policy_loss|ppo_kl|response_length",
)


def kl_per(column: str, names: Iterable[str]) -> Per | None:
    """What the KL in `column` (a bare name) is counted per, of a log with these other bare `names`; None where nothing
    tells."""
    entry = next((name for name in FIELDS["kl"] if re.fullmatch(name.pattern, column, re.IGNORECASE)), None)
    if entry is None:
        return None
    if entry.per is None and any(KL_PER_TOKEN.fullmatch(name) for name in names):
        return "token"
    return entry.per


def patterns(names: tuple[Name, ...]) -> tuple[str, ...]:
    """The patterns alone."""
    return tuple(name.pattern for name in names)


def listed() -> list[tuple[str, str, str]]:
    """Every entry: quantity, pattern, whose."""
    every = {"step": STEP, "proxy": PROXY, "true": TRUE, **FIELDS}
    return [(quantity, name.pattern, name.of) for quantity, names in every.items() for name in names]
