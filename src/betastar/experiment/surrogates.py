"""The losses of online algorithms other than the paper's, on log-probabilities of single tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from betastar.experiment.context import Context
from betastar.experiment.runtime import AdaptedModel
from betastar.maths.algorithms import k3, response_weights, surrogate
from betastar.models.bank import Adapters
from betastar.models.logprobs import response_token_logprobs
from betastar.models.sequences import RightPadded, Row
from betastar.settings.config import Resolved
from betastar.settings.phases import Online


class Surrogates(NamedTuple):
    """What the losses of a batch need, for C conditions of B responses.

    Of whole responses `reference` (log π_ref), `advantages`, `lengths` and `weights`, each `[C, B]`; of single tokens
    `[C, B, T]` log-probabilities `old`, under the policies that sampled, and `reference_tokens`, each None where no
    variant needs it; and the penalties `kappa [C]`.
    """

    policy: AdaptedModel
    variants: Sequence[Online]
    reference: Tensor
    advantages: Tensor
    kappa: Tensor
    lengths: Tensor
    weights: Tensor
    old: Tensor | None
    reference_tokens: Tensor | None

    @classmethod
    def read(
        cls,
        ctx: Context[Resolved],
        policy: AdaptedModel,
        adapters: Adapters,
        references: Adapters,
        variants: Sequence[Online],
        grid: Sequence[Sequence[Row]],
        measured: tuple[Tensor, Tensor, Tensor],
        limit: int,
    ) -> Surrogates:
        """Before the first update on a batch. `measured`: reference, advantages and κ; `limit`: longest response."""
        reference, advantages, kappa = measured
        lengths = torch.tensor([[float(len(row.response)) for row in part] for part in grid], device=reference.device)
        weights = [
            response_weights(v.length_normalisation, mine[None], limit)[0]
            for v, mine in zip(variants, lengths, strict=True)
        ]
        temperature = variants[0].temperature  # one batch has one
        again = any(v.epochs_per_batch > 1 for v in variants)
        by_token = any(v.kl.place == "loss_k3" for v in variants)
        return cls(
            policy,
            variants,
            reference,
            advantages,
            kappa,
            lengths,
            torch.stack(weights),
            ctx.runtime.token_logprobs(policy, adapters, grid, temperature) if again else None,
            ctx.runtime.token_logprobs(policy, references, grid, temperature) if by_token else None,
        )

    def __call__(self, part: slice, at: Tensor, batch: RightPadded) -> Tensor:
        """The loss of a piece: rows `at [c, b]` of the conditions `part`, summed over them. The sum over pieces is the
        sum of the conditions' losses."""
        logprob = response_token_logprobs(self.policy.bank.model, batch, self.variants[0].temperature)
        logprob = logprob.view(*at.shape, -1)
        total = logprob.new_zeros(())
        for i, c in enumerate(range(part.start, part.stop)):
            total = total + self._of(c, at[i], logprob[i])
        return total

    def _of(self, c: int, at: Tensor, logprob: Tensor) -> Tensor:
        """The share of condition c's loss of its responses `at [b]`, from their `logprob [b, T]`."""
        v, width = self.variants[c], logprob.shape[-1]
        old = logprob.detach() if self.old is None else self.old[c, at, :width]
        rows = surrogate(
            logprob,
            old,
            self.advantages[c, at],
            torch.arange(width, device=at.device) < self.lengths[c, at, None],
            by_token=v.length_normalisation != "none",
            low=v.clip_low,
            high=v.clip_high,
        )
        if v.kl.place == "loss_k3":
            assert self.reference_tokens is not None
            rows = rows + self.kappa[c] * k3(logprob, self.reference_tokens[c, at, :width])
        loss = (self.weights[c, at] * rows).sum()
        if v.kl.place == "loss_square":
            log_ratio = logprob.sum(dim=-1) - self.reference[c, at]
            loss = loss + self.kappa[c] * log_ratio.square().sum() / self.advantages.shape[1]
        return loss
