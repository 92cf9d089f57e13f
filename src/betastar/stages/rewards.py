"""Stage: the reward ensemble, K bootstrap-trained Bradley–Terry models on one base (arXiv:2606.30627 Eq. 5).

Where the world has no annotator, one more member is trained and kept out of the ensemble: the judge of win rates.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from betastar.maths.objectives import bradley_terry_loss
from betastar.models.peft_io import export_adapter
from betastar.models.rewards import RewardEnsemble, member_scores, score
from betastar.models.sequences import Row, right_pad
from betastar.randomness import numpy_generator, stream_key, torch_generator
from betastar.store import Artefact
from betastar.workbench import readers
from betastar.workbench.context import Context, Policy, write_json
from betastar.workbench.pair_training import batches, train_on_pairs

VERSION = 1
STAGE = "rewards"


def run(ctx: Context, base: Artefact, preferences: Artefact) -> Artefact:
    config = ctx.config
    settings = [
        VERSION,
        config.rewards.model_dump(exclude={"save_every"}),
        config.adapter.model_dump(),
        config.root_seed,
    ]
    return ctx.made(STAGE, settings, [base.key, preferences.key], lambda o, k: _train(ctx, base, preferences, o, k))


def _train(ctx: Context, base: Artefact, preferences: Artefact, out: Path, key: str) -> None:
    config, seed, policy = ctx.config, ctx.config.root_seed, ctx.policy(base)
    splits = readers.pair_rows(ctx, base, preferences)
    members = config.rewards.members
    everyone = range(members + (config.preferences.kind != "micro"))
    adapters = policy.bank.create([stream_key(seed, "rewards", "member", k) for k in everyone]).trainable()
    width = policy.base.model.get_input_embeddings().weight.shape[1]
    draws = [torch.randn(width, generator=torch_generator(seed, "rewards", "head", k)) for k in everyone]
    head = (torch.stack(draws) / math.sqrt(width)).to(ctx.device).requires_grad_(True)
    ensemble = RewardEnsemble(adapters, head)

    def losses(rows: list[Row], which: torch.Tensor) -> torch.Tensor:
        scores = member_scores(policy.bank, ensemble, right_pad(rows, policy.pad, ctx.device))
        chosen, rejected = scores.view(len(ensemble), 2, -1).unbind(dim=1)
        return bradley_terry_loss(chosen, rejected)

    order = [
        batches(numpy_generator(seed, "rewards", "order", k), len(splits.train), config.rewards, bootstrap=True)
        for k in everyone
    ]
    checkpoint = ctx.store.checkpoint(STAGE, key)
    train_on_pairs(ctx, config.rewards, ensemble.parameters(), splits.train, order, losses, checkpoint)

    # Reference centroid of Eq. 12: member 0 on ⌈√n⌉ training examples, chosen responses.
    n_reference = math.isqrt(len(splits.train) - 1) + 1
    sample = numpy_generator(seed, "rewards", "centroid").choice(len(splits.train), n_reference, replace=False)
    frozen = RewardEnsemble(adapters.frozen(), head.detach())
    rows = [splits.train[i].chosen for i in sample]
    embedded = score(policy.bank, frozen, rows, policy.pad, config.compute.tokens_per_forward, embed=True).embedding
    assert embedded is not None
    save_file({**frozen.state(), "centroid": embedded.mean(dim=0)}, out / "ensemble.safetensors")
    for k in everyone:
        name = f"member-{k}" if k < members else "judge"
        export_adapter(out / name, frozen.adapters, k, policy.base.name, score_head=frozen.head[k])
    metrics = {"members": members, "validation": _accuracy(ctx, policy, frozen[:members], splits.validation)}
    metrics["test"] = _accuracy(ctx, policy, frozen[:members], splits.test)
    write_json(out / "metrics.json", metrics)


def _accuracy(ctx: Context, policy: Policy, ensemble: RewardEnsemble, pairs: list) -> dict:
    """Pair accuracy and mean margin of each member, accuracy of the mean, share of pairs with disagreeing signs."""
    tokens = ctx.config.compute.tokens_per_forward
    rows = [row for side in (0, 1) for row in (pair[side] for pair in pairs)]
    scores = score(policy.bank, ensemble, rows, policy.pad, tokens).scores.view(len(ensemble), 2, -1)
    margin = scores[:, 0] - scores[:, 1]
    positive = (margin > 0).float().mean(dim=0)
    return {
        "pairs": len(pairs),
        "member_mean": scores.mean(dim=(1, 2)).tolist(),
        "member_accuracy": (margin > 0).float().mean(dim=1).tolist(),
        "member_margin": margin.mean(dim=1).tolist(),
        "mean_accuracy": (margin.mean(dim=0) > 0).float().mean().item(),
        "sign_disagreement": ((positive > 0) & (positive < 1)).float().mean().item(),
    }
