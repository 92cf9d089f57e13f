"""What is read inside a policy, against passes of single rows and gradients one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.plasticity import features, gradient_products, inner_units
from betastar.models.random_models import build_model
from betastar.models.sequences import Row
from betastar.settings.sections import Geometry

WIDTH, INNER, C = 32, 48, 3


@pytest.fixture(scope="module")
def bank() -> AdapterBank:
    geometry = Geometry(hidden_size=WIDTH, intermediate_size=INNER, heads=4, key_value_heads=2, context=128)
    return AdapterBank(build_model(geometry, 64, root_seed=0), "attention", rank=4, alpha=6)


@pytest.fixture(scope="module")
def adapters(bank: AdapterBank) -> Adapters:
    made, generator = bank.create([1, 2, 3]), torch.Generator().manual_seed(0)
    for weight in made.b.values():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    rng = np.random.default_rng(0)
    return [Row(*(rng.integers(1, 64, n).tolist() for n in rng.integers(1, 12, 2))) for _ in range(6)]


def alone(bank: AdapterBank, adapters: Adapters, c: int, rows: list[Row]) -> tuple[Tensor, list[Tensor]]:
    """States `[N, d]` and inner units of each layer `[N, U]` at all response tokens, one row at a time."""
    seen: list[list[Tensor]] = [[] for _ in inner_units(bank.model)]
    states = []

    def keeping(kept: list[Tensor]) -> Callable[..., None]:
        return lambda _module, args: kept.append(args[0][0])

    for row in rows:
        hooks = [
            module.register_forward_pre_hook(keeping(kept))
            for (module, _), kept in zip(inner_units(bank.model), seen, strict=True)
        ]
        with torch.no_grad(), bank.use(adapters[c : c + 1]):
            tokens = torch.tensor([[*row.prompt, *row.response]])
            states.append(bank.model.base_model(input_ids=tokens).last_hidden_state[0, len(row.prompt) :])
        for hook in hooks:
            hook.remove()
    starts = [len(row.prompt) for row in rows]
    units = [torch.cat([of_row[start:] for of_row, start in zip(layer, starts, strict=True)]) for layer in seen]
    return torch.cat(states), units


@pytest.mark.parametrize("most_tokens", [1, 50, 10**6])
def test_features_are_those_of_rows_read_alone(
    bank: AdapterBank, adapters: Adapters, rows: list[Row], most_tokens: int
) -> None:
    found = features(bank, adapters, rows, 0, most_tokens, most_states=10**6)
    assert found.units == "feed-forward"
    for c in range(C):
        states, units = alone(bank, adapters, c, rows)
        torch.testing.assert_close(found.states[c], states, rtol=1e-4, atol=1e-5)
        assert len(units) == 2
        for layer, activity in zip(units, found.activity, strict=True):
            torch.testing.assert_close(activity[c], layer.abs().mean(dim=0), rtol=1e-4, atol=1e-6)
    assert all(not module._forward_pre_hooks for module, _ in inner_units(bank.model))


def test_of_many_states_some_are_kept_evenly_spread(bank: AdapterBank, adapters: Adapters, rows: list[Row]) -> None:
    everything = features(bank, adapters, rows, 0, 10**6, most_states=10**6)
    some = features(bank, adapters, rows, 0, 40, most_states=5)
    n = everything.states.shape[1]
    at = np.round(np.linspace(0, n - 1, 5)).astype(int)
    torch.testing.assert_close(some.states, everything.states[:, at], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some.activity, everything.activity, rtol=1e-4, atol=1e-6)  # over all tokens still


@pytest.mark.parametrize("most_tokens", [1, 10**6])
def test_gradient_products_are_those_of_gradients_one_by_one(
    bank: AdapterBank, adapters: Adapters, rows: list[Row], most_tokens: int
) -> None:
    gradients = []
    for row in rows:
        one = adapters[1:2].trainable()
        with bank.use(one):
            tokens = torch.tensor([[*row.prompt, *row.response]])
            logits = bank.model(input_ids=tokens).logits[0, len(row.prompt) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, tokens[0, len(row.prompt) :])
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, one.parameters())]).double())
    stacked = torch.stack(gradients)
    found = gradient_products(bank, adapters[1:2], rows, 0, most_tokens)
    torch.testing.assert_close(found, stacked @ stacked.T, rtol=1e-3, atol=1e-6)


def test_a_model_of_another_make_and_one_without_feed_forward_layers(rows: list[Row]) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=WIDTH, n_layer=3, n_head=4)).eval()
    assert [units for _, units in inner_units(gpt2)] == [4 * WIDTH] * 3  # Conv1D
    bank = AdapterBank(gpt2, ["c_attn"], rank=2, alpha=2)
    found = features(bank, bank.create([0]), rows, 0, 60, 10**6)
    assert [layer.shape for layer in found.activity] == [(1, 4 * WIDTH)] * 3
    for block in gpt2.transformer.h:
        block.mlp = torch.nn.Identity()
    bare = features(bank, bank.create([0]), rows, 0, 60, 10**6)
    assert bare.units == "last hidden state"
    torch.testing.assert_close(bare.activity[0], bare.states.abs().mean(dim=1), rtol=1e-5, atol=1e-6)
