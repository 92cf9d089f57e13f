"""Stage: online adaptation of every checkpoint against the reward ensemble (arXiv:2606.30627 Eq. 8-10, Algorithm 1).

All conditions of all variants that share the settings which shape a batch train in one bank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from betastar.disk import write_jsonl
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Inputs, OnlineCondition, Parts
from betastar.experiment.context import Context
from betastar.experiment.evaluation import Scorer, answer, evaluate, held_out, probe_prompts, rows_of, sampled_logprobs
from betastar.experiment.making import made_parts
from betastar.experiment.memory import named_divergence
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import content_key
from betastar.maths.distributions import ensemble_score
from betastar.maths.objectives import NOISE_FACTOR, advantage, kl_coefficient, online_loss
from betastar.models.bank import Adapters
from betastar.models.logprobs import response_logprobs
from betastar.models.optimise import StackedOptimiser, constant_schedule, optimiser_state, restore_optimiser
from betastar.models.peft_io import export_adapter
from betastar.models.sequences import pieces, right_pad
from betastar.randomness import numpy_generator, stream_key
from betastar.record.answers import answer_rows, write_answers
from betastar.record.files import ANSWERS
from betastar.settings.config import Resolved
from betastar.settings.sections import Evaluation, Kl, Numbers, Online

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
    banks: dict[str, list[str]] = {}
    for name in config.variants:
        # Variants that differ only in the penalty go through the same batches and can share a bank.
        batch_settings = config.variant(name).model_dump(exclude={"kl", "conditions_at_once"})
        banks.setdefault(content_key(batch_settings), []).append(name)
    folders: dict[OnlineCondition, Path] = {}
    keys: dict[OnlineCondition, str] = {}
    find: Callable[[str], Path] | None = None

    def needs(condition: OnlineCondition) -> list[str]:
        return [*inputs.needs(checkpoints, condition.checkpoint), probes.keys_of[condition.checkpoint]]

    for batch_key, names in banks.items():
        settings = config.variant(names[0])
        mine = {
            OnlineCondition(name, c): content_key(
                STAGE, shared, inputs.keys(c.seed), batch_key, config.variant(name).kl.model_dump(), checkpoint_key
            )
            for name in names
            for c, checkpoint_key in checkpoints.keys_of.items()
        }
        build = partial(_adapt, ctx, inputs, checkpoints, probes, settings)
        made = made_parts(ctx, STAGE, mine, build, settings.conditions_at_once, needs=needs)
        folders, keys, find = folders | made, keys | mine, made.find
    return Parts(folders, keys, find)


class _Bank(NamedTuple):
    """What adapting one bank of conditions needs at every step. `noise [C]`: of log-ratios, nats, as `probe` measured
    it at each checkpoint."""

    policy: AdaptedModel
    scorer: Scorer
    conditions: Sequence[OnlineCondition]
    penalties: Sequence[Kl]
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
    policy, reward_model = ctx.policy(inputs.base), ctx.reward_model(inputs.reward_base)
    seeds, problems = [c.checkpoint.seed for c in conditions], readers.problems(inputs.problems)
    references = readers.checkpoints(policy.bank, [checkpoints[c.checkpoint] for c in conditions])
    adapters = references.trainable()
    questions = [p.question for p in getattr(problems, settings.prompt_split)]
    numbers = settings.numbers(settings.steps)
    bank = _Bank(
        policy=policy,
        scorer=Scorer(ctx, policy, reward_model, readers.rewards(ctx, inputs.ensembles, seeds)),
        conditions=conditions,
        penalties=[ctx.config.variant(c.variant).kl for c in conditions],
        noise=[readers.log_ratio_noise(probes[c.checkpoint]) for c in conditions],
        adapters=adapters,
        references=references,
        optimiser=StackedOptimiser(adapters.parameters(), numbers.learning_rate, numbers.weight_decay, numbers.clip),
        questions=questions,
        prompts=policy.chat.prompts(questions),
        limit=readers.response_limit(ctx, inputs.preferences),
        numbers=numbers,
    )
    chosen, asked = held_out(ctx, problems.test), probe_prompts(ctx, problems.test)
    checkpoint = ctx.store.checkpoint(STAGE, key)
    start = 0
    if saved := checkpoint.load():
        start, state = saved
        restore_optimiser(bank.optimiser.adam, state)
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
            checkpoint.save_if_due(step, lambda: optimiser_state(bank.optimiser.adam))
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
        [stream_key(seed, "online", c.checkpoint.seed, step, place) for place in range(bank.numbers.batch_size)]
        for c in bank.conditions
    ]
    prompts = [[bank.prompts[i] for i in row] for row in indices]
    responses = answer(ctx, bank.policy, bank.adapters, prompts, keys, bank.limit, settings.temperature)
    questions = [bank.questions[i] for row in indices for i in row]
    scored = bank.scorer(questions, [response for part in responses for response in part])
    grid = rows_of(responses)
    proxy = ensemble_score(scored.scores)
    reward = proxy.mean.view(len(grid), -1)
    advantages = advantage(reward)

    policy, device = bank.policy, ctx.runtime.device
    temperature = settings.temperature
    reference = ctx.runtime.row_logprobs(policy, bank.references, grid, temperature)
    # κ needs the whole batch's log-ratios before the first piece's gradient.
    log_ratio = sampled_logprobs(ctx, policy, bank.adapters, responses, temperature) - reference
    kappa = torch.stack([_kappa(bank, c, d) for c, d in enumerate(log_ratio)])

    def gradients(most_tokens: int) -> None:
        bank.optimiser.adam.zero_grad(set_to_none=True)
        for part, places, rows in pieces(grid, most_tokens):
            at = places.to(device)
            with policy.bank.use(bank.adapters[part]):
                batch = right_pad(rows, policy.pad, device)
                logprob = response_logprobs(policy.bank.model, batch, temperature)
            fixed, weight = (value[part].gather(1, at) for value in (reference, advantages))
            loss = online_loss(logprob.view(at.shape), fixed, weight, kappa[part])
            # The piece holds a share of each condition's batch, over which Eq. 8 takes its means.
            (loss.sum() * at.shape[1] / bank.numbers.batch_size).backward()

    ctx.runtime.room.for_tokens(max(row.length for part in grid for row in part), gradients)
    with named_divergence(STAGE, step, settings.steps, list(map(str, bank.conditions))):
        norms = bank.optimiser.step(constant_schedule(step - 1, bank.numbers.warmup_steps))
    disagreement = proxy.disagreement.view(len(grid), -1)
    return [
        {
            "condition": str(condition),
            "step": step,
            "proxy": reward[c].mean().item(),
            "proxy_std": reward[c].std(correction=0).item(),
            "disagreement": disagreement[c].mean().item(),
            "kappa": kappa[c].item(),
            "mean_abs_log_ratio": log_ratio[c].abs().mean().item(),
            "gradient_norm": norms[c].item(),
            "response_tokens": sum(len(r.tokens) for r in responses[c]) / bank.numbers.batch_size,
        }
        for c, condition in enumerate(bank.conditions)
    ]


def _prompts_of_step(ctx: Context[Resolved], bank: _Bank, settings: Online, seed: int, step: int) -> list[int]:
    """Indices of the problems of one step: the next of a reshuffled pass over all, the same for every β of a seed."""
    n, size = len(bank.prompts), bank.numbers.batch_size
    places = range((step - 1) * size, step * size)
    passes = {
        p: numpy_generator(ctx.config.root_seed, "online", "order", seed, p).permutation(n)
        for p in {i // n for i in places}
    }
    return [int(passes[i // n][i % n]) for i in places]


def _kappa(bank: _Bank, c: int, log_ratio: Tensor) -> Tensor:
    """κ of the condition at place c, from its log-ratios `[B]`."""
    kl = bank.penalties[c]
    if kl.coupling == "fixed":
        return torch.tensor(kl.kappa, device=log_ratio.device)
    beta = torch.tensor(bank.conditions[c].checkpoint.beta, device=log_ratio.device)
    return kl_coefficient(log_ratio, beta, kl.percentile, bank.noise[c])


def _say_unpenalised(ctx: Context[Resolved], bank: _Bank, log: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """At how many steps Eq. 10's penalty was left out because the log-ratios were rounding noise; the first step of
    every condition is one, and not worth a line."""
    coupled = [str(c) for c, kl in zip(bank.conditions, bank.penalties, strict=True) if kl.coupling == "paper"]
    kappas = [(row["step"], row["kappa"]) for name in coupled for row in log[name]]
    without = sum(kappa == 0 and step > 1 for step, kappa in kappas)
    if without:
        ctx.reporter.say(
            f"{STAGE}: Eq. 10 applied no penalty at {without} of {len(kappas)} updates, because log-ratios were within "
            f"{NOISE_FACTOR} times their rounding noise (about {max(bank.noise):.2g} nats)"
        )
