"""Proxy rewards of sampled responses, whichever tokenizer the reward base has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from betastar.models.generation import Sample
from betastar.models.rewards import RewardEnsemble, Scored
from betastar.models.sequences import Row
from betastar.workbench.context import Context, Policy


@dataclass(frozen=True)
class Scorer:
    """An ensemble ready to score responses of `policy`."""

    ctx: Context
    policy: Policy
    reward: Policy
    ensemble: RewardEnsemble

    def __call__(
        self, questions: Sequence[str], rows: Sequence[Row], samples: Sequence[Sample], embed: bool = False
    ) -> Scored:
        """Score responses. With one base for both, the sampled tokens are scored as they are; else their text is."""
        if self.reward.base is not self.policy.base:
            rows = self._retokenised(questions, samples)
        # Conditions that share noise often give the same response: each distinct one is scored once.
        place = {row: i for i, row in enumerate(dict.fromkeys((tuple(r.prompt), tuple(r.response)) for r in rows))}
        scored = self.ctx.scored(self.reward, self.ensemble, [Row(*r) for r in place], embed)
        at = torch.tensor([place[tuple(r.prompt), tuple(r.response)] for r in rows], device=scored.scores.device)
        return Scored(scored.scores[:, at], None if scored.embedding is None else scored.embedding[at])

    def _retokenised(self, questions: Sequence[str], samples: Sequence[Sample]) -> list[Row]:
        theirs = self.reward.chat
        responses = theirs.responses([self.policy.chat.text(sample.tokens) for sample in samples])
        # A response cut at the limit has no end token: the reward model should see that it was cut.
        cut = [row[:-1] or row if s.hit_limit else row for row, s in zip(responses, samples, strict=True)]
        return [Row(x, y) for x, y in zip(theirs.prompts(questions), cut, strict=True)]
