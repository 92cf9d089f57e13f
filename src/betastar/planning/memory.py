"""Memory by part and by phase, in bytes: an estimate from geometry and settings, held against counted
tensors in the tests.

`width` is the size of a number in the base's own precision, which activations and the key-value cache have too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from betastar.models.decoding import BLOCK
from betastar.models.logprobs import HEAD_ELEMENTS, HEAD_ELEMENTS_ON_GPU
from betastar.planning import memory
from betastar.planning.derive import Facts, trainable, training_steps
from betastar.settings.config import Config, Resolved
from betastar.settings.sections import BaseModelChoice, MicroPreferences, PretrainedBase, TrainedBase, Training

if TYPE_CHECKING:
    from betastar.models.support import ModelFacts


NF4_BLOCK, CONSTANT_BLOCK = 64, 256  # weights that share a constant; constants that share one if quantised in turn
LOGIT_TRAINING, LOGIT_DECODING = 12, 20  # bytes per logit with all copies that live at once
RUNTIME = 1.5 * 2**30  # device context, libraries and what an allocator wastes: a flat allowance
RUNTIME_ON_CPU = 0.5 * 2**30  # the libraries alone, measured (docs/benchmarks.md)
HEAP = 1.5
"""Bytes that a CPU's allocator holds for each byte of activations: freed pieces are not given back. Measured 1.5 in
training passes of 768 x 3 and 384 x 6 (width x layers) with 2 048 and 4 096 tokens."""


class Precision(NamedTuple):
    """How a base is kept: bytes per number, and whether its linear layers are NF4."""

    width: int
    nf4: bool = False
    double: bool = True


class Piece(NamedTuple):
    """One forward and backward pass: its tokens, padding included, and whether activations are computed again."""

    tokens: int
    checkpointing: bool


def weights(model: ModelFacts, precision: Precision) -> dict[str, float]:
    """A base. NF4 leaves embeddings and head as they are; 64 weights of a linear layer share a float32 constant, or one
    of 8 bits, of which 256 share a float32 (arXiv:2305.14314 section 3)."""
    if not precision.nf4:
        return {"weights": model.parameters * precision.width}
    linear = model.parameters - model.embedding_parameters
    constants = linear / NF4_BLOCK * (1 + 4 / CONSTANT_BLOCK if precision.double else 4)
    return {
        "embeddings, head": model.embedding_parameters * precision.width,
        "NF4 layers": linear / 2,
        "NF4 constants": constants,
    }


def key_value_cache(model: ModelFacts, rows: int, tokens: int, width: int) -> float:
    """Keys and values of `rows` sequences of up to `tokens` tokens."""
    return 2 * rows * tokens * model.layers * model.key_value_heads * model.head_dim * width


def logits(tokens: int, vocabulary: int, gpu: bool, whole: bool = False) -> float:
    """Logits of a training pass with their copies: a chunk of them, or the `whole`, as TRL has them."""
    elements, chunk = tokens * vocabulary, HEAD_ELEMENTS_ON_GPU if gpu else HEAD_ELEMENTS
    return (elements if whole else min(elements, chunk)) * LOGIT_TRAINING


def activations(model: ModelFacts, width: int, piece: Piece, dropout: bool) -> float:
    """What a training pass keeps for its backward pass, and one layer's again, which the backward pass makes.

    With checkpointing each layer keeps only its input, and one layer at a time is computed again.
    """
    layer, entrance = layer_activations(model, width, dropout), model.hidden_size * width
    kept = model.layers * entrance + layer if piece.checkpointing else model.layers * layer
    return piece.tokens * (kept + layer)


def layer_activations(model: ModelFacts, width: int, dropout: bool) -> float:
    """Bytes per token that one layer of Qwen3's kind keeps: the inputs of its four norms in float32; rotated queries,
    keys and values repeated for every head, attention's output and its transpose; three times the feed-forward's
    width; and what the adapters read, with dropout each its own input and the factors."""
    queries, keys = model.heads * model.head_dim, model.key_value_heads * model.head_dim
    norms = 4 * (2 * model.hidden_size + queries + keys)
    read = sum(d_in for d_in, _ in model.adapted) / model.layers
    feed_forward = feed_forward_width(model)
    everywhere = len(model.adapted) > 4 * model.layers  # the feed-forward is adapted too
    inputs = 2 * read if dropout else model.hidden_size + everywhere * (model.hidden_size + feed_forward)
    return norms + width * (5 * queries + 3 * feed_forward + inputs)


def feed_forward_width(model: ModelFacts) -> float:
    """Width of a gated feed-forward layer, from the parameters that attention leaves of a layer."""
    layer = (model.parameters - model.embedding_parameters) / model.layers
    attention = 2 * model.hidden_size * model.head_dim * (model.heads + model.key_value_heads)
    return max(0.0, layer - attention) / (3 * model.hidden_size)


GRADIENTS = 8  # texts whose gradients the stage plasticity compares
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
    """Adapters: reward `members` and the judges of all `ensembles`, offline `checkpoints`, those `adapted` online, and
    how many of them `at_once` in one bank."""

    ensembles: int
    members: int
    checkpoints: int
    adapted: int
    at_once: int


def counts(config: Config) -> Counts:
    """How many adapters of each kind an experiment trains."""
    checkpoints = sum(config.method(name).grid.count for name in config.methods) * len(config.seeds)
    adapted = checkpoints * len(config.variants)
    judge = not isinstance(config.preferences, MicroPreferences)
    limit = config.online.conditions_at_once or adapted
    ensembles = len(config.seeds) if config.rewards.per == "seed" else 1
    members = ensembles * (config.rewards.members + judge)
    return Counts(ensembles, members, checkpoints, adapted, min(adapted, limit))


def stages(config: Resolved, facts: Facts, problems: int, float32: bool) -> list[Stage]:
    """The work of every stage of a run. An evaluation point has `problems` problems. A
    `float32` policy takes log-probabilities from sampling; in less precision it reads each response once more. That
    equal responses of several conditions are read once by base and reward models is not counted."""
    how_many, n, members = counts(config), facts.train_pairs, config.rewards.members
    held_out = n / 8  # the split is 80/10/10
    row = facts.prompt_tokens + facts.generated_tokens
    pair = _pair_tokens(facts, "bank")

    def answered(answers: float, passes: int) -> Tokens:
        """Sampling reads the prompts, and `passes` read the responses again."""
        read = answers * (facts.prompt_tokens + passes * row)
        return Tokens(read=read, sampled=answers * facts.generated_tokens)

    steps, trained = _trained(config.rewards, facts, how_many.members)
    checked = 2 * held_out * members * how_many.ensembles * pair
    rewards = Stage("rewards", how_many.members, steps, reward=Tokens(read=checked, trained=trained))

    reference = Stage("reference", 0, None, Tokens(read=(n + 2 * held_out) * pair))

    steps, trained = _trained(config.offline, facts, how_many.checkpoints)
    tested = how_many.checkpoints * held_out * pair
    if config.offline.engine == "trl":
        tested += trained  # TRL reads the reference at every step, the bank has it from the stage before
    offline = Stage("offline", how_many.checkpoints, steps, Tokens(read=tested, trained=trained))

    each = problems * config.evaluation.answers
    answers = AT_START * how_many.checkpoints * each
    bare = len(config.seeds) * each
    asked = _sum(answered(answers, 1 if float32 else 2), answered(bare, 0))  # one pass is the base's
    probe = Stage("probe", how_many.checkpoints, None, asked, Tokens(read=(answers + bare) * members * row))

    updated = evaluated = 0
    for variant in map(config.variant, config.variants):
        responses = variant.numbers(variant.steps).batch_size * variant.answers_per_prompt
        updated += how_many.checkpoints * variant.steps * responses * variant.epochs_per_batch
        evaluated += how_many.checkpoints * math.ceil(variant.steps / config.evaluation.every) * each
    passes = 1 if float32 else 2
    policy = _sum(answered(updated, passes), answered(evaluated, passes + 1))._replace(trained=updated * row)
    scored = Tokens(read=(updated + evaluated) * members * row)
    online = Stage("online", how_many.adapted, config.online.steps, policy, scored)
    best, curve, network = _inside(config, facts, how_many, problems, answered)
    return [*_first(config, facts), rewards, reference, offline, probe, *best, *curve, online, *network]


def _inside(
    config: Resolved, facts: Facts, how_many: Counts, problems: int, answered: Callable[[float, int], Tokens]
) -> tuple[list[Stage], list[Stage], list[Stage]]:
    """The stages best_of_n, offline_curve and plasticity, each empty where it is off."""
    evaluation, members, checkpoints = config.evaluation, config.rewards.members, how_many.checkpoints
    row = facts.prompt_tokens + facts.generated_tokens

    def sampled(name: str, answers: int, passes: int) -> list[Stage]:
        read = Tokens(read=answers * members * row)
        return [Stage(name, checkpoints, None, answered(answers, passes), read)] if answers else []

    best = sampled("best_of_n", checkpoints * evaluation.best_of * min(problems, evaluation.best_of_problems), 0)
    every, (steps, _) = config.offline.evaluate_every, _trained(config.offline, facts, checkpoints)
    points = 0 if every is None else 2 + (steps - 1) // every  # the base, those on the way, the checkpoint
    curve = sampled("offline_curve", checkpoints * points * problems * evaluation.answers, 1)
    policies, texts = checkpoints + how_many.adapted, min(evaluation.plasticity, facts.train_pairs // 8)
    length = facts.prompt_tokens + facts.response_tokens
    steps = evaluation.fresh_steps if texts > 1 else 0  # one response has none to be exchanged with
    passes = 1 + bool(steps)  # the fresh task is read once more at its end
    work = Tokens(passes * policies * texts * length, policies * (min(texts, GRADIENTS) + steps * texts) * length)
    return best, curve, [Stage("plasticity", policies, steps or None, work)] if texts else []


def _sum(*parts: Tokens) -> Tokens:
    return Tokens(*map(sum, zip(*parts, strict=True)))


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


def phases(config: Resolved, facts: Facts, problems: int, gpu: bool) -> list[Phase]:
    """Memory of a run, where an evaluation point has `problems` problems."""
    policy, reward = precision(config.base, gpu), precision(config.reward_base or config.base, gpu)
    bases = {f"policy: {part}": size for part, size in memory.weights(facts.policy, policy).items()}
    if config.reward_base is not None:
        bases["reward base"] = sum(memory.weights(facts.reward, reward).values())
    compute, how_many = config.compute, counts(config)
    adapter, reward_adapter = config.policy_adapter, config.reward_model_adapter
    one, one_reward = (
        trainable(model, numbers.rank) * FLOAT32
        for model, numbers in ((facts.policy, adapter), (facts.reward, reward_adapter))
    )
    piece = memory.Piece(compute.tokens_per_forward, compute.gradient_checkpointing)
    heap, runtime = (1.0, memory.RUNTIME) if gpu else (memory.HEAP, memory.RUNTIME_ON_CPU)

    offline_limit = config.offline.conditions_at_once or how_many.checkpoints
    ensembles_at_once = min(how_many.ensembles, config.rewards.seeds_at_once or how_many.ensembles)
    members_at_once = how_many.members // how_many.ensembles * ensembles_at_once
    training = []
    for name, model, kept, numbers, size, together in (
        ("rewards", facts.reward, reward, reward_adapter, one_reward, members_at_once),
        ("offline", facts.policy, policy, adapter, one, min(how_many.checkpoints, offline_limit)),
    ):
        trl = getattr(config, name).engine == "trl"
        parts = bases | _trained_bytes(size, 1 if trl else together, kept)
        parts["activations"] = heap * memory.activations(model, kept.width, piece, numbers.dropout > 0)
        if name == "offline":
            parts["logits"] = memory.logits(piece.tokens, model.vocabulary, gpu, whole=trl)
        if trl:
            parts["TRL's copy of the base"] = sum(memory.weights(model, kept).values())
        training.append(Phase(name, parts))

    # Online every condition also has its frozen reference, and the reward models are at hand.
    ensemble = {"reward adapters": how_many.ensembles * config.rewards.members * one_reward}
    references = {"references": how_many.at_once * one}
    answers = rows_at_once(config, problems)
    moving = _trained_bytes(one, how_many.at_once, policy)
    sampling = bases | moving | {"gradients": 0.0} | references | ensemble
    # On a GPU rows that wait enter a batch as others end, for which it has a block of columns more.
    entering = BLOCK if gpu and answers < _rows_wanted(config, problems) else 0
    sampling["KV cache"] = memory.key_value_cache(
        facts.policy, answers, facts.prompt_tokens + facts.generated_tokens + entering, policy.width
    )
    sampling["logits"] = answers * facts.policy.vocabulary * memory.LOGIT_DECODING
    update = bases | moving | references | ensemble
    update["activations"] = heap * memory.activations(facts.policy, policy.width, piece, dropout=False)
    update["logits"] = memory.logits(piece.tokens, facts.policy.vocabulary, gpu)
    after = []
    if config.evaluation.fresh_steps:  # copies of the policies at both ends are trained, and the policies stay
        policies = how_many.checkpoints + how_many.adapted
        together = min(policies, config.online.conditions_at_once or policies)
        fresh = bases | _trained_bytes(one, together, policy) | {"policies": together * one}
        after.append(Phase("plasticity", fresh | {name: update[name] for name in ("activations", "logits")}))
    return [
        Phase(phase.name, {**phase.parts, "libraries": runtime})
        for phase in (*training, Phase("sampling", sampling), Phase("online", update), *after)
    ]


def rows_at_once(config: Resolved, problems: int) -> int:
    """Responses sampled at the same time: of all conditions in a bank, as many as `compute.rows_per_decode` allows."""
    return min(config.compute.rows_per_decode, _rows_wanted(config, problems))


def _rows_wanted(config: Resolved, problems: int) -> int:
    """Responses of all conditions in a bank, in an online step or at an evaluation point."""
    variants = [config.variant(name) for name in config.variants]
    batches = [v.numbers(v.steps).batch_size * v.answers_per_prompt for v in variants]
    answers = problems * config.evaluation.answers
    return counts(config).at_once * max(answers, *batches)


def _trained_bytes(one: float, together: int, base: Precision) -> dict[str, float]:
    """Adapters with gradients and AdamW's two moments; the base multiplies with a copy in its own precision."""
    copy = 0 if base.width == FLOAT32 else together * one * base.width / FLOAT32
    return {"adapters": together * one + copy, "gradients": together * one, "optimiser": 2 * together * one}
