"""Stage: offline DPO of every (β, seed) condition in one bank (arXiv:2606.30627 Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from betastar.maths.objectives import dpo_loss, implicit_reward_margin
from betastar.models.logprobs import grid_logprobs, response_statistics
from betastar.models.peft_io import export_adapter
from betastar.models.sequences import Row, right_pad
from betastar.randomness import numpy_generator, stream_key
from betastar.store import Artefact, content_key
from betastar.workbench import readers
from betastar.workbench.context import Condition, Context, Parts, write_json
from betastar.workbench.pair_training import batches, train_on_pairs

VERSION = 1
STAGE = "offline"


def run(
    ctx: Context, base: Artefact, preferences: Artefact, logprobs: Artefact, conditions: Sequence[Condition]
) -> Parts[Condition]:
    config = ctx.config
    settings = [config.offline.model_dump(exclude={"save_every"}), config.adapter.model_dump(), config.root_seed]
    keys = {
        condition: content_key(STAGE, VERSION, settings, condition.beta, condition.seed, base.key, preferences.key)
        for condition in conditions
    }
    return ctx.made_parts(STAGE, keys, lambda todo, o, k: _train(ctx, base, preferences, logprobs, todo, o, k))


def _train(
    ctx: Context,
    base: Artefact,
    preferences: Artefact,
    logprobs: Artefact,
    conditions: Sequence[Condition],
    folders: Sequence[Path],
    key: str,
) -> None:
    settings, seed, policy = ctx.config.offline, ctx.config.root_seed, ctx.policy(base)
    splits = readers.pair_rows(ctx, base, preferences)
    base_logprobs = {name: tensor.to(ctx.device) for name, tensor in readers.base_logprobs(logprobs).items()}
    betas = torch.tensor([c.beta for c in conditions], device=ctx.device)
    # All β of a seed start from the same adapter and see the pairs in the same order: a paired design.
    adapters = policy.bank.create([stream_key(seed, "offline", "adapter", c.seed) for c in conditions]).trainable()
    order = [
        batches(numpy_generator(seed, "offline", "order", c.seed), len(splits.train), settings) for c in conditions
    ]

    def losses(rows: list[Row], which: torch.Tensor) -> torch.Tensor:
        with policy.bank.use(adapters):
            stats = response_statistics(policy.bank.model, right_pad(rows, policy.pad, ctx.device))
        chosen, rejected = stats.logprob.view(len(conditions), 2, -1).unbind(dim=1)
        base_chosen, base_rejected = base_logprobs["train"][:, which.to(ctx.device)]
        return dpo_loss(implicit_reward_margin(chosen, rejected, base_chosen, base_rejected, betas[:, None]))

    checkpoint = ctx.store.checkpoint(STAGE, key)
    train_on_pairs(ctx, settings, adapters.parameters(), splits.train, order, losses, checkpoint)

    frozen, tokens = adapters.frozen(), ctx.config.compute.tokens_per_forward
    test = [row for side in (0, 1) for row in (pair[side] for pair in splits.test)]
    logps = grid_logprobs(policy.bank, frozen, [test] * len(conditions), policy.pad, tokens)
    chosen, rejected = logps.view(len(conditions), 2, -1).unbind(dim=1)
    base_chosen, base_rejected = base_logprobs["test"][:, None]
    margin = implicit_reward_margin(chosen, rejected, base_chosen, base_rejected, betas[:, None])
    log = checkpoint.log("training")
    for c, (condition, folder) in enumerate(zip(conditions, folders, strict=True)):
        export_adapter(folder / "adapter", frozen, c, policy.base.name)
        metrics = {
            "beta": condition.beta,
            "seed": condition.seed,
            "pair_accuracy": (margin[c] > 0).float().mean().item(),
            "pair_margin": margin[c].mean().item(),
            "test_pairs": len(splits.test),
            "steps": log[-1]["step"],
        }
        write_json(folder / "metrics.json", metrics)
