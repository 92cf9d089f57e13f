"""How much each stage computes, in tokens: an upper bound, as if every sequence had its full length."""

from __future__ import annotations

import math
from typing import NamedTuple

from betastar.config import Config
from betastar.derive import Facts, training_steps
from betastar.sections import MicroPreferences, TrainedBase, Training

AT_START = 2  # evaluations of a checkpoint before it goes online: the point t=0, and again with fresh noise


class Tokens(NamedTuple):
    """Tokens that a model reads without gradient, is trained on, and samples; over all conditions."""

    read: float = 0
    trained: float = 0
    sampled: float = 0


class Stage(NamedTuple):
    """The work of a stage: the adapters it trains or asks, its optimiser steps, and the tokens of the two models."""

    name: str
    adapters: int
    steps: int | None
    policy: Tokens = Tokens()
    reward: Tokens = Tokens()


class Counts(NamedTuple):
    """Adapters: reward `members` and the judge, offline `checkpoints`, those `adapted` online, and how many of them
    `at_once` in one bank."""

    members: int
    checkpoints: int
    adapted: int
    at_once: int


def counts(config: Config) -> Counts:
    """How many adapters of each kind an experiment trains."""
    grid = config.grid
    betas = grid.n or len(grid.values or grid.percentiles)
    checkpoints = betas * len(config.seeds)
    adapted = checkpoints * len(config.variants)
    judge = not isinstance(config.preferences, MicroPreferences)
    limit = config.online.conditions_at_once or adapted
    return Counts(config.rewards.members + judge, checkpoints, adapted, min(adapted, limit))


def stages(config: Config, facts: Facts, problems: int, float32: bool) -> list[Stage]:
    """The work of every stage of a run whose settings are numbers. An evaluation point has `problems` problems. A
    `float32` policy takes log-probabilities from sampling; in less precision it reads each response once more."""
    how_many, n, members = counts(config), facts.train_pairs, config.rewards.members
    held_out = n / 8  # the split is 80/10/10
    row = facts.prompt_tokens + facts.generated_tokens
    pair = _pair_tokens(facts, "bank")

    def answered(answers: float, passes: int) -> Tokens:
        """Sampling reads the prompts, and `passes` read the responses again."""
        read = answers * (facts.prompt_tokens + passes * row)
        return Tokens(read=read, sampled=answers * facts.generated_tokens)

    steps, trained = _trained(config.rewards, facts, how_many.members)
    checked = 2 * held_out * members * pair
    rewards = Stage("rewards", how_many.members, steps, reward=Tokens(read=checked, trained=trained))

    reference = Stage("reference", 0, None, Tokens(read=(n + 2 * held_out) * pair))

    steps, trained = _trained(config.offline, facts, how_many.checkpoints)
    tested = how_many.checkpoints * held_out * pair
    if config.offline.engine == "trl":
        tested += trained  # TRL reads the reference at every step, the bank has it from the stage before
    offline = Stage("offline", how_many.checkpoints, steps, Tokens(read=tested, trained=trained))

    answers = AT_START * how_many.checkpoints * problems
    bare = len(config.seeds) * problems
    probe = Stage(
        "probe", how_many.checkpoints, None, answered(answers + bare, 0), Tokens(read=answers * members * row)
    )

    updated = evaluated = 0
    for variant in map(config.variant, config.variants):
        updated += how_many.checkpoints * variant.steps * variant.numbers(variant.steps).batch_size
        evaluated += how_many.checkpoints * math.ceil(variant.steps / config.evaluation.every) * problems
    policy = answered(updated + evaluated, 1 if float32 else 2)._replace(trained=updated * row)
    scored = Tokens(read=(updated + evaluated) * members * row)
    online = Stage("online", how_many.adapted, config.online.steps, policy, scored)
    return [*_first(config, facts), rewards, reference, offline, probe, online]


def _first(config: Config, facts: Facts) -> list[Stage]:
    """The micro world's own stages: its base learns the language, and answers every preference prompt twice."""
    result = []
    if isinstance(config.base, TrainedBase):
        training = config.base.training
        tokens = training.steps * training.batch_size * (facts.prompt_tokens + facts.response_tokens)
        result.append(Stage("base", 0, training.steps, Tokens(trained=tokens)))
    if isinstance(config.preferences, MicroPreferences):
        answers, longest = 2 * config.preferences.prompts, config.preferences.max_new_tokens
        sampled = Tokens(read=answers * facts.prompt_tokens, sampled=answers * longest)
        result.append(Stage("preferences", 0, None, sampled))
    return result


def _trained(loop: Training, facts: Facts, adapters: int) -> tuple[int, float]:
    """Steps and tokens of a loop over pairs."""
    batch = min(loop.numbers(1).batch_size, facts.train_pairs)
    steps = training_steps(loop, facts.train_pairs, batch)
    return steps, adapters * steps * batch * _pair_tokens(facts, loop.engine)


def _pair_tokens(facts: Facts, engine: str) -> int:
    """Tokens of a pair: TRL reads the prompt with each response, the bank once for both."""
    return (1 if engine == "bank" else 2) * facts.prompt_tokens + 2 * facts.response_tokens
