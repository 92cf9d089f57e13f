"""The stacked optimiser against PyTorch's own AdamW and clipping, one condition at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from betastar.models.optimise import (
    NotFiniteError,
    StackedOptimiser,
    clip_by_condition,
    constant_schedule,
    linear_schedule,
    one_cycle_schedule,
    optimiser_state,
    restore_optimiser,
    set_learning_rate,
)

SHAPES = ((3, 5, 2), (3, 2, 4), (3, 6))
SIZES = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)  # gradient sizes of the three conditions


def normals(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    return [g * SIZES.view(3, *[1] * (g.ndim - 1)) for g in normals(100 + step)]


def stacked() -> StackedOptimiser:
    weights = [w.requires_grad_(True) for w in normals(0)]
    return StackedOptimiser(weights, learning_rate=0.01, weight_decay=0.1, clip=2.0)


def step(optimiser: StackedOptimiser, number: int) -> Tensor:
    for weight, gradient in zip(optimiser.weights, gradients(number), strict=True):
        weight.grad = gradient.clone()
    return optimiser.step(schedule=1 / (1 + number))


def test_each_condition_moves_as_under_pytorchs_adamw() -> None:
    optimiser = stacked()
    norms = torch.stack([step(optimiser, number) for number in range(6)])
    assert all(weight.grad is None for weight in optimiser.weights)
    for c in range(3):
        mine = [w[c].clone().requires_grad_(True) for w in normals(0)]
        adam = torch.optim.AdamW(mine, lr=0.01, weight_decay=0.1)
        for number in range(6):
            for weight, gradient in zip(mine, gradients(number), strict=True):
                weight.grad = gradient[c].clone()
            norm = torch.nn.utils.clip_grad_norm_(mine, 2.0)
            torch.testing.assert_close(norms[number, c], norm)
            adam.param_groups[0]["lr"] = 0.01 / (1 + number)
            adam.step()
        for ours, alone in zip(optimiser.weights, mine, strict=True):
            torch.testing.assert_close(ours[c], alone, rtol=1e-9, atol=1e-12)
    assert float(norms[:, 0].max()) < 2.0 < float(norms[:, 2].min())


def test_a_checkpoint_continues_identically() -> None:
    unbroken, first, second = stacked(), stacked(), stacked()
    for number in range(8):
        step(unbroken, number)
    for number in range(3):
        step(first, number)
    restore_optimiser(second.adam, {name: value.clone() for name, value in optimiser_state(first.adam).items()})
    for number in range(3, 8):
        step(second, number)
    for a, b in zip(unbroken.weights, second.weights, strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_before_the_first_step() -> None:
    unbroken, restored = stacked(), stacked()
    state = {name: value.clone() for name, value in optimiser_state(stacked().adam).items()}
    with torch.no_grad():
        restored.weights[0].zero_()
    restore_optimiser(restored.adam, state)
    for optimiser in (unbroken, restored):
        step(optimiser, 0)
    assert torch.equal(unbroken.weights[0], restored.weights[0])


def test_clipping_by_hand() -> None:
    """Norms over both tensors: 5 and 0.5. At most 1: a fifth, unchanged."""
    weights = [torch.zeros(2, 1, requires_grad=True), torch.zeros(2, 1, 1, requires_grad=True)]
    weights[0].grad = torch.tensor([[3.0], [0.3]])
    weights[1].grad = torch.tensor([4.0, 0.4]).view(2, 1, 1)
    assert clip_by_condition(weights, 1.0).tolist() == pytest.approx([5, 0.5])
    assert weights[0].grad.flatten().tolist() == pytest.approx([0.6, 0.3], rel=1e-5)
    assert weights[1].grad.flatten().tolist() == pytest.approx([0.8, 0.4], rel=1e-5)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_refused_and_change_nothing(spoilt: float) -> None:
    optimiser = stacked()
    for weight, gradient in zip(optimiser.weights, gradients(0), strict=True):
        weight.grad = gradient
    optimiser.weights[1].grad[2, 0, 0] = spoilt  # type: ignore[index]
    with pytest.raises(NotFiniteError) as error:
        optimiser.step(1.0)
    assert error.value.conditions == [2]
    assert all(torch.equal(now, before) for now, before in zip(optimiser.weights, normals(0), strict=True))
    assert all(not optimiser.adam.state[w]["exp_avg"].any() for w in optimiser.weights)


def test_linear_schedule() -> None:
    """100 steps: 1/10 at first, 1 at step 9 and 10, then down by 1/90 a step to 1/90 at the last."""
    values = [linear_schedule(step, 100, 10) for step in range(100)]
    assert (values[0], values[9], values[10]) == (0.1, 1.0, 1.0)
    assert values[-1] == pytest.approx(1 / 90)
    assert max(values) == 1.0
    assert all(0 < linear_schedule(step, n, w) <= 1 for n in (1, 2, 3, 5) for w in (0, 1, n) for step in range(n))


def test_constant_schedule() -> None:
    values = [constant_schedule(step, 10) for step in range(100)]
    assert values[:2] == [0.1, 0.2]
    assert values[9:] == [1.0] * 91


def test_one_cycle_schedule() -> None:
    """From 1/25 up to 1 at 15 % of the steps, and down to about nothing."""
    assert one_cycle_schedule(0, 200) == pytest.approx(1 / 25)
    assert one_cycle_schedule(30, 200) == 1.0
    assert one_cycle_schedule(200, 200) == pytest.approx(1e-5)
    values = [one_cycle_schedule(step, 200) for step in range(200)]
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)


def test_set_learning_rate() -> None:
    optimiser = stacked()
    set_learning_rate(optimiser.adam, 0.5)
    assert [group["lr"] for group in optimiser.adam.param_groups] == [0.5]
