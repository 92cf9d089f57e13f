"""Stage: online adaptation of every checkpoint against the reward ensemble (arXiv:2606.30627 Eq. 8-10, Algorithm 1).

All conditions of all variants that share the settings which shape a batch train in one bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from betastar.disk import read_json, write_jsonl
from betastar.errors import BetastarError
from betastar.experiment import readers
from betastar.experiment.acting import Acting, start_at
from betastar.experiment.conditions import Condition, Inputs, OnlineCondition, Parts
from betastar.experiment.context import Context
from betastar.experiment.evaluation import Scorer, answer, evaluate, held_out, probe_prompts, rows_of, sampled_logprobs
from betastar.experiment.making import made_parts
from betastar.experiment.memory import named_divergence
from betastar.experiment.penalty import Penalty
from betastar.experiment.proxy import Answers, Proxies, cost
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import content_key
from betastar.experiment.surrogates import Surrogates
from betastar.maths.algorithms import advantages_of
from betastar.maths.distributions import ensemble_score
from betastar.maths.objectives import NOISE_FACTOR, online_loss
from betastar.models.bank import Adapters
from betastar.models.logprobs import response_logprobs
from betastar.models.optimise import StackedOptimiser, constant_schedule, optimiser_state, restore_optimiser
from betastar.models.peft_io import export_adapter
from betastar.models.sequences import RightPadded, pieces, right_pad
from betastar.randomness import numpy_generator, stream_key
from betastar.record.answers import answer_rows, write_answers
from betastar.record.files import ANSWERS
from betastar.settings.config import Resolved
from betastar.settings.phases import Online, Proxy
from betastar.settings.sections import Evaluation, Numbers

VERSION = 4
STAGE = "online"


def run(
    ctx: Context[Resolved], inputs: Inputs, checkpoints: Parts[Condition], probes: Parts[Condition]
) -> Parts[OnlineCondition]:
    config = ctx.config
    shared = [
        VERSION,
        config.evaluation.model_dump(exclude=Evaluation.BESIDE),
        config.lengths.generated,
        config.root_seed,
    ]
    _check_finite(probes)
    banks: dict[str, list[str]] = {}
    for name in config.variants:
        # Variants that differ only in the loss go through batches of the same shape and can share a bank.
        batch_settings = config.variant(name).model_dump(exclude={"kl", "conditions_at_once", *Online.LOSS})
        banks.setdefault(content_key(batch_settings), []).append(name)
    made: Parts[OnlineCondition] = Parts({}, {})

    def needs(condition: OnlineCondition) -> list[str]:
        return [*inputs.needs(checkpoints, condition.checkpoint), probes.keys_of[condition.checkpoint]]

    for batch_key, names in banks.items():
        settings = config.variant(names[0])
        mine = {
            OnlineCondition(name, c): content_key(
                STAGE,
                shared,
                inputs.keys(c.seed),
                batch_key,
                config.variant(name).kl.model_dump(),
                *filter(None, [config.variant(name).model_dump(include=Online.LOSS)]),
                checkpoint_key,
            )
            for name in names
            for c, checkpoint_key in checkpoints.keys_of.items()
        }
        build = partial(_adapt, ctx, inputs, checkpoints, probes, settings)
        made = made.joined(made_parts(ctx, STAGE, mine, build, settings.conditions_at_once, needs=needs))
    return made


def _check_finite(probes: Mapping[Condition, Path]) -> None:
    """Raises BetastarError where a checkpoint's policy computes no numbers: training on from it would only say so of
    the online phase."""
    lost = [str(c) for c, folder in probes.items() if "policy_entropy" not in read_json(folder / "point.json")["start"]]
    if lost:
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise BetastarError(
            f"the checkpoint of {lost[0]}{others} has diverged: its policy gives no finite probabilities",
            where="offline",
            remedy="lower offline.learning_rate, or take this β out of the grid",
        )


class _Bank(NamedTuple):
    """What adapting one bank of conditions needs at every step. `noise [C]`: of log-ratios, nats, as `probe` measured
    it at each checkpoint."""

    policy: AdaptedModel
    scorer: Scorer
    conditions: Sequence[OnlineCondition]
    variants: Sequence[Online]
    penalty: Penalty
    proxies: Proxies
    acting: Acting
    noise: Sequence[float]
    adapters: Adapters
    references: Adapters
    optimiser: StackedOptimiser
    questions: Sequence[str]
    prompts: Sequence[Sequence[int]]
    limit: int
    numbers: Numbers


def _adapt(
    ctx: Context[Resolved],
    inputs: Inputs,
    checkpoints: Parts[Condition],
    probes: Parts[Condition],
    settings: Online,
    conditions: Sequence[OnlineCondition],
    folders: Sequence[Path],
    key: str,
) -> None:
    _check_finite({c.checkpoint: probes[c.checkpoint] for c in conditions})  # where `run` had only declared them
    policy, reward_model = ctx.policy(inputs.base), ctx.reward_model(inputs.reward_base)
    seeds, problems = [c.checkpoint.seed for c in conditions], readers.problems(inputs.problems)
    references = readers.checkpoints(policy.bank, [checkpoints[c.checkpoint] for c in conditions])
    adapters = references.trainable()
    questions = [p.question for p in getattr(problems, settings.prompt_split)]
    numbers = settings.numbers(settings.steps)
    variants = [ctx.config.variant(c.variant) for c in conditions]
    noise = [readers.log_ratio_noise(probes[c.checkpoint]) for c in conditions]
    looks = -(-settings.steps // ctx.config.evaluation.every)
    starts = [
        None if v.act.method == "none" else start_at(probes[c.checkpoint], looks)
        for c, v in zip(conditions, variants, strict=True)
    ]
    scorer = Scorer(ctx, policy, reward_model, readers.rewards(ctx, inputs.ensembles, seeds))
    bank = _Bank(
        policy=policy,
        scorer=scorer,
        proxies=Proxies.of(ctx, [v.proxy for v in variants], scorer, inputs.preferences),
        conditions=conditions,
        variants=variants,
        penalty=Penalty([v.kl for v in variants], [c.checkpoint.beta for c in conditions], noise, ctx.runtime.device),
        acting=Acting([v.act for v in variants], starts, adapters),
        noise=noise,
        adapters=adapters,
        references=references,
        optimiser=StackedOptimiser(adapters.parameters(), numbers.learning_rate, numbers.weight_decay, numbers.clip),
        questions=questions,
        prompts=policy.chat.prompts(questions),
        limit=readers.response_limit(ctx, inputs.preferences),
        numbers=numbers,
    )
    chosen, asked = held_out(ctx, problems.test), probe_prompts(ctx, problems.test)
    _say_costs(ctx, variants)
    checkpoint = ctx.store.checkpoint(STAGE, key)
    start = 0
    if saved := checkpoint.load():
        start, state = saved
        restore_optimiser(bank.optimiser.adam, state)
        bank.penalty.restore(state)
        bank.acting.restore(state)
    note = ""
    for step in range(start + 1, settings.steps + 1):
        log = _step(ctx, bank, settings, step)
        checkpoint.append("training", log)
        if step % ctx.config.evaluation.every == 0 or step == settings.steps:
            frozen = bank.adapters.frozen()
            with ctx.store.measuring():
                points = evaluate(
                    ctx, policy, frozen, references, seeds, chosen, asked, bank.scorer, bank.limit, step=step
                )
            named = [(str(c), point) for c, point in zip(conditions, points, strict=True)]
            for c, (name, point) in enumerate(named):
                if told := bank.acting.look(c, point.answers):
                    ctx.reporter.say(f"{STAGE}: {name}, step {step}: {told}")
            checkpoint.append("metrics", [{"condition": c, **p.point.row()} for c, p in named])
            checkpoint.append(
                "samples", [{"condition": c, "step": step, **sample.row()} for c, p in named for sample in p.kept]
            )
            checkpoint.append("answers", [{"condition": c, "step": step, **p.answers} for c, p in named])
            proxy = sum(p.point.proxy for p in points) / len(points)
            true = sum(p.point.true_strict for p in points) / len(points)
            note = f"proxy {proxy:+.2f}, true {true:.2f}"
        ctx.reporter.progress(step, settings.steps, "steps", note)
        if step < settings.steps:
            checkpoint.save_if_due(step, partial(_state, bank))
    frozen = bank.adapters.frozen()
    logs = {name: _by_condition(checkpoint.log(name)) for name in ("metrics", "samples", "training", "answers")}
    _say_unpenalised(ctx, bank, logs["training"])
    for c, (condition, folder) in enumerate(zip(conditions, folders, strict=True)):
        export_adapter(folder / "adapter", frozen, c, policy.base.name, fan_in_fan_out=policy.bank.conv1d)
        for name in ("metrics", "samples", "training"):
            write_jsonl(folder / f"{name}.jsonl", logs[name].get(str(condition), []))
        beta, seed = condition.checkpoint.beta, condition.checkpoint.seed
        table = answer_rows(logs["answers"][str(condition)], beta=beta, seed=seed, variant=condition.variant)
        write_answers(folder / ANSWERS, table)


def _state(bank: _Bank) -> dict[str, Tensor]:
    """What the steps to come depend on, for a checkpoint."""
    return {**optimiser_state(bank.optimiser.adam), **bank.penalty.state(), **bank.acting.state()}


def _by_condition(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a log without their condition, by condition."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["condition"], []).append({k: v for k, v in row.items() if k != "condition"})
    return found


def _step(ctx: Context[Resolved], bank: _Bank, settings: Online, step: int) -> list[dict[str, Any]]:
    """Sample, score, and take one gradient step on Eq. 8, for all conditions at once; returns a log row each."""
    seed = ctx.config.root_seed
    chosen = {
        c.checkpoint.seed: _prompts_of_step(ctx, bank, settings, c.checkpoint.seed, step) for c in bank.conditions
    }
    indices = [chosen[c.checkpoint.seed] for c in bank.conditions]
    keys = [
        [
            stream_key(seed, "online", c.checkpoint.seed, step, place, *([answer] if answer else []))
            for place in range(bank.numbers.batch_size)
            for answer in range(settings.answers_per_prompt)
        ]
        for c in bank.conditions
    ]
    indices = [[i for i in row for _ in range(settings.answers_per_prompt)] for row in indices]
    prompts = [[bank.prompts[i] for i in row] for row in indices]
    responses = answer(ctx, bank.policy, bank.adapters, prompts, keys, bank.limit, settings.temperature)
    questions = [bank.questions[i] for row in indices for i in row]
    scored = bank.scorer(questions, [response for part in responses for response in part])
    grid = rows_of(responses)
    proxy = ensemble_score(scored.scores)
    mean = proxy.mean.view(len(grid), -1)
    reward = mean
    if not bank.proxies.default:
        others = _references(ctx, bank, settings, step, indices)
        reward = bank.proxies.rewards(Answers(questions, responses, scored.scores), others)
    disagreement = proxy.disagreement.view(len(grid), -1)

    policy, temperature = bank.policy, settings.temperature
    reference = ctx.runtime.row_logprobs(policy, bank.references, grid, temperature)
    # κ needs the whole batch's log-ratios before the first piece's gradient.
    log_ratio = sampled_logprobs(ctx, policy, bank.adapters, responses, temperature) - reference
    kappa = bank.penalty.coefficients(log_ratio, disagreement.mean(dim=1)) * bank.acting.factor
    advantages = _advantages(bank, reward, log_ratio, kappa)
    if _is_eq8(bank):
        losses = _Eq8(bank, reference, advantages, kappa, temperature)
    else:
        measured = reference, advantages, kappa
        losses = Surrogates.read(ctx, policy, bank.adapters, bank.references, bank.variants, grid, measured, bank.limit)

    def gradients(most_tokens: int) -> None:
        bank.optimiser.adam.zero_grad(set_to_none=True)
        for part, places, rows in pieces(grid, most_tokens):
            with policy.bank.use(bank.adapters[part]):
                loss = losses(part, places.to(ctx.runtime.device), right_pad(rows, policy.pad, ctx.runtime.device))
            loss.backward()

    longest = max(row.length for part in grid for row in part)

    def update() -> Tensor:
        ctx.runtime.room.for_tokens(longest, gradients)
        with named_divergence(STAGE, step, settings.steps, list(map(str, bank.conditions))):
            return bank.optimiser.step(constant_schedule(step - 1, bank.numbers.warmup_steps))

    norms = [update() for _ in range(settings.epochs_per_batch)][-1]
    bank.acting.hold()
    bank.penalty.step_taken(log_ratio)
    return [
        {
            "condition": str(condition),
            "step": step,
            "proxy": mean[c].mean().item(),
            "proxy_std": mean[c].std(correction=0).item(),
            **({} if bank.proxies.default else {"reward": reward[c].mean().item()}),
            "disagreement": disagreement[c].mean().item(),
            "kappa": kappa[c].item(),
            "mean_abs_log_ratio": log_ratio[c].abs().mean().item(),
            "gradient_norm": norms[c].item(),
            **({"stopped": bool(bank.acting.stopped[c])} if bank.acting.starts[c] is not None else {}),
            "response_tokens": sum(len(r.tokens) for r in responses[c]) / len(responses[c]),
        }
        for c, condition in enumerate(bank.conditions)
    ]


def _references(
    ctx: Context[Resolved], bank: _Bank, settings: Online, step: int, indices: Sequence[Sequence[int]]
) -> Answers | None:
    """Responses to the prompts `indices [C][B]` of a step by the checkpoints of conditions that compare with them, as
    many to each as some variant wants."""
    count, places = bank.proxies.most_references, bank.proxies.comparing
    if not places:
        return None
    repeated = [[i for i in indices[c] for _ in range(count)] for c in places]
    keys = [
        [
            stream_key(ctx.config.root_seed, "online", "reference", bank.conditions[c].checkpoint.seed, step, place)
            for place in range(len(row))
        ]
        for c, row in zip(places, repeated, strict=True)
    ]
    prompts = [[bank.prompts[i] for i in row] for row in repeated]
    responses = answer(ctx, bank.policy, bank.references[places], prompts, keys, bank.limit, settings.temperature)
    questions = [bank.questions[i] for row in repeated for i in row]
    scorer = bank.proxies.at(places).scorer
    return Answers(questions, responses, scorer(questions, [r for part in responses for r in part]).scores)


def _say_costs(ctx: Context[Resolved], variants: Sequence[Online]) -> None:
    """What a variant's reward costs beyond the ensemble's mean."""
    members = ctx.config.rewards.members
    for v in dict.fromkeys(v for v in variants if v.proxy != Proxy()):
        more = cost(v.proxy, members) / members
        sampled = f", {v.proxy.references} more responses sampled to each prompt" if v.proxy.shape == "par" else ""
        ctx.reporter.say(
            f"{STAGE}: aggregate {v.proxy.aggregate}, shape {v.proxy.shape}: scoring takes {more:.3g} times the passes "
            f"of the ensemble's mean{sampled}"
        )


def _prompts_of_step(ctx: Context[Resolved], bank: _Bank, settings: Online, seed: int, step: int) -> list[int]:
    """Indices of the problems of one step: the next of a reshuffled pass over all, the same for every β of a seed."""
    n, size = len(bank.prompts), bank.numbers.batch_size
    places = range((step - 1) * size, step * size)
    passes = {
        p: numpy_generator(ctx.config.root_seed, "online", "order", seed, p).permutation(n)
        for p in {i // n for i in places}
    }
    return [int(passes[i // n][i % n]) for i in places]


def _advantages(bank: _Bank, reward: Tensor, log_ratio: Tensor, kappa: Tensor) -> Tensor:
    """The advantages `[C, B]` of each condition by its variant, of rewards with the penalty in them if it belongs
    there."""
    found = []
    for c, variant in enumerate(bank.variants):
        mine = reward[c] - kappa[c] * log_ratio[c] if variant.kl.place == "reward" else reward[c]
        found.append(advantages_of(variant.advantage, mine[None], variant.answers_per_prompt)[0])
    return torch.stack(found)


def _is_eq8(bank: _Bank) -> bool:
    """Whether all conditions take Eq. 8's loss of whole responses, with one update per batch."""
    return all(
        v.kl.place == "loss_square"
        and v.epochs_per_batch == 1
        and not v.model_dump(include=Online.LOSS - Online.OF_RESPONSES)
        for v in bank.variants
    )


