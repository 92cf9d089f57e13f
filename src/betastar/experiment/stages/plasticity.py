"""Stage: what is left of every policy's ability to learn. Ranks of features, dormant units, size of the update and
agreement of gradients, of each checkpoint and of what online adaptation made of it, all on the same texts. Where asked
for, also the direct test: how much of a fresh task each learns in so many steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from betastar.disk import write_json
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Inputs, OnlineCondition, Parts
from betastar.experiment.context import Context
from betastar.experiment.making import made_parts
from betastar.experiment.memory import READ_REMEDY
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import content_key
from betastar.maths.plasticity import (
    effective_rank,
    is_dormant,
    mean_pairwise_cosine,
    singular_values,
    stable_rank,
    update_norm,
)
from betastar.models.bank import Adapters
from betastar.models.plasticity import features, fresh_task, gradient_products, learning_curve
from betastar.models.sequences import Row
from betastar.settings.config import Resolved

VERSION = 1
STAGE = "plasticity"
FILE = "network.json"
STATES = 1024  # most hidden states whose ranks are read: beyond it eigenvalues cost more than the forward pass
GRADIENTS = 8  # texts whose gradients are compared, 28 pairs

Policies = Parts[Condition | OnlineCondition]


def run(
    ctx: Context[Resolved], inputs: Inputs, checkpoints: Parts[Condition], adapted: Parts[OnlineCondition]
) -> Policies:
    """A folder with `network.json` for each checkpoint and each adapted policy; none where `evaluation.plasticity` is
    0."""
    count, steps = ctx.config.evaluation.plasticity, ctx.config.evaluation.fresh_steps
    if count == 0:
        ctx.reporter.say(f"{STAGE}: off (evaluation.plasticity)")
        return Parts({}, {})
    sources = [inputs.base.key, inputs.preferences.key]
    trained = {**checkpoints.keys_of, **adapted.keys_of}
    learning_rate = ctx.config.online.numbers(1).learning_rate
    settings = [VERSION, count, *([steps, learning_rate] if steps else [])]
    keys = {c: content_key(STAGE, settings, sources, key) for c, key in trained.items()}

    def build(todo: Sequence[Condition | OnlineCondition], out: Sequence[Path], key: str) -> None:
        policy = ctx.policy(inputs.base)
        folders = [checkpoints[c] if isinstance(c, Condition) else adapted[c] for c in todo]
        adapters = readers.checkpoints(policy.bank, folders)
        pairs = readers.token_pairs(policy.chat, inputs.preferences).test[:count]
        rows = [pair.rows()[0] for pair in pairs]
        records = _measured(ctx, policy, adapters, rows)
        learnt = _learnt(ctx, policy, adapters, fresh_task(rows), steps, learning_rate)
        for record, fresh, folder in zip(records, learnt, out, strict=True):
            write_json(folder / FILE, {**record, **fresh})

    at_once = ctx.config.online.conditions_at_once
    return made_parts(ctx, STAGE, keys, build, at_once, needs=lambda condition: [trained[condition]])


def _measured(
    ctx: Context[Resolved], policy: AdaptedModel, adapters: Adapters, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """A record for each condition of `adapters`."""
    room, longest, few = ctx.runtime.room, max(row.length for row in rows), rows[:GRADIENTS]
    seen = room.for_tokens(
        longest, lambda most: features(policy.bank, adapters, rows, policy.pad, most, STATES), READ_REMEDY
    )
    dormant = torch.cat([is_dormant(layer) for layer in seen.activity], dim=-1).double().mean(dim=-1)
    layers = {n: update_norm(adapters.a[n], adapters.b[n], adapters.scale) for n in adapters.a}
    total = torch.stack(list(layers.values())).square().sum(dim=0).sqrt()
    records = []
    for c, states in enumerate(seen.states):
        ctx.reporter.progress(c, len(adapters), "policies")
        values, one = singular_values(states), adapters[c : c + 1]
        products = room.for_tokens(
            max(row.length for row in few),
            lambda most, one=one: gradient_products(policy.bank, one, few, policy.pad, most),
        )
        records.append(
            {
                "effective_rank": effective_rank(values).item(),
                "stable_rank": stable_rank(values).item(),
                "dormant_share": dormant[c].item(),
                "update_norm": total[c].item(),
                "update_norms": {name: norm[c].item() for name, norm in layers.items()},
                "gradient_cosine": mean_pairwise_cosine(products).item(),
                "texts": len(rows),
                "states": len(states),
                "units": sum(layer.shape[-1] for layer in seen.activity),
                "units_of": seen.units,
                "gradients": len(few),
            }
        )
    ctx.reporter.progress(len(adapters), len(adapters), "policies")
    return records


def _learnt(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    rows: Sequence[Row],
    steps: int,
    learning_rate: float,
) -> list[dict[str, Any]]:
    """What each condition learns of the fresh task `rows`; nothing where the test is off, or the data have too few
    pairs for a task."""
    if steps and not rows:
        ctx.reporter.say(f"{STAGE}: no fresh task, because the data have fewer than two held-out pairs")
    if not steps or not rows:
        return [{} for _ in range(len(adapters))]
    curve = learning_curve(
        policy.bank,
        adapters,
        rows,
        policy.pad,
        steps,
        learning_rate,
        partial(ctx.runtime.room.for_tokens, max(row.length for row in rows)),
        lambda done: ctx.reporter.progress(done, steps, "steps", "fresh task"),
    )
    return [
        {
            "fresh_loss": losses,
            "fresh_gain": losses[0] - losses[-1],
            "fresh_tokens": sum(len(row.response) for row in rows),
            "fresh_learning_rate": learning_rate,
        }
        for losses in curve.T.tolist()
    ]
