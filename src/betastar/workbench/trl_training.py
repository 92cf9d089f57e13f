"""Engine `trl` for the stages: the same pairs, order, start and numbers as the bank would get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from betastar.models.bank import Adapters
from betastar.models.sequences import Pair
from betastar.models.trl_engine import Job
from betastar.sections import Training
from betastar.workbench.context import Context, Policy


def trl_job(
    ctx: Context,
    policy: Policy,
    settings: Training,
    pairs: Sequence[Pair],
    order: np.ndarray,
    start: Adapters,
    stream: int,
    dropout: float,
) -> Job:
    """The training of one condition, whose adapter starts at `start`, a stack of one."""
    numbers = settings.numbers(len(order))
    return Job(
        policy.settings, pairs, order, numbers, start, dropout, stream, ctx.config.compute, ctx.device, ctx.reporter.say
    )


def trl_progress(ctx: Context, job: Job, before: int = 0, of: int = 1) -> Callable[[Mapping[str, float]], None]:
    """Reports the steps of one of `of` trainings, `before` of them being done."""
    steps = len(job.order)

    def report(row: Mapping[str, float]) -> None:
        ctx.reporter.progress(before * steps + int(row["step"]), of * steps, "steps", f"loss {row['loss']:.3f}")

    return report
