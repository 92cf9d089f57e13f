"""Settings that say `auto`, as numbers: Appendix C applied to the actual model, hardware and data.

Where Appendix C is silent:

- Rewards and adapters of reward models follow the reward base's size, the rest the policy's.
- A sequence of a pair is the prompt with one response; online it is the prompt with the longest sampled response.
- P_B counts all parameters, embeddings included, and V_GB is in GiB; training has m = 1.
- n is the number of training pairs everywhere, also online, where the paper names no other.
- Gradient accumulation has no formula: a batch larger than `compute.tokens_per_forward` is cut into pieces.
- B = 1 is refused online, where the advantage compares the responses of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from betastar.errors import BetastarError
from betastar.maths import appendix_c
from betastar.maths.appendix_c import Derived
from betastar.settings.config import Config, Resolved, merged
from betastar.settings.phases import Online
from betastar.settings.sections import ADAPTER, LOOP, Adapter, Optimisation, Training

if TYPE_CHECKING:
    from betastar.models.support import ModelFacts

LOOPS = ("rewards", "offline", "online")


@dataclass(frozen=True)
class Facts:
    """What Appendix C starts from: the two models, the number of pairs trained on, token limits, and V_GB in GiB."""

    policy: ModelFacts
    reward: ModelFacts
    train_pairs: int
    prompt_tokens: int
    response_tokens: int
    generated_tokens: int
    memory_gb: float


class DerivedValue(NamedTuple):
    """What Appendix C gives for one setting, by the `formula` of its equation (`in low…high`: clipped to that).
    `clipped`: the bound ("low" or "high") on which it sits, `raw` what the formula gave before; `given`: the configured
    number that counts instead, if there is one."""

    setting: str
    value: float
    formula: str
    inputs: Mapping[str, float]
    raw: float
    clipped: str | None
    given: float | None

    @property
    def used(self) -> float:
        return self.value if self.given is None else self.given


def derive(config: Config, facts: Facts) -> tuple[Resolved, list[DerivedValue]]:
    """The configuration with numbers for every `auto`, and what Appendix C gives for each setting, replaced or not.

    Nothing but `auto` is replaced. A warm-up stays `auto`: it is ⌊√T⌋ of whichever loop uses it. A shared `adapter`
    with something to derive is split, so that the reward models get theirs from their own base. Raises BetastarError
    where online batches would hold a single response.
    """
    reward_adapter = config.reward_adapter
    if reward_adapter is None and "auto" in [getattr(config.adapter, name) for name in ADAPTER]:
        reward_adapter = config.adapter
    values = list(_adapter("adapter", config.adapter, facts.policy, facts.train_pairs))
    if reward_adapter is not None:
        values += _adapter("reward_adapter", reward_adapter, facts.reward, facts.train_pairs)
    used = {value.setting: value.used for value in values}
    rank = int(used["adapter.rank"])
    policy_weights = trainable(facts.policy, rank)
    reward_rank = int(used.get("reward_adapter.rank", rank))
    reward_weights = trainable(facts.reward, reward_rank) + facts.reward.hidden_size  # and the scalar head
    pair = facts.prompt_tokens + facts.response_tokens
    sampled = facts.prompt_tokens + facts.generated_tokens
    values += _loop("rewards", config.rewards, facts, facts.reward, reward_weights, pair)
    values += _loop("offline", config.offline, facts, facts.policy, policy_weights, pair)
    values += _loop("online", config.online, facts, facts.policy, policy_weights, sampled)
    return _resolved(config, reward_adapter, {value.setting: value for value in values}), values


def trainable(model: ModelFacts, rank: int) -> int:
    """Weights of one adapter: Σ r (d_in + d_out) over the adapted layers."""
    return sum(rank * (d_in + d_out) for d_in, d_out in model.adapted)


def training_steps(settings: Training, train_pairs: int, batch_size: int) -> int:
    """Optimiser steps T of a loop over pairs."""
    return max(1, math.ceil(settings.epochs * train_pairs / min(batch_size, train_pairs)))


def hyperparameters(config: Config, values: list[DerivedValue]) -> dict[str, dict[str, Any]]:
    """The record of results.json: by setting the `value` in use and, where facts were at hand, what Appendix C gives
    with formula and inputs; without them the configured values alone."""
    if values:
        return {
            v.setting: {"value": v.used, "appendix_c": v.value, **_whence(v), "given": v.given is not None}
            for v in values
        }
    sections = {"adapter": ADAPTER, **({"reward_adapter": ADAPTER} if config.reward_adapter else {})}
    sections |= dict.fromkeys(LOOPS, (*LOOP, "warmup_steps"))
    return {
        f"{section}.{name}": {"value": getattr(getattr(config, section), name)}
        for section, names in sections.items()
        for name in names
    }


def _whence(value: DerivedValue) -> dict[str, Any]:
    clipped = {"clipped": value.clipped} if value.clipped else {}
    return {"formula": value.formula, "inputs": value.inputs, "raw": value.raw, **clipped}


def _adapter(section: str, settings: Adapter, model: ModelFacts, train_pairs: int) -> Iterator[DerivedValue]:
    rank = appendix_c.lora_rank(model.hidden_size)
    h, n = {"h": model.hidden_size}, {"n": train_pairs}
    yield _value(f"{section}.rank", settings.rank, rank, "B.1: 2^round(log2 √h) in 4…64", h)
    r = int(rank.value) if settings.rank == "auto" else settings.rank
    yield _value(f"{section}.alpha", settings.alpha, Derived(2 * r, 2 * r), "C.1: 2 r", {"r": r})
    dropout = appendix_c.lora_dropout(train_pairs)
    yield _value(f"{section}.dropout", settings.dropout, dropout, "B.2: 32/√n in 0.01…0.1", n)


def _loop(
    section: str, settings: Optimisation, facts: Facts, model: ModelFacts, weights: int, tokens: int
) -> Iterator[DerivedValue]:
    billions = model.parameters / 1e9
    size = appendix_c.batch_size(facts.memory_gb, model.parameters, tokens)
    room = {"V": facts.memory_gb, "P": billions, "m": 1, "ℓ": tokens}
    batch = _value(f"{section}.batch_size", settings.batch_size, size, "B.3: 2^⌊log2(V/P·m·1024/ℓ)⌋ in 1…64", room)
    yield batch
    rate, norm = appendix_c.learning_rate(weights), appendix_c.gradient_clip(weights)
    n, trained = {"n": facts.train_pairs}, {"N": weights}
    formula = "B.4: 2e-4/√(N/1e7) in 5e-7…2e-4"
    yield _value(f"{section}.learning_rate", settings.learning_rate, rate, formula, trained)
    decay = appendix_c.weight_decay(facts.train_pairs)
    yield _value(f"{section}.weight_decay", settings.weight_decay, decay, "B.7: 1/√n", n)
    yield _value(f"{section}.clip", settings.clip, norm, "B.5: log10(N)/7 in 0.5…2", trained)
    if isinstance(settings, Online):
        steps = settings.steps
    else:
        assert isinstance(settings, Training)  # the loops are these two kinds
        steps = training_steps(settings, facts.train_pairs, int(batch.used))
    warm_up = appendix_c.warm_up_steps(steps)
    yield _value(f"{section}.warmup_steps", settings.warmup_steps, Derived(warm_up, warm_up), "B.6: ⌊√T⌋", {"T": steps})


def _value(setting: str, configured: Any, derived: Derived, formula: str, inputs: Mapping[str, float]) -> DerivedValue:
    whole = setting.rpartition(".")[2] in ("rank", "batch_size", "warmup_steps")
    value = int(derived.value) if whole else derived.value
    return DerivedValue(
        setting, value, formula, inputs, derived.raw, derived.clipped, None if configured == "auto" else configured
    )


def _resolved(config: Config, reward_adapter: Adapter | None, values: dict[str, DerivedValue]) -> Resolved:
    """`config` with the derived numbers in place of `auto`, in variants too, whose formulas are those of `online`."""
    batch = values["online.batch_size"]
    wanted = [config.online.batch_size, *(config.variant(name).batch_size for name in config.variants)]
    if "auto" in wanted and batch.value < 2:
        sizes = f"{batch.inputs['V']:.3g} GiB, {batch.inputs['P']:.3g} billion parameters, {batch.inputs['ℓ']} tokens"
        raise BetastarError(
            f"Appendix C gives 1 ({sizes}), but the advantage compares the responses of a batch",
            where="online.batch_size",
            remedy="set online.batch_size to at least 2",
        )

    def numbers(section: str, of: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        return {name: values[f"{section}.{name}"].value for name in names if of.get(name) == "auto"}

    changes: dict[str, Any] = {"adapter": numbers("adapter", config.adapter.model_dump(), ADAPTER)}
    for loop in LOOPS:
        changes[loop] = numbers(loop, getattr(config, loop).model_dump(), LOOP)
    changes["variants"] = {name: numbers("online", override, LOOP) for name, override in config.variants.items()}
    changes["methods"] = {name: numbers("offline", override, LOOP) for name, override in config.methods.items()}
    whole = config.model_dump()
    if reward_adapter is not None:
        whole["reward_adapter"] = reward_adapter.model_dump()
        changes["reward_adapter"] = numbers("reward_adapter", reward_adapter.model_dump(), ADAPTER)
    return Resolved.model_validate(merged(whole, changes))
