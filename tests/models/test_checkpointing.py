"""Activation checkpointing: the same gradients, from less that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank, Adapters, Dropout, checkpoint_layers
from betastar.models.logprobs import response_logprobs
from betastar.models.sequences import RightPadded, Row, right_pad

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
DROPOUT = Dropout(0.3, keys=list(range(12)), lengths=[12] * 12)
SIZE = 12


@pytest.fixture
def batch(device: torch.device) -> RightPadded:
    """Three conditions of four rows."""
    tokens = torch.randint(1, 64, (12, SIZE), generator=torch.Generator().manual_seed(0)).tolist()
    return right_pad([Row(row[:5], row[5:]) for row in tokens], 0, device)


def loss_of(bank: AdapterBank, adapters: Adapters, batch: RightPadded) -> Tensor:
    """A loss whose backward pass comes, as in training, when the adapters are no longer in use."""
    with bank.use(adapters, DROPOUT):
        return response_logprobs(bank.model, batch).square().mean()


def gradients(loss: Tensor, adapters: Adapters) -> list[Tensor]:
    loss.backward()
    return [weight.grad for weight in adapters.parameters() if weight.grad is not None]


def equal(one: Tensor, other: Tensor) -> bool:
    """To the last bit on the CPU. On a GPU attention's backward pass adds up in any order."""
    return torch.equal(one, other) if one.device.type == "cpu" else torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def kept(bank: AdapterBank, adapters: Adapters, batch: RightPadded) -> int:
    """Numbers kept for the backward pass, without the weights themselves."""
    weights = {w.data_ptr() for w in [*bank.model.parameters(), *adapters.parameters()]}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(bank, adapters, batch)
    del loss
    return sum(found.values())


def test_gradients_are_the_same_and_less_is_kept(
    make_model: Callable[[], Any], random_adapters: Callable[..., Adapters], batch: RightPadded
) -> None:
    plain, again = (AdapterBank(make_model(), TARGETS, rank=4, alpha=6) for _ in range(2))
    checkpoint_layers(again)
    start = random_adapters(plain, 3)
    first, second = start.trainable(), start.trainable()
    loss, loss_again = loss_of(plain, first, batch), loss_of(again, second, batch)
    assert equal(loss, loss_again)
    # A backward pass may also come while others are in use, as that of a piece between two samplings.
    with again.use(random_adapters(again, 3, seed=9)):
        recomputed = gradients(loss_again, second)
    for ours, theirs in zip(recomputed, gradients(loss, first), strict=True):
        assert equal(ours, theirs)
    assert all((gradient != 0).any() for gradient in recomputed)
    # Of a layer only the input stays: 12 · 12 · 32 numbers, against several times as many of what it computes.
    assert kept(again, second, batch) < 0.3 * kept(plain, first, batch)


def test_two_banks_of_one_base_keep_out_of_each_others_way(
    make_model: Callable[[], Any], random_adapters: Callable[..., Adapters], batch: RightPadded
) -> None:
    """A policy and a reward model on the same base: each loss is computed again with its own adapters alone."""
    model = make_model()
    policy, reward = AdapterBank(model, TARGETS, rank=4, alpha=6), AdapterBank(model, ("q_proj",), rank=2, alpha=2)
    checkpoint_layers(policy)
    checkpoint_layers(reward)
    computed = 0

    def count(*_: object) -> None:
        nonlocal computed
        computed += 1

    model.model.layers[0].self_attn.register_forward_pre_hook(count)
    for bank in (policy, reward):
        adapters = random_adapters(bank, 3).trainable()
        alone = AdapterBank(make_model(), TARGETS if bank is policy else ("q_proj",), bank.rank, bank.scale * bank.rank)
        other = adapters.trainable()
        expected = gradients(loss_of(alone, other, batch), other)
        assert all(
            equal(ours, theirs)
            for ours, theirs in zip(gradients(loss_of(bank, adapters, batch), adapters), expected, strict=True)
        )
    assert computed == 4  # once forward and once again, for each of two losses


def test_without_gradients_nothing_is_computed_again(
    make_model: Callable[[], Any], random_adapters: Callable[..., Adapters], batch: RightPadded
) -> None:
    bank = AdapterBank(make_model(), TARGETS, rank=4, alpha=6)
    adapters = random_adapters(bank, 3)
    with torch.no_grad():
        before = loss_of(bank, adapters, batch)
        checkpoint_layers(bank)
        assert equal(loss_of(bank, adapters, batch), before)


def test_a_model_without_known_layers_is_refused() -> None:
    class Unknown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.Linear(8, 8)
            self.config = torch.nn.Module()
            self.config.model_type = "unknown"  # type: ignore[assignment]

        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(BetastarError, match="gradient_checkpointing: not supported for unknown; set it to"):
        checkpoint_layers(AdapterBank(Unknown(), ["attention"], rank=2, alpha=2))
