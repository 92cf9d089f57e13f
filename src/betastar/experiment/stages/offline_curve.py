"""Stage: the offline phase as a curve of its own. The base, the adapters kept on the way (`offline.evaluate_every`) and
the checkpoint answer the evaluation problems; both rewards, entropy and KL from the base."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from betastar.data.tasks import Problem
from betastar.disk import read_json, write_jsonl
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Inputs, Parts
from betastar.experiment.context import Context
from betastar.experiment.evaluation import (
    Scorer,
    base_logprobs,
    evaluation_keys,
    held_out,
    probe_prompts,
    sampled_logprobs,
)
from betastar.experiment.graded import graded, scorer_for
from betastar.experiment.making import made_parts
from betastar.experiment.memory import READ_REMEDY
from betastar.experiment.store import content_key
from betastar.maths.answers import divergence
from betastar.models.bank import Adapters
from betastar.models.logprobs import prompt_entropy
from betastar.settings.config import Resolved

VERSION = 1
STAGE = "offline_curve"
FILE = "curve.jsonl"


def run(ctx: Context[Resolved], inputs: Inputs, checkpoints: Parts[Condition]) -> Parts[Condition]:
    """A folder with `curve.jsonl` for each checkpoint; none where `offline.evaluate_every` is empty."""
    if ctx.config.offline.evaluate_every is None:
        ctx.reporter.say(f"{STAGE}: off (offline.evaluate_every)")
        return Parts({}, {})
    settings = [
        VERSION,
        ctx.config.evaluation.model_dump(include={"problems", "temperature"}),
        ctx.config.lengths.generated,
        ctx.config.root_seed,
    ]
    keys = {c: content_key(STAGE, settings, inputs.keys(c.seed), key) for c, key in checkpoints.keys_of.items()}

    def build(todo: Sequence[Condition], folders: Sequence[Path], key: str) -> None:
        seeds = [c.seed for c in todo]
        scorer = scorer_for(ctx, inputs, seeds)
        bank = scorer.policy.bank
        everything = readers.problems(inputs.problems).test
        chosen, asked = held_out(ctx, everything), probe_prompts(ctx, everything)
        limit = readers.response_limit(ctx, inputs.preferences)
        last = read_json(checkpoints[todo[0]] / "metrics.json")["steps"]
        kept = sorted(int(path.name) for path in (checkpoints[todo[0]] / readers.ON_THE_WAY).glob("*"))
        curves: list[list[dict[str, Any]]] = [[] for _ in todo]
        steps = [0, *(step for step in kept if step < last), last]
        for done, step in enumerate(steps):
            ctx.reporter.progress(done, len(steps), "points")
            if step == 0:  # a fresh adapter is the bare base
                adapters = bank.create([0] * len(todo))
            else:
                way = Path(readers.ON_THE_WAY) / str(step) if step < last else Path()
                adapters = readers.checkpoints(bank, [checkpoints[c] / way for c in todo])
            rows = _points(ctx, scorer, adapters, seeds, chosen, asked, limit)
            for curve, row in zip(curves, rows, strict=True):
                curve.append({"step": step, **row})
        ctx.reporter.progress(len(steps), len(steps), "points")
        for curve, folder in zip(curves, folders, strict=True):
            write_jsonl(folder / FILE, curve)

    needs = partial(inputs.needs, checkpoints)
    made: Parts[Condition] = Parts({}, {})
    for method in dict.fromkeys(c.method for c in keys):  # those of a method have the same steps
        mine = {c: key for c, key in keys.items() if c.method == method}
        made = made.joined(made_parts(ctx, STAGE, mine, build, ctx.config.online.conditions_at_once, needs=needs))
    return made


def _points(
    ctx: Context[Resolved],
    scorer: Scorer,
    adapters: Adapters,
    seeds: Sequence[int],
    problems: Sequence[Problem],
    asked: Sequence[Problem],
    limit: int,
) -> list[dict[str, float]]:
    """A row for each condition. The noise is that of the probe, so the last point repeats its answers."""
    policy, room, count = scorer.policy, ctx.runtime.room, ctx.config.evaluation.answers
    draws = [evaluation_keys(ctx, seed, 0, problems) for seed in seeds]
    answers = graded(ctx, scorer, adapters, list(problems) * count, draws, limit)
    log_ratio = sampled_logprobs(ctx, policy, adapters, answers.responses)
    log_ratio = (log_ratio - base_logprobs(ctx, policy, answers.responses)).cpu()
    kl = [divergence(part.unflatten(0, (count, -1)).T.numpy()) for part in log_ratio]
    n = len(problems) * count
    prompts = policy.chat.prompts([p.question for p in asked])
    entropy = room.for_tokens(
        max(map(len, prompts)),
        lambda most: prompt_entropy(policy.bank, adapters, prompts, policy.pad, most),
        READ_REMEDY,
    )
    return [
        {
            "n": n,
            "proxy": answers.proxy[c].mean().item(),
            "true_strict": answers.strict[c].mean().item(),
            "true_lenient": answers.lenient[c].mean().item(),
            "policy_entropy": entropy[c].item(),
            "kl_base": kl[c].k1,
            "kl_base_error": kl[c].error,
            "response_tokens": sum(len(r.tokens) for r in answers.responses[c]) / n,
        }
        for c in range(len(seeds))
    ]
