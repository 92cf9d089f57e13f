"""The training loop over preference pairs that the reward and offline stages share, in the bank or with TRL."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from betastar.experiment.context import Context
from betastar.experiment.memory import Room, named_divergence
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import Checkpoint
from betastar.models.bank import Adapters, Dropout
from betastar.models.optimise import StackedOptimiser, linear_schedule, optimiser_state, restore_optimiser
from betastar.models.sequences import Pair, pieces
from betastar.models.trl.engine import Job
from betastar.randomness import stream_key
from betastar.settings.config import Resolved
from betastar.settings.sections import Training


class Part(NamedTuple):
    """What one forward and backward pass is about: pairs `items` grouped by condition, of the slice `conditions`, with
    indices `which [c, b]` into the training pairs, and the dropout of the pass."""

    conditions: slice
    items: list[Pair]
    which: Tensor
    dropout: Dropout | None


def batches(rng: np.random.Generator, n: int, settings: Training, bootstrap: bool = False) -> np.ndarray:
    """Indices of the pairs in each step, `[steps, batch]`: reshuffled passes over n pairs, or over one bootstrap
    resample of them (n draws with replacement)."""
    size = min(settings.numbers(1).batch_size, n)
    steps = max(1, math.ceil(settings.epochs * n / size))
    pool = rng.integers(n, size=n) if bootstrap else np.arange(n)
    passes = math.ceil(steps * size / n)
    return np.concatenate([rng.permutation(pool) for _ in range(passes)])[: steps * size].reshape(steps, size)


class PairTrainer:
    """Stacked `weights` of C conditions trained in place; condition c, called `names[c]` in errors of the `stage`, sees
    pairs `order[c] [steps, batch]`.

    `losses(part)` gives the loss of each pair `[c, b]`. `streams [C]` key the dropout `p` of each condition.
    """

    def __init__(
        self,
        stage: str,
        names: Sequence[str],
        settings: Training,
        weights: Sequence[Tensor],
        pairs: Sequence[Pair],
        order: Sequence[np.ndarray],
        losses: Callable[[Part], Tensor],
        room: Room,
        dropout: float = 0.0,
        streams: Sequence[int] = (),
    ):
        self.stage, self.names = stage, names
        self.steps, self.batch = order[0].shape
        numbers = settings.numbers(self.steps)
        self.optimiser = StackedOptimiser(weights, numbers.learning_rate, numbers.weight_decay, numbers.clip)
        self.warm_up = numbers.warmup_steps
        self.pairs, self.order, self.losses, self.room = pairs, order, losses, room
        self.p, self.streams = dropout, streams

    def step(self, step: int) -> tuple[list[float], list[float]]:
        """One optimiser step (from 0); returns the loss and the gradient norm before clipping of each condition."""
        which = torch.tensor(np.stack([rows[step] for rows in self.order]))
        grid = [[self.pairs[i] for i in row] for row in which.tolist()]
        longest = max(pair.length for row in grid for pair in row)
        total = self.room.for_tokens(longest, lambda most: self._gradients(step, which, grid, most))
        with named_divergence(self.stage, step + 1, self.steps, self.names):
            norms = self.optimiser.step(linear_schedule(step, self.steps, self.warm_up))
        return total.tolist(), norms.tolist()

    def _gradients(self, step: int, which: Tensor, grid: list[list[Pair]], most_tokens: int) -> Tensor:
        """Gradients of the batch, piece by piece; returns each condition's mean loss."""
        self.optimiser.adam.zero_grad(set_to_none=True)
        total = torch.zeros(len(grid), device=self.optimiser.weights[0].device)
        for part, places, items in pieces(grid, most_tokens):
            chosen = which[part].gather(1, places)
            # A condition's loss is its batch mean; the sum over conditions keeps their gradients apart.
            loss = self.losses(Part(part, items, chosen, self._dropout(step, part, chosen, items))) / self.batch
            loss.sum().backward()
            total[part] += loss.detach().sum(dim=1)
        return total

    def _dropout(self, step: int, part: slice, which: Tensor, items: Sequence[Pair]) -> Dropout | None:
        if self.p == 0:
            return None
        streams = self.streams[part]
        keys = [stream_key(s, "dropout", step, i) for s, row in zip(streams, which.tolist(), strict=True) for i in row]
        return Dropout(self.p, keys, [pair.length for pair in items])


def train(
    trainer: PairTrainer, checkpoint: Checkpoint, progress: Callable[[int, int, str, str], None]
) -> list[list[dict[str, float]]]:
    """Run all steps, from the checkpoint if there is one; returns a row per step for each condition."""
    start = 0
    if saved := checkpoint.load():
        start, state = saved
        restore_optimiser(trainer.optimiser.adam, state)
    for step in range(start, trainer.steps):
        losses, norms = trainer.step(step)
        checkpoint.append("training", [{"step": step + 1, "loss": losses, "norm": norms}])
        progress(step + 1, trainer.steps, "steps", f"loss {sum(losses) / len(losses):.3f}")
        if step + 1 < trainer.steps:
            checkpoint.save_if_due(step + 1, lambda: optimiser_state(trainer.optimiser.adam))
    log = checkpoint.log("training")
    return [
        [{"step": row["step"], "loss": row["loss"][c], "norm": row["norm"][c]} for row in log]
        for c in range(len(trainer.order))
    ]


def trl_job(
    ctx: Context[Resolved],
    model: AdaptedModel,
    settings: Training,
    pairs: Sequence[Pair],
    order: np.ndarray,
    start: Adapters,
    stream: int,
    dropout: float,
) -> Job:
    """The training of one condition, whose adapter starts at `start`, a stack of one."""
    numbers = settings.numbers(len(order))
    compute, device, say = ctx.config.compute, ctx.runtime.device, ctx.reporter.say
    return Job(model.settings, pairs, order, numbers, start, dropout, stream, compute, device, say)


def trl_progress(
    ctx: Context[Resolved], job: Job, before: int = 0, of: int = 1
) -> Callable[[Mapping[str, float]], None]:
    """Reports the steps of one of `of` trainings, `before` of them being done."""
    steps = len(job.order)

    def report(row: Mapping[str, float]) -> None:
        ctx.reporter.progress(before * steps + int(row["step"]), of * steps, "steps", f"loss {row['loss']:.3f}")

    return report
