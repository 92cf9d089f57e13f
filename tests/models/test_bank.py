"""A bank of C is C separate runs: same training, same numbers, no condition felt by another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from betastar.errors import BetastarError
from betastar.maths.objectives import dpo_loss, implicit_reward_margin
from betastar.models.bank import AdapterBank, Adapters, Dropout, adapted_layers
from betastar.models.logprobs import response_logprobs
from betastar.models.optimise import StackedOptimiser
from betastar.models.sequences import Row, right_pad

STEPS, PAIRS = 5, 4


def train(
    bank: AdapterBank, start: Adapters, rows: list[list[list[Row]]], spoil: Callable[[int, Tensor], Tensor]
) -> tuple[Adapters, Tensor]:
    """DPO against a zero reference on `rows[step][condition]`, whose first half is chosen; `spoil(step, losses)` edits
    the losses `[C]`. Returns the trained adapters and the gradient norms `[steps, C]`."""
    adapters = start.trainable()
    optimiser = StackedOptimiser(adapters.parameters(), learning_rate=0.01, weight_decay=0.1, clip=1.0)
    norms = []
    for step, groups in enumerate(rows):
        batch = right_pad([row for group in groups for row in group], 0, bank.device)
        with bank.use(adapters):
            logprob = response_logprobs(bank.model, batch).view(len(groups), 2, -1)
        reference = torch.zeros(1, device=bank.device)
        margin = implicit_reward_margin(
            logprob[:, 0], logprob[:, 1], reference, reference, torch.tensor(0.1, device=bank.device)
        )
        spoil(step, dpo_loss(margin).mean(dim=1)).sum().backward()
        norms.append(optimiser.step(schedule=1.0))
    return adapters.frozen(), torch.stack(norms)


@pytest.fixture
def steps(make_rows: Callable[..., list[Row]]) -> list[list[list[Row]]]:
    """`[step][condition]`, different data for every condition."""
    return [[make_rows(2 * PAIRS, seed=10 * step + c) for c in range(3)] for step in range(STEPS)]


def test_a_bank_of_three_is_three_banks_of_one(
    make_model: Callable[[], Any], random_adapters: Callable[..., Adapters], steps: list[list[list[Row]]]
) -> None:
    bank = AdapterBank(make_model().double(), ("q_proj", "v_proj", "o_proj"), rank=4, alpha=6)
    start = random_adapters(bank, 3).to(torch.float64)
    size = torch.tensor([1e-3, 1.0, 30.0], device=bank.device)  # so that the first is never clipped and the last always
    together, norms = train(bank, start, steps, lambda _, losses: losses * size)
    assert float(norms[:, 0].max()) < 1.0 < float(norms[:, 2].min())
    for c in range(3):
        alone, norm = train(bank, start[c : c + 1], [[groups[c]] for groups in steps], lambda _, x, c=c: x * size[c])
        torch.testing.assert_close(norm[:, 0], norms[:, c], rtol=1e-5, atol=0)
        for mine, ours, before in zip(alone.parameters(), together.parameters(), start.parameters(), strict=True):
            torch.testing.assert_close(mine[0], ours[c], rtol=1e-5, atol=1e-6)
            assert float((mine[0] - before[c]).abs().max()) > 1e-3  # the comparison is not of what never moved


def test_broken_weights_stay_in_their_condition(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    batch = right_pad(make_rows(6), 0, bank.device)
    with torch.no_grad(), bank.use(adapters):
        healthy = response_logprobs(bank.model, batch).view(3, 2)
    for weight in adapters.parameters():
        weight[1] = math.nan
    with torch.no_grad(), bank.use(adapters):
        broken = response_logprobs(bank.model, batch).view(3, 2)
    assert broken[1].isnan().all()
    assert torch.equal(broken[[0, 2]], healthy[[0, 2]])


def test_a_slice_is_a_view_and_a_list_a_copy(adapters: Adapters) -> None:
    assert len(adapters) == 3
    assert len(adapters[1:]) == 2
    for whole, part, copy in zip(
        adapters.parameters(), adapters[1:].parameters(), adapters[[1, 2]].parameters(), strict=True
    ):
        assert part.data_ptr() == whole[1].data_ptr()
        part[0] = 7.0
        assert bool((whole[1] == 7.0).all())
        assert not bool((copy[0] == 7.0).any())


def test_copies_do_not_follow_training(adapters: Adapters) -> None:
    frozen, trainable = adapters.frozen(), adapters.trainable()
    for weight in adapters.parameters():
        weight += 1.0
    for old, live, mine in zip(frozen.parameters(), trainable.parameters(), adapters.parameters(), strict=True):
        torch.testing.assert_close(old, mine - 1.0)
        assert live.requires_grad
        assert torch.equal(live.detach(), old)
        assert not old.requires_grad


def test_state_and_concatenation_give_the_adapters_back(adapters: Adapters) -> None:
    again = Adapters.from_state(adapters.state(), adapters.scale)
    joined = Adapters.concatenate([adapters[2:], adapters[:2]])
    assert again.scale == joined.scale == adapters.scale
    for whole, copy, other in zip(adapters.parameters(), again.parameters(), joined.parameters(), strict=True):
        assert torch.equal(whole, copy)
        assert torch.equal(other, whole[[2, 0, 1]])


@torch.no_grad()
def test_without_adapters_the_base_is_bare(
    make_model: Callable[[], Any], bank: AdapterBank, make_rows: Callable[..., list[Row]]
) -> None:
    tokens = right_pad(make_rows(4), 0, bank.device).tokens
    bare = make_model()(tokens).logits
    assert torch.equal(bank.model(tokens).logits, bare)
    with bank.use(None):
        assert torch.equal(bank.model(tokens).logits, bare)
    with bank.use(bank.create([0, 1])):  # B is zero
        assert torch.equal(bank.model(tokens).logits, bare)


@torch.no_grad()
def test_use_restores_what_was_active(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    tokens = right_pad(make_rows(6), 0, bank.device).tokens
    bare = bank.model(tokens).logits
    with bank.use(adapters):
        outer = bank.model(tokens).logits
        with bank.use(adapters[1:2]):
            inner = bank.model(tokens).logits
        assert torch.equal(bank.model(tokens).logits, outer)
        with bank.use(None):
            assert torch.equal(bank.model(tokens).logits, bare)
        with pytest.raises(RuntimeError, match="stop"), bank.use(None):
            raise RuntimeError("stop")
        assert torch.equal(bank.model(tokens).logits, outer)
    assert torch.equal(bank.model(tokens).logits, bare)
    # Rows 2 and 3 belong to condition 1 either way; the others do not.
    torch.testing.assert_close(inner[2:4], outer[2:4], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(inner[:2], outer[:2], atol=0.1)
    assert not torch.allclose(outer, bare, atol=0.1)


def test_gradients_do_not_change_the_answer(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    """Without gradients the bank adds in place, with them it must not."""
    tokens = right_pad(make_rows(6), 0, bank.device).tokens
    with bank.use(adapters.trainable()):
        with torch.no_grad():
            quick = bank.model(tokens).logits
        torch.testing.assert_close(bank.model(tokens).logits, quick, rtol=1e-5, atol=1e-5)
        assert bank.model(tokens).logits.requires_grad
    assert not any(p.requires_grad for p in bank.model.parameters())


def test_fresh_adapters_are_drawn_as_peft_draws_them(bank: AdapterBank) -> None:
    """Kaiming-uniform with a = √5: uniform on ±1/√d_in, so the variance is 1/(3 d_in). B is zero."""
    adapters = bank.create([5, 6, 5])
    for name, a in adapters.a.items():
        assert torch.equal(a[0], a[2])
        assert not torch.equal(a[0], a[1])
        assert float(a.abs().max()) <= 1 / math.sqrt(bank.shapes[name][0])
        assert not adapters.b[name].any()
    draws = torch.stack([a for a in bank.create(range(50)).a.values() if a.shape[1] == 32])
    assert float(draws.var() * 3 * 32) == pytest.approx(1, abs=0.02)
    first, second = (adapters.a[f"model.layers.{i}.self_attn.q_proj"] for i in (0, 1))
    assert not torch.equal(first, second)


def test_dropout_thins_the_adapters_input_and_nothing_else(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    """Against a hook that computes base(x) + scale · (x ∘ m) A B with the mask of `Dropout.factors` for one layer."""
    rows = make_rows(6)
    batch = right_pad(rows, 0, bank.device)
    dropout = Dropout(0.25, [11, 12, 13, 14, 15, 16], [row.length for row in rows])
    name = list(bank.shapes)[-1]
    layer, seen = bank.model.get_submodule(name), []
    handle = layer.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    with torch.no_grad(), bank.use(adapters, dropout):
        bank.model(batch.tokens)
    handle.remove()
    x, output = seen[0]
    factors = dropout.factors(x, len(bank.shapes) - 1)
    update = (x * factors).view(3, -1, x.shape[-1]) @ adapters.a[name] @ adapters.b[name]
    expected = torch.nn.functional.linear(x, layer.weight) + adapters.scale * update.view(output.shape)
    torch.testing.assert_close(output, expected)
    real = torch.cat([factors[i, : row.length].flatten() for i, row in enumerate(rows)])
    assert real.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert float((real == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_dropout_of_a_row_does_not_depend_on_its_batch(device: torch.device) -> None:
    wide, narrow = torch.zeros(2, 9, 5, device=device), torch.zeros(1, 4, 5, device=device)
    together = Dropout(0.5, [7, 8], [6, 4]).factors(wide, place=3)
    alone = Dropout(0.5, [8], [4]).factors(narrow, place=3)
    assert torch.equal(together[1, :4], alone[0])
    assert not torch.equal(Dropout(0.5, [8], [4]).factors(narrow, place=2), alone)
    assert not torch.equal(Dropout(0.5, [9], [4]).factors(narrow, place=3), alone)


def test_which_layers_are_adapted(make_model: Callable[[], Any]) -> None:
    """Hidden size 32, feed-forward 48, 4 heads and 2 key-value heads of width 8."""
    attention = {"q_proj": (32, 32), "k_proj": (32, 16), "v_proj": (32, 16), "o_proj": (32, 32)}
    forward = {"gate_proj": (32, 48), "up_proj": (32, 48), "down_proj": (48, 32)}

    def found(targets: Any) -> dict[str, tuple[int, int]]:
        layers = adapted_layers(make_model(), targets)
        assert all(name.startswith("model.layers.") for name in layers)
        return {name.split(".")[-1]: shape for name, shape in layers.items()}

    assert found("attention") == attention
    assert found("all-linear") == attention | forward
    assert found(["down_proj"]) == {"down_proj": (48, 32)}


def test_what_is_in_use_can_be_put_to_use_again(bank: AdapterBank, adapters: Adapters) -> None:
    with bank.use(adapters):
        again = bank.present()
    assert bank.active is None
    with again():
        assert bank.active is adapters
    assert bank.active is None


def test_an_unknown_module_is_named(make_model: Callable[[], Any]) -> None:
    with pytest.raises(BetastarError, match="no linear layer named nope, wrong; list names"):
        AdapterBank(make_model(), ("q_proj", "wrong", "nope"), rank=4, alpha=8)
    with pytest.raises(BetastarError, match="no linear layer named embed_tokens"):  # there, but not linear
        AdapterBank(make_model(), ("embed_tokens",), rank=4, alpha=8)
