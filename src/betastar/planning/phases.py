"""What is in memory at the same time, in each phase of an experiment."""

from __future__ import annotations

from typing import NamedTuple

from betastar.config import Config
from betastar.derive import Facts, trainable
from betastar.planning import memory
from betastar.planning.memory import Precision
from betastar.planning.work import counts
from betastar.sections import BaseModelChoice, PretrainedBase

FLOAT32 = 4  # bytes; adapters, their gradients and moments


class Phase(NamedTuple):
    """Bytes of all that a phase holds at once, by name."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def precision(choice: BaseModelChoice, gpu: bool) -> Precision:
    """How a base is kept: `auto` is bfloat16 on a GPU and float32 on the CPU; models made here are float32."""
    if not isinstance(choice, PretrainedBase):
        return Precision(FLOAT32)
    half = choice.dtype == "bfloat16" or (choice.dtype == "auto" and gpu)
    return Precision(2 if half else FLOAT32, choice.quantization == "nf4", choice.double_quantization)


def phases(config: Config, facts: Facts, problems: int, gpu: bool) -> list[Phase]:
    """Memory of a run whose settings are numbers, where an evaluation point has `problems` problems."""
    policy, reward = precision(config.base, gpu), precision(config.reward_base or config.base, gpu)
    bases = {f"policy: {part}": size for part, size in memory.weights(facts.policy, policy).items()}
    if config.reward_base is not None:
        bases["reward base"] = sum(memory.weights(facts.reward, reward).values())
    compute, how_many = config.compute, counts(config)
    adapter, reward_adapter = config.adapter.numbers(), (config.reward_adapter or config.adapter).numbers()
    one, one_reward = (
        trainable(model, numbers.rank) * FLOAT32
        for model, numbers in ((facts.policy, adapter), (facts.reward, reward_adapter))
    )
    piece = memory.Piece(compute.tokens_per_forward, compute.gradient_checkpointing)

    offline_limit = config.offline.conditions_at_once or how_many.checkpoints
    training = []
    for name, model, kept, numbers, size, together in (
        ("rewards", facts.reward, reward, reward_adapter, one_reward, how_many.members),
        ("offline", facts.policy, policy, adapter, one, min(how_many.checkpoints, offline_limit)),
    ):
        trl = getattr(config, name).engine == "trl"
        parts = bases | _trained_bytes(size, 1 if trl else together, kept)
        parts["activations"] = memory.activations(model, kept.width, piece, numbers.dropout > 0)
        if name == "offline":
            parts["logits"] = memory.logits(piece.tokens, model.vocabulary, gpu, whole=trl)
        if trl:
            parts["TRL's copy of the base"] = sum(memory.weights(model, kept).values())
        training.append(Phase(name, parts))

    # Online every condition also has its frozen reference, and the reward models are at hand.
    ensemble = {"reward adapters": config.rewards.members * one_reward}
    references = {"references": how_many.at_once * one}
    answers = rows_at_once(config, problems)
    moving = _trained_bytes(one, how_many.at_once, policy)
    sampling = bases | moving | {"gradients": 0.0} | references | ensemble
    sampling["KV cache"] = memory.key_value_cache(
        facts.policy, answers, facts.prompt_tokens + facts.generated_tokens, policy.width
    )
    sampling["logits"] = answers * facts.policy.vocabulary * memory.LOGIT_DECODING
    update = bases | moving | references | ensemble
    update["activations"] = memory.activations(facts.policy, policy.width, piece, dropout=False)
    update["logits"] = memory.logits(piece.tokens, facts.policy.vocabulary, gpu)
    return [
        Phase(phase.name, {**phase.parts, "libraries": memory.RUNTIME})
        for phase in (*training, Phase("sampling", sampling), Phase("online", update))
    ]


def rows_at_once(config: Config, problems: int) -> int:
    """Responses sampled at the same time: of all conditions in a bank, as many as `compute.rows_per_decode` allows."""
    batches = [variant.numbers(variant.steps).batch_size for variant in map(config.variant, config.variants)]
    return min(config.compute.rows_per_decode, counts(config).at_once * max(problems, *batches))


def _trained_bytes(one: float, together: int, base: Precision) -> dict[str, float]:
    """Adapters with gradients and AdamW's two moments; the base multiplies with a copy in its own precision."""
    copy = 0 if base.width == FLOAT32 else together * one * base.width / FLOAT32
    return {"adapters": together * one + copy, "gradients": together * one, "optimiser": 2 * together * one}
