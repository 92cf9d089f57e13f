"""How fast policies learn a fresh task, against plain training of one PEFT adapter, and what must hold of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.peft_io import export_adapter
from betastar.models.plasticity import fresh_task, learning_curve
from betastar.models.sequences import Row

pytestmark = pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")

STEPS, RATE = 5, 0.01


def learnt(bank: AdapterBank, adapters: Adapters, rows: list[Row], most_tokens: int = 10**6) -> Tensor:
    return learning_curve(bank, adapters, rows, 0, STEPS, RATE, lambda attempt: attempt(most_tokens)).cpu()


def test_every_response_goes_to_another_prompt_and_none_is_lost(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows(5)
    fresh = fresh_task(rows)
    assert [row.prompt for row in fresh] == [row.prompt for row in rows]
    assert [rows.index(Row(rows[(i + 1) % 5].prompt, row.response)) for i, row in enumerate(fresh)] == [1, 2, 3, 4, 0]
    assert fresh_task(rows[:1]) == []


@pytest.mark.parametrize("most_tokens", [1, 60, 10**6])
def test_the_curve_is_that_of_plain_training_with_peft(
    bank: AdapterBank,
    adapters: Adapters,
    make_model: Callable[[], Any],
    make_rows: Callable[..., list[Row]],
    tmp_path: Path,
    most_tokens: int,
) -> None:
    """One adapter, one row at a time through the whole model, cross-entropy of PyTorch, torch.optim.AdamW."""
    rows = make_rows(4)
    export_adapter(tmp_path, adapters, 1, base_name="the base")
    theirs: Any = peft.PeftModel.from_pretrained(make_model(), tmp_path, is_trainable=True).eval()  # no dropout
    weights = [weight for weight in theirs.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    tokens = sum(len(row.response) for row in rows)
    expected = []
    for _ in range(STEPS + 1):
        adam.zero_grad()
        loss = torch.zeros((), device=theirs.device)
        for row in rows:
            text = torch.tensor([[*row.prompt, *row.response]], device=theirs.device)
            logits = theirs(text).logits[0, len(row.prompt) - 1 : -1]
            loss += torch.nn.functional.cross_entropy(logits, text[0, len(row.prompt) :], reduction="sum") / tokens
        loss.backward()
        expected.append(loss.item())
        adam.step()
    found = learnt(bank, adapters, rows, most_tokens)
    assert found.shape == (STEPS + 1, 3)
    assert found[:, 1].tolist() == pytest.approx(expected, rel=1e-4)
    assert expected[0] - expected[-1] > 0.1  # there was something to learn


def test_a_frozen_policy_learns_nothing_and_a_lost_one_disturbs_nobody(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    """With A = B = 0 neither has a gradient, since each one's is a product with the other. NaN stays with its
    condition."""
    rows = make_rows(4)
    alone = learnt(bank, adapters[1:2], rows)
    for weight in adapters.parameters():
        weight[0], weight[2] = 0.0, float("nan")
    before = {name: weight.clone() for name, weight in adapters.state().items()}
    curve = learnt(bank, adapters, rows)
    assert set((curve[:, 0] - curve[0, 0]).tolist()) == {0.0}
    torch.testing.assert_close(curve[:, 1], alone[:, 0], rtol=1e-4, atol=1e-5)
    assert (alone[1:] < alone[:-1]).all()
    assert curve[:, 2].isnan().all()
    for name, weight in adapters.state().items():  # copies were trained
        assert torch.equal(weight[:2], before[name][:2])
        assert not weight.requires_grad


def test_an_attempt_that_did_not_fit_leaves_nothing_behind(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    rows = make_rows(4)

    def twice(attempt: Callable[[int], Tensor]) -> Tensor:
        attempt(10**6)  # as if memory had run out at its end
        return attempt(10**6)

    again = learning_curve(bank, adapters, rows, 0, STEPS, RATE, twice).cpu()
    assert torch.equal(again, learnt(bank, adapters, rows))
