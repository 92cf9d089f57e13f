"""The reward ensemble: K adapters and K scalar heads on one frozen base, scored as one bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from betastar.models.bank import AdapterBank, Adapters, Dropout
from betastar.models.last_layer import reading
from betastar.models.logprobs import backbone, pair_states
from betastar.models.sequences import PairBatch, RightPadded, Row, Told, pieces, right_pad


@dataclass(frozen=True)
class RewardEnsemble:
    """`adapters` of K members and their scalar heads `head [K, d]`. A member's score is its head on the hidden state
    (after the final norm) of the last response token."""

    adapters: Adapters
    head: Tensor

    def __len__(self) -> int:
        return len(self.head)

    def __getitem__(self, index: slice) -> RewardEnsemble:
        """Some of the members, as a view."""
        return RewardEnsemble(self.adapters[index], self.head[index])

    def merged(self) -> RewardEnsemble:
        """WARM (arXiv:2401.12187): one member with the mean of the members' weight updates and heads. Exact: the mean
        of A_k B_k is one adapter of rank K·r, the A side by side, and the B divided by K one below the other."""
        members, adapters = len(self), self.adapters
        a = {name: torch.cat(list(w), dim=1)[None] for name, w in adapters.a.items()}
        b = {name: torch.cat(list(w), dim=0)[None] / members for name, w in adapters.b.items()}
        return RewardEnsemble(Adapters(a, b, adapters.scale), self.head.mean(dim=0, keepdim=True))

    def parameters(self) -> list[Tensor]:
        return [*self.adapters.parameters(), self.head]

    def state(self) -> dict[str, Tensor]:
        return {**self.adapters.state(), "head": self.head.detach()}

    @staticmethod
    def from_state(state: Mapping[str, Tensor], scale: float) -> RewardEnsemble:
        return RewardEnsemble(Adapters.from_state(state, scale), state["head"])


def pair_scores(bank: AdapterBank, ensemble: RewardEnsemble, batch: PairBatch, dropout: Dropout | None) -> Tensor:
    """Scores `[K, B, 2]` of chosen and rejected responses of pairs grouped by member (`K · B` pairs), with gradient."""
    with bank.use(ensemble.adapters, dropout):
        state = pair_states(bank.model, batch, batch.last)
    members = len(ensemble)
    scores = torch.einsum("kbd,kd->kb", state.view(members, -1, state.shape[-1]).float(), ensemble.head)
    return scores.view(members, -1, 2)


def last_response_position(batch: RightPadded) -> Tensor:
    """Index of each row's last response token `[R]`."""
    width = batch.response.shape[1]
    return width - 1 - batch.response.flip(1).int().argmax(dim=1)


class Scored(NamedTuple):
    """`scores [K, N]` of every member, and member 0's `embedding [N, d]`: the mean over all tokens of the hidden state
    that enters the last layer (arXiv:2606.30627 Section 5.2), or None where it was not asked for."""

    scores: Tensor
    embedding: Tensor | None


@torch.no_grad()
def score(
    bank: AdapterBank,
    ensemble: RewardEnsemble,
    rows: Sequence[Row],
    pad: int,
    most_tokens: int,
    embed: bool = False,
    told: Told | None = None,
) -> Scored:
    """Score rows with all members at once. Each member sees the same rows, so one copy of the base serves them all.
    `told` hears how many rows are done."""
    device = ensemble.head.device
    members, width = len(ensemble), ensemble.head.shape[1]
    scores = torch.empty(members, len(rows), device=device)
    embedding = torch.empty(len(rows), width, device=device) if embed else None
    for _, index, piece in pieces([rows], max(1, most_tokens // members), told):
        batch = right_pad(piece, pad, device)
        at = index[0].to(device)
        repeated = RightPadded(batch.tokens.repeat(members, 1), batch.response.repeat(members, 1))
        last = last_response_position(repeated)
        places = last + repeated.tokens.shape[1] * torch.arange(len(last), device=device)
        with bank.use(ensemble.adapters), reading(bank.model, places):
            output = backbone(bank.model)(input_ids=repeated.tokens, use_cache=False, output_hidden_states=embed)
        state = output.last_hidden_state[torch.arange(len(last), device=device), last]
        scores[:, at] = torch.einsum("kbd,kd->kb", state.view(members, len(at), width).float(), ensemble.head)
        if embedding is not None:
            # hidden_states: the embeddings, then every layer's output; the second to last enters the last layer.
            entering = output.hidden_states[-2][: len(at)].float()
            real = torch.tensor([row.length for row in piece], device=device)
            keep = torch.arange(entering.shape[1], device=device)[None, :] < real[:, None]
            embedding[at] = (entering * keep[:, :, None]).sum(dim=1) / real[:, None]
    return Scored(scores, embedding)