class _Eq8(NamedTuple):
    """The loss of a piece by Eq. 8."""

    bank: _Bank
    reference: Tensor
    advantages: Tensor
    kappa: Tensor
    temperature: float

    def __call__(self, part: slice, at: Tensor, batch: RightPadded) -> Tensor:
        logprob = response_logprobs(self.bank.policy.bank.model, batch, self.temperature)
        fixed, weight = (value[part].gather(1, at) for value in (self.reference, self.advantages))
        loss = online_loss(logprob.view(at.shape), fixed, weight, self.kappa[part])
        # The piece holds a share of each condition's batch, over which Eq. 8 takes its means.
        return loss.sum() * at.shape[1] / self.advantages.shape[1]


def _say_unpenalised(ctx: Context[Resolved], bank: _Bank, log: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """At how many steps Eq. 10's penalty was left out because the log-ratios were rounding noise; the first step of
    every condition is one, and not worth a line."""
    coupled = [str(c) for c, v in zip(bank.conditions, bank.variants, strict=True) if v.kl.coupling == "paper"]
    kappas = [(row["step"], row["kappa"]) for name in coupled for row in log[name]]
    without = sum(kappa == 0 and step > 1 for step, kappa in kappas)
    if without:
        ctx.reporter.say(
            f"{STAGE}: Eq. 10 applied no penalty at {without} of {len(kappas)} updates, because log-ratios were within "
            f"{NOISE_FACTOR} times their rounding noise (about {max(bank.noise):.2g} nats)"
        )
