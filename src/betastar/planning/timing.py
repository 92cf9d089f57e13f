"""Time per stage: a plan's tokens at the speed that a probe measured."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from betastar.errors import BetastarError
from betastar.models.devices import choose_device
from betastar.planning import sources
from betastar.planning.phases import precision
from betastar.planning.plan import Plan
from betastar.planning.probe import Seconds, Shape, measure
from betastar.planning.work import Stage


class Timing(NamedTuple):
    """`seconds` by stage, None where the work was not measured; `method` says what was measured."""

    seconds: dict[str, float | None]
    method: str


def probe(plan: Plan) -> Timing:
    """Measure both models on this machine. Raises BetastarError where they are too large for it."""
    config, facts = plan.config, plan.facts
    gpu = plan.memory.gpu
    device = choose_device(config.compute.device)
    torch.set_num_threads(config.compute.threads or os.cpu_count() or 1)  # as a run does
    adapter, reward_adapter = config.adapter, config.reward_adapter or config.adapter
    compute = config.compute
    policy = Shape(
        config=sources.model_config(config.base, config),
        precision=precision(config.base, gpu),
        target_modules=adapter.target_modules,
        rank=adapter.numbers().rank,
        conditions=plan.counts.at_once,
        prompt=facts.prompt_tokens,
        response=facts.response_tokens,
        tokens_per_forward=compute.tokens_per_forward,
        rows=plan.rows,
        checkpointing=compute.gradient_checkpointing,
        learn=any(stage.name == "base" for stage in plan.stages),
    )
    reward_base = config.reward_base or config.base
    reward = policy._replace(
        config=sources.model_config(reward_base, config),
        precision=precision(reward_base, gpu),
        target_modules=reward_adapter.target_modules,
        rank=reward_adapter.numbers().rank,
        conditions=plan.counts.members,
        score=True,
        learn=False,
    )
    try:
        (of_policy, layers), (of_reward, reward_layers) = measure(policy, device), measure(reward, device)
    except torch.OutOfMemoryError:
        raise BetastarError("a few layers with their passes do not fit the memory of this GPU") from None
    measured = layers if layers == reward_layers else f"{layers} of the policy, {reward_layers} of the reward models"
    by_trl = {name for name in ("rewards", "offline") if getattr(config, name).engine == "trl"}
    seconds = {
        stage.name: None if stage.name in by_trl else _seconds(stage, of_policy, of_reward) for stage in plan.stages
    }
    where = plan.memory.name if gpu else f"CPU, {torch.get_num_threads()} threads"
    return Timing(seconds, f"measured here ({where}) with random weights, {measured}; every sequence at full length")


def _seconds(stage: Stage, policy: Seconds, reward: Seconds) -> float:
    if stage.name == "base":
        return stage.policy.trained * policy.learnt
    return sum(
        tokens.read * each.read + tokens.trained * each.trained + tokens.sampled * each.sampled
        for tokens, each in ((stage.policy, policy), (stage.reward, reward))
    )
