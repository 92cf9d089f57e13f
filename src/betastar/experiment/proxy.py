"""The rewards that online variants are trained on, made of the ensemble's scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from betastar.experiment import readers
from betastar.experiment.context import Context
from betastar.experiment.evaluation import Scorer
from betastar.experiment.store import Artefact
from betastar.maths.proxies import aggregate, preference_as_reward, standardised, whitened
from betastar.models.sequences import Pair
from betastar.record.responses import Response
from betastar.settings.config import Resolved
from betastar.settings.phases import Proxy


class Scale(NamedTuple):
    """Mean and standard deviation `[K]` of members' scores on the responses of the validation pairs."""

    mean: Tensor
    std: Tensor


class Answers(NamedTuple):
    """Responses `[C][B]` to `questions [C·B]` in the order of conditions, and the members' `scores [K, C·B]`."""

    questions: Sequence[str]
    responses: Sequence[Sequence[Response]]
    scores: Tensor


@dataclass(frozen=True)
class Proxies:
    """What turns scores into the rewards of C conditions: each condition's `settings`, the `scorer` of the ensembles
    and that of their `merged` members, and the `scales [C]` of either, all None where no variant needs them."""

    settings: Sequence[Proxy]
    scorer: Scorer
    merged: Scorer | None
    scales: Sequence[Scale] | None
    merged_scales: Sequence[Scale] | None

    @classmethod
    def of(cls, ctx: Context[Resolved], settings: Sequence[Proxy], scorer: Scorer, preferences: Artefact) -> Proxies:
        """Ready to be called; reads the validation pairs if some variant standardises."""
        merged = None
        if any(s.aggregate == "merged" for s in settings):
            one = {id(r): r._replace(ensemble=r.ensemble.merged()) for r in scorer.rewards}
            merged = replace(scorer, rewards=[one[id(r)] for r in scorer.rewards])
        scales = merged_scales = None
        if any(s.members == "standardised" for s in settings):
            pairs = readers.token_pairs(scorer.reward_model.chat, preferences).validation
            scales = _scales(ctx, scorer, pairs)
            merged_scales = _scales(ctx, merged, pairs) if merged is not None else None
        return cls(settings, scorer, merged, scales, merged_scales)

    def rewards(self, answers: Answers, references: Answers | None) -> Tensor:
        """The reward `[C, B]` of each response; `references`: responses of the checkpoints of those conditions that
        compare with them (`comparing`) to the same prompts, M to each beside one another."""
        theirs: dict[int, Tensor] = {}
        if references is not None:
            theirs = dict(zip(self.comparing, self.at(self.comparing)._scored(references), strict=True))
        found = []
        for c, (s, reward) in enumerate(zip(self.settings, self._scored(answers), strict=True)):
            if s.shape == "clip":
                reward = reward.clamp(-s.bound, s.bound)
            elif s.shape == "whiten":
                reward = whitened(reward)
            elif s.shape == "par":
                some = theirs[c].view(len(reward), -1)[:, : s.references]
                reward = preference_as_reward(reward, some, s.slope)
            found.append(reward)
        return torch.stack(found)

    @property
    def comparing(self) -> list[int]:
        """The places of conditions that compare with responses of their checkpoint."""
        return [c for c, s in enumerate(self.settings) if s.shape == "par"]

    @property
    def most_references(self) -> int:
        """Responses of the checkpoint to each prompt that those compare with, at most."""
        return max((self.settings[c].references for c in self.comparing), default=0)

    @property
    def default(self) -> bool:
        """Whether all conditions are trained on the mean of the members' scores."""
        return all(s == Proxy() for s in self.settings)

    def at(self, places: Sequence[int]) -> Proxies:
        """Those of some conditions."""

        def some(values: Sequence[Any] | None) -> Any:
            return None if values is None else [values[c] for c in places]

        merged = self.merged and replace(self.merged, rewards=some(self.merged.rewards))
        scorer = replace(self.scorer, rewards=some(self.scorer.rewards))
        return Proxies(some(self.settings), scorer, merged, some(self.scales), some(self.merged_scales))

    def _scored(self, answers: Answers) -> Tensor:
        """Rewards `[C, B]` before they are shaped."""
        count = len(answers.responses[0])
        merged = dict(self._merged(answers, count))
        rows = []
        for c, s in enumerate(self.settings):
            scores = merged[c] if c in merged else answers.scores[:, c * count : (c + 1) * count]
            scales = self.merged_scales if c in merged else self.scales
            if s.members == "standardised":
                assert scales is not None
                scores = standardised(scores, *scales[c])
            tokens = torch.tensor([len(r.tokens) for r in answers.responses[c]], device=scores.device)
            rows.append(aggregate(s.aggregate, scores, s.weight) - s.length_penalty * tokens)
        return torch.stack(rows)

    def _merged(self, answers: Answers, count: int) -> Iterator[tuple[int, Tensor]]:
        """Scores `[1, B]` of the merged members, by the places of conditions that want them."""
        places = [c for c, s in enumerate(self.settings) if s.aggregate == "merged"]
        if not places or self.merged is None:
            return
        scorer = replace(self.merged, rewards=[self.merged.rewards[c] for c in places])
        questions = [q for c in places for q in answers.questions[c * count : (c + 1) * count]]
        scores = scorer(questions, [response for c in places for response in answers.responses[c]]).scores
        yield from zip(places, scores.split(count, dim=1), strict=True)


def cost(settings: Proxy, members: int) -> float:
    """Reward-model passes over a response, and over references where there are any, for each response trained on; the
    mean takes `members`, which are read for the log in any case."""
    each = members + (settings.aggregate == "merged")
    return each * (1 + (settings.references if settings.shape == "par" else 0))


def _scales(ctx: Context[Resolved], scorer: Scorer, pairs: Sequence[Pair]) -> list[Scale]:
    """The scale of each condition's ensemble, each ensemble read once."""
    rows = [pair.rows()[side] for side in (0, 1) for pair in pairs]
    found: dict[int, Scale] = {}
    for rewards in scorer.rewards:
        if id(rewards) not in found:
            scores = ctx.runtime.scored(scorer.reward_model, rewards.ensemble, rows).scores
            found[id(rewards)] = Scale(scores.mean(dim=1), scores.std(dim=1, correction=1))
    return [found[id(rewards)] for rewards in scorer.rewards]
