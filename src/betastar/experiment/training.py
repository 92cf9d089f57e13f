"""The training loop over preference pairs that the reward and offline stages share, in the bank or with TRL."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

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
    indices `which [c, b]` into the training pairs, and the dropout of the pass. `whole`: numbers of each condition's
    whole batch `[c]`, by name, where the loss needs any."""

    conditions: slice
    items: list[Pair]
    which: Tensor
    dropout: Dropout | None
    whole: Mapping[str, Tensor] = {}


class WholeBatch(Protocol):
    """Reads a whole batch before the first piece of it is trained on, for losses in which pairs meet."""

    def read(self, grid: Sequence[Sequence[Pair]], which: Tensor, most_tokens: int) -> dict[str, Tensor]:
        """Numbers `[C]` by name, from the pairs `grid [C][B]`, which are number `which [C, B]` of the training pairs.
        It may be called again for the same step, where memory ran out."""
        ...

    def step_taken(self) -> None:
        """The step whose batch was read last is over."""

    def state(self) -> dict[str, Tensor]:
        """What the numbers of later batches depend on, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`, which may hold other tensors too."""


def batches(rng: np.random.Generator, n: int, settings: Training, bootstrap: bool = False) -> np.ndarray:
    """Indices of the pairs in each step, `[steps, batch]`: reshuffled passes over n pairs, or over one bootstrap
    resample of them (n draws with replacement)."""
    size = min(settings.numbers(1).batch_size, n)
    steps = max(1, math.ceil(settings.epochs * n / size))
    pool = rng.integers(n, size=n) if bootstrap else np.arange(n)
    passes = math.ceil(steps * size / n)
    return np.concatenate([rng.permutation(pool) for _ in range(passes)])[: steps * size].reshape(steps, size)


class Losses(NamedTuple):
    """Of the pairs of a part: the `loss [c, b]`, and what the log holds the batch mean of beside it, `[c, b]` by
    name."""

    loss: Tensor
    logged: Mapping[str, Tensor] = {}


class Stepped(NamedTuple):
    """Of an optimiser step, by condition `[C]`: the loss, the gradient norm before clipping, and the batch means of
    what else is logged."""

    loss: list[float]
    norm: list[float]
    logged: dict[str, list[float]]


class PairTrainer:
    """Stacked `weights` of C conditions trained in place; condition c, called `names[c]` in errors of the `stage`, sees
    pairs `order[c] [steps, batch]`.

    `losses(part)` gives the loss of each pair. `streams [C]` key the dropout `p` of each condition. `whole` reads each
    batch beforehand, where losses depend on more than their own pair.
    """

    def __init__(
        self,
        stage: str,
        names: Sequence[str],
        settings: Training,
        weights: Sequence[Tensor],
        pairs: Sequence[Pair],
        order: Sequence[np.ndarray],
        losses: Callable[[Part], Losses],
        room: Room,
        dropout: float = 0.0,
        streams: Sequence[int] = (),
        whole: WholeBatch | None = None,
    ):
        self.stage, self.names = stage, names
        self.steps, self.batch = order[0].shape
        numbers = settings.numbers(self.steps)
        self.optimiser = StackedOptimiser(weights, numbers.learning_rate, numbers.weight_decay, numbers.clip)
        self.warm_up = numbers.warmup_steps
        self.pairs, self.order, self.losses, self.room = pairs, order, losses, room
        self.p, self.streams, self.whole = dropout, streams, whole

    def step(self, step: int) -> Stepped:
        """One optimiser step (from 0)."""
        which = torch.tensor(np.stack([rows[step] for rows in self.order]))
        grid = [[self.pairs[i] for i in row] for row in which.tolist()]
        longest = max(pair.length for row in grid for pair in row)
        total = self.room.for_tokens(longest, lambda most: self._gradients(step, which, grid, most))
        with named_divergence(self.stage, step + 1, self.steps, self.names):
            norms = self.optimiser.step(linear_schedule(step, self.steps, self.warm_up))
        if self.whole is not None:
            self.whole.step_taken()
        loss = total.pop("loss").tolist()
        return Stepped(loss, norms.tolist(), {name: values.tolist() for name, values in total.items()})

    def _gradients(self, step: int, which: Tensor, grid: list[list[Pair]], most_tokens: int) -> dict[str, Tensor]:
        """Gradients of the batch, piece by piece; returns each condition's mean loss, and means of what is logged."""
        self.optimiser.adam.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        whole = {} if self.whole is None else self.whole.read(grid, which, most_tokens)
        for part, places, items in pieces(grid, most_tokens):
            chosen = which[part].gather(1, places)
            mine = {name: values[part] for name, values in whole.items()}
            found = self.losses(Part(part, items, chosen, self._dropout(step, part, chosen, items), mine))
            # A condition's loss is its batch mean; the sum over conditions keeps their gradients apart.
            (found.loss / self.batch).sum().backward()
            for name, values in {"loss": found.loss, **found.logged}.items():
                mean = total.setdefault(name, values.new_zeros(len(grid), requires_grad=False))
                mean[part] += values.detach().sum(dim=1) / self.batch
        return total

    def state(self) -> dict[str, Tensor]:
        """What the steps to come depend on, for a checkpoint."""
        return {**optimiser_state(self.optimiser.adam), **({} if self.whole is None else self.whole.state())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        restore_optimiser(self.optimiser.adam, state)
        if self.whole is not None:
            self.whole.restore(state)

    def _dropout(self, step: int, part: slice, which: Tensor, items: Sequence[Pair]) -> Dropout | None:
        if self.p == 0:
            return None
        streams = self.streams[part]
        keys = [stream_key(s, "dropout", step, i) for s, row in zip(streams, which.tolist(), strict=True) for i in row]
        return Dropout(self.p, keys, [pair.length for pair in items])


def train(
    trainer: PairTrainer,
    checkpoint: Checkpoint,
    progress: Callable[[int, int, str, str], None],
    after: Callable[[int], None] = lambda steps: None,
) -> list[list[dict[str, float]]]:
    """Run all steps, from the checkpoint if there is one; returns a row per step for each condition. `after(steps)` is
    called when so many are done, before a checkpoint says so: what it writes is there when the training goes on."""
    start = 0
    if saved := checkpoint.load():
        start, state = saved
        trainer.restore(state)
    for step in range(start, trainer.steps):
        done = trainer.step(step)
        checkpoint.append("training", [{"step": step + 1, "loss": done.loss, "norm": done.norm, **done.logged}])
        progress(step + 1, trainer.steps, "steps", f"loss {sum(done.loss) / len(done.loss):.3f}")
        after(step + 1)
        if step + 1 < trainer.steps:
            checkpoint.save_if_due(step + 1, trainer.state)
    log = checkpoint.log("training")
    return [
        [{name: value if name == "step" else value[c] for name, value in row.items()} for row in log]
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
