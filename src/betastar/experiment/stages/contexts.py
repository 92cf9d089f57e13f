"""Stage: whether every pair, and every problem with the longest answer to it, fits the contexts of both models. Asked
before anything is trained; the answer is kept, so that a finished run loads no model for it."""

from __future__ import annotations

from pathlib import Path

from betastar.disk import read_json, write_json
from betastar.errors import BetastarError
from betastar.experiment import readers
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import Artefact
from betastar.settings.config import Resolved

VERSION = 1
STAGE = "contexts"


def run(
    ctx: Context[Resolved], base: Artefact, reward_base: Artefact, preferences: Artefact, problems: Artefact
) -> None:
    """Raises BetastarError where something is too long."""
    limit = readers.response_limit(ctx, preferences)

    def build(out: Path, key: str) -> None:
        tasks = readers.problems(problems)
        lengths = read_json(preferences.folder / "statistics.json")["lengths"]
        longest = {}
        for name, model in {"model": ctx.policy(base), "reward model": ctx.reward_model(reward_base)}.items():
            longest[name] = _longest(name, model, tasks, lengths, limit)
        write_json(out / "longest.json", longest)

    settings = [VERSION, ctx.config.chat.model_dump(mode="json"), limit]
    made(ctx, STAGE, settings, [base.key, reward_base.key, preferences.key, problems.key], build)


def _longest(name: str, model: AdaptedModel, tasks: readers.Problems, lengths: dict[str, int], limit: int) -> int:
    """Tokens of the longest sequence. An answer is read by a reward model with another tokenizer than it was sampled
    with; that it has about as many tokens there is assumed."""
    room, longest = model.base.context, lengths["prompt"] + lengths["response"]
    if room is not None and longest > room:
        raise BetastarError(
            f"prompts of {lengths['prompt']} and responses of {lengths['response']} tokens are together more than the "
            f"{name}'s context of {room}",
            where="lengths",
            remedy="lower lengths.prompt or lengths.response",
        )
    for part, found in tasks._asdict().items():
        for problem, prompt in zip(found, model.chat.prompts([p.question for p in found]), strict=True):
            longest = max(longest, len(prompt) + limit)
            if room is not None and longest > room:
                raise BetastarError(
                    f"problem {problem.problem_id} has {len(prompt)} tokens; with {limit} for the answer it exceeds "
                    f"the {name}'s context of {room}",
                    where=f"task.{part}",
                    remedy="remove it or lower lengths.generated",
                )
    return longest
