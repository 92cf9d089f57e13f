"""Ensemble scores and embeddings against one member and one unpadded row at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.rewards import RewardEnsemble, last_response_position, pair_scores, score
from betastar.models.sequences import Pair, Row, pair_pad, right_pad

MEMBERS = 3


@pytest.fixture
def ensemble(adapters: Adapters) -> RewardEnsemble:
    head = torch.randn(MEMBERS, 32, generator=torch.Generator().manual_seed(0))
    return RewardEnsemble(adapters, head.to(adapters.parameters()[0].device))


@torch.no_grad()
def by_hand(bank: AdapterBank, ensemble: RewardEnsemble, member: int, row: Row) -> tuple[float, Tensor]:
    """Score of a row, and what enters the last layer, averaged over its tokens (read there by a hook)."""
    entering = []
    last_layer = bank.model.model.layers[-1]
    handle = last_layer.register_forward_pre_hook(lambda _, args: entering.append(args[0][0]))
    with bank.use(ensemble.adapters[member : member + 1]):
        hidden = bank.model.model(torch.tensor([[*row.prompt, *row.response]], device=bank.device)).last_hidden_state
    handle.remove()
    return float(hidden[0, -1] @ ensemble.head[member]), entering[0].mean(dim=0)


@pytest.mark.parametrize("most_tokens", [1, 60, 10**6])
def test_scores_are_each_members_own(
    bank: AdapterBank, ensemble: RewardEnsemble, make_rows: Callable[..., list[Row]], most_tokens: int
) -> None:
    rows = make_rows(9)
    scored = score(bank, ensemble, rows, pad=0, most_tokens=most_tokens)
    assert scored.embedding is None
    expected = torch.tensor([[by_hand(bank, ensemble, k, row)[0] for row in rows] for k in range(MEMBERS)])
    torch.testing.assert_close(scored.scores.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std(dim=0).min()) > 0.1  # members differ


@pytest.mark.parametrize("most_tokens", [1, 60, 10**6])
def test_the_embedding_is_member_zeros_mean_state_before_the_last_layer(
    bank: AdapterBank, ensemble: RewardEnsemble, make_rows: Callable[..., list[Row]], most_tokens: int
) -> None:
    rows = make_rows(9)
    embedding = score(bank, ensemble, rows, pad=0, most_tokens=most_tokens, embed=True).embedding
    expected = torch.stack([by_hand(bank, ensemble, 0, row)[1] for row in rows])
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_training_and_scoring_agree(
    bank: AdapterBank, ensemble: RewardEnsemble, make_rows: Callable[..., list[Row]]
) -> None:
    """`pair_scores` reads a prompt once for both responses, and takes other pairs for each member; its scores are those
    of the responses by themselves."""
    pairs = [
        [Pair(a.prompt, a.response, b.response) for a, b in zip(make_rows(5, k), make_rows(5, 9 + k), strict=True)]
        for k in range(MEMBERS)
    ]
    scores = pair_scores(bank, ensemble, pair_pad([pair for group in pairs for pair in group], 0, bank.device), None)
    for k in range(MEMBERS):
        for side in (0, 1):
            alone = score(bank, ensemble[k : k + 1], [pair.rows()[side] for pair in pairs[k]], 0, 10**6).scores
            torch.testing.assert_close(scores[k, :, side], alone[0], rtol=1e-4, atol=1e-4)


def test_last_response_position() -> None:
    batch = right_pad([Row([1, 2], [3, 4, 5]), Row([1], [2]), Row([1, 2, 3, 4, 5], [6])], 0, "cpu")
    assert last_response_position(batch).tolist() == [4, 1, 5]


def test_an_ensemble_survives_its_state(ensemble: RewardEnsemble) -> None:
    again = RewardEnsemble.from_state(ensemble.state(), ensemble.adapters.scale)
    assert len(again) == MEMBERS
    assert again.adapters.scale == ensemble.adapters.scale
    for old, new in zip(ensemble.parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new)


def test_merged_members_have_the_mean_of_their_weights(bank: AdapterBank, adapters: Adapters, make_rows: Any) -> None:
    """WARM by one adapter of rank 3·r, against the base with the mean of A·B·scale added to its own weights."""
    head = torch.randn(3, 32, generator=torch.Generator().manual_seed(5)).to(bank.device)
    ensemble, rows = RewardEnsemble(adapters, head), make_rows(5)
    merged = score(bank, ensemble.merged(), rows, 0, 10**6).scores
    assert len(merged) == 1
    with torch.no_grad():
        for name, a in adapters.a.items():
            update = adapters.scale * torch.bmm(a, adapters.b[name]).mean(dim=0)
            bank.model.get_submodule(name).weight += update.T
    nothing = bank.create([0])  # B is zero
    expected = score(bank, RewardEnsemble(nothing, head.mean(dim=0, keepdim=True)), rows, 0, 10**6).scores
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    members = score(bank, ensemble, rows, 0, 10**6).scores
    assert float((members.mean(dim=0) - merged[0]).abs().max()) > 1e-3  # not the mean of the scores
