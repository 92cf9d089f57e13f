"""Stage: how far from the base each strength tried leads, where a grid names distances (`grid.method: target_kl`).

The strengths tried are trained in full with the first seed, all in one bank, and answer the evaluation problems once.
Which strengths have the distances wanted is interpolated between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from betastar.disk import write_json
from betastar.errors import BetastarError
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Parts
from betastar.experiment.context import Context
from betastar.experiment.distances import FILE, reached
from betastar.experiment.evaluation import answer, base_logprobs, evaluation_keys, held_out, sampled_logprobs
from betastar.experiment.making import made_parts
from betastar.experiment.store import Artefact, content_key
from betastar.maths.answers import divergence
from betastar.maths.grid import geometric_grid, strengths_at
from betastar.settings.config import Resolved

VERSION = 1
STAGE = "distances"


def tried(config: Resolved) -> list[Condition]:
    """The conditions that are trained in search of the distances, if any are wanted: those of the first seed."""
    found = []
    for name in config.methods:
        grid = config.method(name).grid
        if grid.method == "target_kl":
            low, high, n = grid.low, grid.high, grid.n
            assert low is not None and high is not None and n is not None  # noqa: PT018 (the configuration sees to it)
            named = not config.default_methods
            found += [Condition(float(f"{s:.6g}"), config.seeds[0], name, named) for s in geometric_grid(low, high, n)]
    return found


def run(
    ctx: Context[Resolved], base: Artefact, preferences: Artefact, problems: Artefact, checkpoints: Parts[Condition]
) -> Parts[Condition]:
    """A folder with KL(π‖π⁽⁰⁾) on the evaluation problems for each checkpoint of the search."""
    if not checkpoints:
        return Parts({}, {})
    evaluation = ctx.config.evaluation
    settings = [
        VERSION,
        evaluation.model_dump(include={"problems", "answers"}),
        ctx.config.lengths.generated,
        ctx.config.root_seed,
    ]
    sources = [base.key, preferences.key, problems.key]
    keys = {c: content_key(STAGE, settings, sources, key) for c, key in checkpoints.keys_of.items()}

    def build(todo: Sequence[Condition], folders: Sequence[Path], key: str) -> None:
        policy = ctx.policy(base)
        adapters = readers.checkpoints(policy.bank, [checkpoints[c] for c in todo])
        asked = held_out(ctx, readers.problems(problems).test)
        prompts = policy.chat.prompts([p.question for p in asked]) * evaluation.answers
        draws = [evaluation_keys(ctx, c.seed, 0, asked) for c in todo]
        # At temperature 1, whatever that of evaluation: the distance is that of the policy that was trained.
        grid = answer(
            ctx, policy, adapters, [prompts] * len(todo), draws, readers.response_limit(ctx, preferences), 1.0
        )
        log_ratio = (sampled_logprobs(ctx, policy, adapters, grid) - base_logprobs(ctx, policy, grid)).cpu()
        for row, folder in zip(log_ratio, folders, strict=True):
            found = divergence(row.unflatten(0, (evaluation.answers, -1)).T.numpy())
            write_json(folder / FILE, {"kl": found.k1, "error": found.error, "n": len(row)})

    return made_parts(ctx, STAGE, keys, build, ctx.config.online.conditions_at_once)


def strengths(config: Resolved, folders: Mapping[Condition, Path]) -> dict[str, list[float]]:
    """By method that wants distances, the strengths that have them, ascending. Raises BetastarError where a distance
    lies outside of those that were reached."""
    result = {}
    for name, points in reached(folders).items():
        try:
            found = strengths_at(
                config.method(name).grid.values, [p["strength"] for p in points], [p["kl"] for p in points]
            )
        except BetastarError as error:
            where = "grid" if "grid" not in config.methods[name] else f"methods.{name}.grid"
            raise BetastarError(error.what, where=where, remedy=error.remedy) from None
        result[name] = sorted({float(f"{strength:.6g}") for strength in found})
    return result
