"""The offline objectives of a bank at work: built-in ones and users' own, each on the pairs of its conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from betastar.errors import BetastarError
from betastar.maths import objectives
from betastar.maths.methods import GROUP, OBJECTIVES, Objective, objective_named
from betastar.maths.objectives import Pairs, batch_beta
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.logprobs import grid_pair_logprobs
from betastar.models.sequences import Pair
from betastar.plugins import Plugin, kind_of, plainly
from betastar.settings.phases import Offline

Loss = Callable[..., Tensor]


def plugin(name: str) -> Plugin:
    """A user's own objective."""
    return Plugin(name, GROUP, "offline.objective")


def digests(settings: Offline) -> list[str]:
    """What decides a loss besides the settings: the code of a user's own."""
    return [] if settings.objective in OBJECTIVES else [plugin(settings.objective).digest()]


@cache
def loss_named(name: str) -> Loss:
    """The function of an objective: `loss(pairs, strength, **options)`, one value per pair. A user's own raises
    BetastarError where it fails or returns something else."""
    if name in OBJECTIVES:
        return getattr(objectives, OBJECTIVES[name].loss)
    function = plugin(name).load()

    def checked(pairs: Pairs, strength: Tensor, **options: float) -> Tensor:
        with plainly(name):
            loss = function(pairs, strength, **options)
        wanted = list(pairs.chosen.shape)
        if not isinstance(loss, Tensor) or list(loss.shape) != wanted:
            got = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else kind_of(loss)
            raise BetastarError(
                f"{name} returned {got}; return one loss per pair, a tensor of shape {wanted} like pairs.chosen."
            )
        if not loss.requires_grad:
            raise BetastarError(
                f"{name} returned losses without a gradient; compute them from pairs.chosen and pairs.rejected."
            )
        return loss

    return checked


class ConditionLoss(NamedTuple):
    """The objective of one condition with its strength."""

    settings: Offline
    strength: float

    @property
    def entry(self) -> Objective:
        return objective_named(self.settings.objective)

    @property
    def options(self) -> dict[str, float]:
        """All options, defaults included."""
        return {name: option.default for name, option in self.entry.options.items()} | dict(self.settings.options)


def pair_losses(of: Sequence[ConditionLoss], pairs: Pairs, strength: Tensor) -> Tensor:
    """The loss of each pair `[c, b]` of conditions `of`, each by its own objective at its `strength [c, 1]`."""
    groups: dict[Any, list[int]] = {}
    for i, condition in enumerate(of):
        groups.setdefault((condition.settings.objective, tuple(condition.options.items())), []).append(i)
    if len(groups) == 1:
        ((name, options),) = groups
        return loss_named(name)(pairs, strength, **dict(options))
    rows: list[Tensor] = [strength] * len(of)
    for (name, options), places in groups.items():
        at = torch.tensor(places, device=strength.device)
        mine = Pairs(*(field[at] for field in pairs))
        for i, row in zip(places, loss_named(name)(mine, strength[at], **dict(options)), strict=True):
            rows[i] = row
    return torch.stack(rows)


class BatchTerms:
    """What objectives need of a whole batch (a `training.WholeBatch`): KTO's z₀, and β-DPO's β.

    Both are read without dropout and before the step, from the policies `adapters` as they stand; `given [2, n]` are
    the base's log-probabilities of the training pairs.
    """

    def __init__(
        self,
        of: Sequence[ConditionLoss],
        bank: AdapterBank,
        adapters: Adapters,
        pad: int,
        given: Tensor,
    ):
        self.of, self.bank, self.adapters, self.pad, self.given = of, bank, adapters, pad, given
        self.strength = torch.tensor([c.strength for c in of], device=given.device)
        self.mean_gap = self.next_gap = torch.zeros(len(of), device=given.device)

    @staticmethod
    def wanted(of: Sequence[ConditionLoss]) -> bool:
        """Whether some condition needs any of it."""
        return any(c.entry.mismatched or c.settings.beta_schedule is not None for c in of)

    def read(self, grid: Sequence[Sequence[Pair]], which: Tensor, most_tokens: int) -> dict[str, Tensor]:
        mismatch, strength = torch.zeros_like(self.strength), self.strength.clone()
        if places := [c for c, condition in enumerate(self.of) if condition.entry.mismatched]:
            mismatch[places] = self._mismatch([grid[c] for c in places], places, most_tokens)
        self.next_gap = self.mean_gap.clone()
        if places := [c for c, condition in enumerate(self.of) if condition.settings.beta_schedule is not None]:
            logprobs = self._policy([grid[c] for c in places], places, most_tokens)
            chosen, rejected = logprobs - self.given[:, which[places].to(self.given.device)]
            for c, gap in zip(places, (chosen - rejected).mean(dim=1), strict=True):
                schedule = self.of[c].settings.beta_schedule
                assert schedule is not None
                self.next_gap[c] = schedule.momentum * self.mean_gap[c] + (1 - schedule.momentum) * gap
                strength[c] = batch_beta(strength[c], gap, self.next_gap[c], schedule.slope)
        return {"mismatch": mismatch, "strength": strength}

    def _mismatch(self, grid: Sequence[Sequence[Pair]], places: list[int], most_tokens: int) -> Tensor:
        """KTO's z₀ `[c]`: responses of the pair before, the first one's of the last, as TRL cycles them."""
        cycled = [
            [Pair(mine.prompt, other.chosen, other.rejected) for mine, other in zip(row, [row[-1], *row], strict=False)]
            for row in grid
        ]
        same = {tuple(map(id, row)): i for i, row in enumerate(grid)}  # conditions of a seed see the same pairs
        base = grid_pair_logprobs(self.bank, None, [cycled[i] for i in same.values()], self.pad, most_tokens)
        place = {key: i for i, key in enumerate(same)}
        base = base[:, [place[tuple(map(id, row))] for row in grid]]
        moved = self._policy(cycled, places, most_tokens) - base
        return moved.mean(dim=(0, 2)).clamp(min=0)

    def _policy(self, grid: Sequence[Sequence[Pair]], places: list[int], most_tokens: int) -> Tensor:
        mine = self.adapters if len(places) == len(self.of) else self.adapters[places]
        return grid_pair_logprobs(self.bank, mine, grid, self.pad, most_tokens)

    def step_taken(self) -> None:
        self.mean_gap = self.next_gap

    def state(self) -> dict[str, Tensor]:
        return {"mean_gap": self.mean_gap}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.mean_gap = self.next_gap = state["mean_gap"].to(self.strength.device)
