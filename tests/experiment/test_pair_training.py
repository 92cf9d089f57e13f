"""The loop over pairs: the size of the pieces and the other conditions of the bank change nothing beyond rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from betastar.errors import BetastarError
from betastar.experiment.memory import Room, one_sentence_without_memory
from betastar.experiment.training import PairTrainer, Part, batches
from betastar.maths.objectives import dpo_loss
from betastar.models.bank import AdapterBank
from betastar.models.logprobs import pair_logprobs
from betastar.models.optimise import StackedOptimiser
from betastar.models.random_models import build_model
from betastar.models.sequences import Pair, pair_pad
from betastar.progress import Reporter
from betastar.randomness import numpy_generator
from betastar.settings.sections import Geometry, Training

N, STEPS, BATCH = 12, 3, 4
SETTINGS = Training(batch_size=BATCH, learning_rate=0.01, epochs=STEPS * BATCH / N)


@pytest.fixture(scope="module")
def bank() -> AdapterBank:
    geometry = Geometry(hidden_size=32, intermediate_size=48, heads=4, key_value_heads=2, context=128)
    return AdapterBank(build_model(geometry, 64, root_seed=0), "attention", rank=4, alpha=6)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    return [Pair(*(rng.integers(1, 64, n).tolist() for n in rng.integers(1, 12, 3))) for _ in range(N)]


def train(
    bank: AdapterBank, pairs: list[Pair], conditions: range, most_tokens: int, fits: int | None = None
) -> list[Any]:
    """Losses and norms of every step and the weights at the end; with `fits`, a device on which larger passes fail."""
    adapters = bank.create([5 + c % 2 for c in conditions]).trainable()

    def losses(part: Part) -> Tensor:
        batch = pair_pad(part.items, 0, "cpu")
        if fits is not None and batch.tokens.numel() > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        with bank.use(adapters[part.conditions], part.dropout):
            chosen, rejected = pair_logprobs(bank.model, batch).view(*part.which.shape, 2).unbind(-1)
        return dpo_loss(0.1 * (chosen - rejected))

    order = [batches(numpy_generator(0, "order", c), N, SETTINGS) for c in conditions]
    room = Room(most_tokens, 1, Reporter())
    trainer = PairTrainer(
        "offline",
        [f"condition {c}" for c in conditions],
        SETTINGS,
        adapters.parameters(),
        pairs,
        order,
        losses,
        room,
        dropout=0.2,
        streams=[100 + c for c in conditions],
    )
    log = [trainer.step(step) for step in range(trainer.steps)]
    return [torch.tensor(log), *(w.detach() for w in adapters.parameters())]


def check_equal(ours: list[Tensor], theirs: list[Tensor], conditions: slice = slice(None)) -> None:
    torch.testing.assert_close(ours[0], theirs[0][:, :, conditions], rtol=1e-4, atol=1e-5)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b[conditions], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most_tokens", [1, 60, 300])
def test_the_size_of_the_pieces_changes_nothing(bank: AdapterBank, pairs: list[Pair], most_tokens: int) -> None:
    check_equal(train(bank, pairs, range(3), most_tokens), train(bank, pairs, range(3), 10**6))


def test_a_bank_of_three_with_dropout_is_three_banks_of_one(bank: AdapterBank, pairs: list[Pair]) -> None:
    together = train(bank, pairs, range(3), 10**6)
    for c in range(3):
        check_equal(train(bank, pairs, range(c, c + 1), 10**6), together, slice(c, c + 1))


def test_running_out_of_memory_changes_nothing(bank: AdapterBank, pairs: list[Pair]) -> None:
    check_equal(train(bank, pairs, range(3), 10**6, fits=120), train(bank, pairs, range(3), 10**6))


def test_batches_are_reshuffled_passes() -> None:
    order = batches(numpy_generator(0, "x"), N, Training(batch_size=5, epochs=2))
    assert order.shape == (5, 5)  # ⌈2 · 12 / 5⌉ steps
    assert sorted(order.ravel()[:N].tolist()) == list(range(N))
    assert not np.array_equal(order.ravel()[:N], order.ravel()[N : 2 * N])


def test_a_bootstrap_draws_with_replacement() -> None:
    drawn: Callable[[int], set[int]] = lambda seed: set(  # noqa: E731
        batches(numpy_generator(seed, "x"), 1000, Training(batch_size=1000), bootstrap=True).ravel().tolist()
    )
    # A resample of n misses each row with probability (1 - 1/n)^n, about 1/e.
    assert np.mean([len(drawn(seed)) for seed in range(20)]) == pytest.approx(1000 * (1 - np.exp(-1)), rel=0.02)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_stage_by_name(bank: AdapterBank, spoilt: float) -> None:
    """The third of three conditions diverges at the second step: one sentence says so, no weight moves after it, and
    nothing of that step is logged."""
    pairs = [Pair([1, 2], [3], [4])] * N
    adapters = bank.create([0, 1, 2]).trainable()
    at = [0]

    def losses(part: Part) -> Tensor:
        with bank.use(adapters[part.conditions], part.dropout):
            chosen, rejected = pair_logprobs(bank.model, pair_pad(part.items, 0, "cpu")).view(3, -1, 2).unbind(-1)
        factor = torch.tensor([[1.0], [1.0], [spoilt if at[0] == 1 else 1.0]])
        return dpo_loss(0.1 * (chosen - rejected)) * factor

    order = [batches(numpy_generator(0, "order", c), N, SETTINGS) for c in range(3)]
    names = ["beta-0.1-seed-0", "beta-0.1-seed-1", "beta-1-seed-0"]
    trainer = PairTrainer(
        "offline", names, SETTINGS, adapters.parameters(), pairs, order, losses, Room(10**6, 1, Reporter())
    )
    trainer.step(0)
    at[0] += 1
    before = [w.detach().clone() for w in adapters.parameters()]
    expected = (
        r"^offline, step 2 of 3: the training of beta-1-seed-0 has diverged \(gradient norm (nan|inf)\); lower "
        r"offline\.learning_rate or offline\.clip\.$"
    )
    with pytest.raises(BetastarError, match=expected):
        trainer.step(1)
    assert all(torch.equal(old, new) for old, new in zip(before, adapters.parameters(), strict=True))


def test_the_optimisers_first_step_allocates_nothing_that_grows_with_the_bank() -> None:
    """What does not fit must fail before the first step: within AdamW's, weights could be left half updated."""
    weight = torch.zeros(3, 1000, 100, requires_grad=True)
    optimiser = StackedOptimiser([weight], 0.1, 0.0, 1.0)
    weight.grad = torch.ones_like(weight)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        optimiser.step(1.0)
    largest = max(event.self_cpu_memory_usage for event in seen.events())  # type: ignore[attr-defined]
    assert largest < weight.nbytes


def test_a_bank_that_does_not_fit_is_one_sentence_with_its_remedy() -> None:
    for stage, setting in (("offline", "offline.conditions_at_once"), ("online", "online.conditions_at_once")):
        expected = rf"^{stage}: out of memory with 70 conditions at once; lower {setting}, or choose a smaller model"
        with pytest.raises(BetastarError, match=expected), one_sentence_without_memory(stage, 70):
            raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(RuntimeError, match="shapes"), one_sentence_without_memory("offline", 70):
        raise RuntimeError("shapes do not match")
