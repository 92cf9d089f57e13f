"""The training loop over preference pairs that the reward and offline stages share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from betastar.config import Training
from betastar.models.optimise import StackedOptimiser, linear_schedule, optimiser_state, restore_optimiser
from betastar.models.sequences import Row, pieces
from betastar.store import Checkpoint
from betastar.workbench.context import Context


def batches(rng: np.random.Generator, n: int, settings: Training, bootstrap: bool = False) -> np.ndarray:
    """Indices of the pairs in each step, `[steps, batch]`: reshuffled passes over n pairs, or over one bootstrap
    resample of them (n draws with replacement)."""
    size = min(settings.batch_size, n)
    steps = max(1, math.ceil(settings.epochs * n / size))
    pool = rng.integers(n, size=n) if bootstrap else np.arange(n)
    passes = math.ceil(steps * size / n)
    return np.concatenate([rng.permutation(pool) for _ in range(passes)])[: steps * size].reshape(steps, size)


def train_on_pairs(
    ctx: Context,
    settings: Training,
    weights: Sequence[Tensor],
    pairs: Sequence[tuple[Row, Row]],
    order: Sequence[np.ndarray],
    losses: Callable[[list[Row], Tensor], Tensor],
    checkpoint: Checkpoint,
) -> None:
    """Train stacked `weights` in place. Condition c sees pairs `order[c] [steps, batch]`; `losses(rows, which)` gives
    the loss of each pair `[C, b]` for rows that view as `[C, 2, b]` and the pairs' indices `which [C, b]`."""
    optimiser = StackedOptimiser(weights, settings.learning_rate, settings.weight_decay, settings.clip)
    steps, size = order[0].shape
    start = 0
    if saved := checkpoint.load():
        start, state, _ = saved
        restore_optimiser(optimiser.adam, state)
    for step in range(start, steps):
        which = torch.tensor(np.stack([rows[step] for rows in order]))
        items = [[pairs[i] for i in row] for row in which.tolist()]
        total = 0.0
        for index, rows in pieces(items, ctx.config.compute.tokens_per_forward):
            # A condition's loss is its batch mean; the sum over conditions keeps their gradients apart.
            loss = losses(rows, which.gather(1, index)).sum() / size
            loss.backward()
            total += loss.item()
        norms = optimiser.step(linear_schedule(step, steps))
        checkpoint.append("training", [{"step": step + 1, "loss": total / len(order), "norms": norms.tolist()}])
        ctx.reporter.progress(step + 1, steps, "steps", f"loss {total / len(order):.3f}")
        if (step + 1) % settings.save_every == 0 and step + 1 < steps:
            checkpoint.save(step + 1, optimiser_state(optimiser.adam))
