"""Stage: log-probabilities of every preference pair under the base, computed once and shared by all conditions; and
the conservatism grid that follows from them (arXiv:2606.30627 Eq. 6-7)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from betastar.errors import BetastarError
from betastar.experiment import readers
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.store import Artefact
from betastar.maths.grid import geometric_grid, log_ratio_magnitude, percentile_grid
from betastar.settings.config import Resolved
from betastar.settings.phases import Grid

VERSION = 3
STAGE = "reference"


def run(ctx: Context[Resolved], base: Artefact, preferences: Artefact) -> Artefact:
    def build(out: Path, key: str) -> None:
        policy = ctx.policy(base)
        splits = readers.token_pairs(policy.chat, preferences)
        result, before, whole = {}, 0, sum(map(len, splits))

        def told(done: int, of: int) -> None:
            ctx.reporter.progress(before + done, whole, "pairs", "read by the base")

        for name, pairs in splits._asdict().items():
            result[name] = ctx.runtime.pair_logprobs(policy, None, [pairs], told)[:, 0].cpu()
            before += len(pairs)
        save_file(result, out / "logprobs.safetensors")

    return made(ctx, STAGE, [VERSION], [base.key, preferences.key], build)


def beta_grid(settings: Grid, reference: Artefact) -> list[float]:
    """The β (or other strengths) of a method, ascending; none where they are to be searched for. Six significant
    digits: a condition is known by what is printed."""
    if settings.method == "target_kl":
        return []
    if settings.method == "list":
        grid = torch.tensor(sorted(settings.values), dtype=torch.float64).numpy()
    elif settings.method == "geometric":
        low, high, n = settings.low, settings.high, settings.n
        assert low is not None and high is not None and n is not None  # noqa: PT018 (the configuration sees to it)
        grid = geometric_grid(low, high, n)
    else:
        chosen, rejected = readers.base_logprobs(reference)["train"].double().numpy()
        grid = percentile_grid(log_ratio_magnitude(chosen, rejected), sorted(settings.percentiles))
    betas = [float(f"{beta:.6g}") for beta in grid]
    if twice := next((beta for beta in betas if betas.count(beta) > 1), None):
        raise BetastarError(
            f"two values of β are {twice:g} to six digits", where="grid", remedy="move the percentiles apart"
        )
    return betas
