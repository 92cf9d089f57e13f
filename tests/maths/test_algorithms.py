"""Advantages, surrogates and penalties: TRL's losses on the same batch, exact enumeration, and worked values."""

from __future__ import annotations

import itertools
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from betastar.maths.algorithms import (
    GRPO_EPSILON,
    adapted_coefficient,
    advantages_of,
    coefficient_by_uncertainty,
    k3,
    response_weights,
    surrogate,
)
from betastar.maths.constants import EPSILON

B, T, LIMIT = 6, 9, 12


class Batch:
    """Token log-probabilities `[B, T]` of policy, sampler and reference, advantages `[B]`, and a mask."""

    def __init__(self, drift: float) -> None:
        rng = torch.Generator().manual_seed(3)

        def some(scale: float) -> Tensor:
            return scale * torch.randn(B, T, generator=rng, dtype=torch.float64)

        self.lengths = torch.tensor([9, 1, 4, 7, 2, 9])
        self.mask = torch.arange(T)[None, :] < self.lengths[:, None]
        policy = -some(1.5).abs() * self.mask
        self.old = policy + drift * some(1.0) * self.mask
        self.reference = policy + some(0.6) * self.mask
        self.advantages = torch.randn(B, generator=rng, dtype=torch.float64)
        self.policy = policy.requires_grad_(True)

    def ours(self, kind: str, low: float | None, high: float | None, kappa: float = 0.0) -> Tensor:
        by_token = kind != "none"
        rows = surrogate(self.policy, self.old, self.advantages, self.mask, by_token=by_token, low=low, high=high)
        rows = rows + kappa * k3(self.policy, self.reference)
        return (response_weights(kind, self.lengths.double()[None], LIMIT)[0] * rows).sum()


def trainer(kind: Any, batch: Batch, **attributes: Any) -> Any:
    """A TRL trainer of which only the loss is called, whose model has given the batch's log-probabilities."""
    found = kind.__new__(kind)
    still: Any = SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )
    given = {
        "accelerator": still,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "use_vllm": False,
        "use_liger_kernel": False,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": LIMIT,
        "_entropy_bonus_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "args": SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        "_get_per_token_logps_and_entropies": lambda *a, **k: (batch.policy, torch.zeros(B, T), None),
        **attributes,
    }
    for name, value in given.items():
        object.__setattr__(found, name, value)
    return found


def inputs(batch: Batch) -> dict[str, Any]:
    """The same batch as TRL's trainers read it."""
    return {
        "prompt_ids": torch.ones(B, 2, dtype=torch.long),
        "prompt_mask": torch.ones(B, 2, dtype=torch.long),
        "completion_ids": torch.ones(B, T, dtype=torch.long),
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "old_logps": batch.old.sum(dim=1),
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": batch.mask.sum(),
    }


def check(ours: Tensor, theirs: Tensor, batch: Batch) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    mine, other = (torch.autograd.grad(loss, batch.policy, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(mine * batch.mask, other * batch.mask, rtol=1e-9, atol=1e-12)
    assert float((mine * batch.mask).norm()) > 0.01


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("drift", [0.0, 0.4])
@pytest.mark.parametrize(
    ("loss_type", "kind"), [("grpo", "response_mean"), ("dapo", "token_mean"), ("dr_grpo", "constant")]
)
def test_grpo_and_its_kin_are_trls(loss_type: str, kind: str, drift: float, beta: float) -> None:
    """Loss and gradient of GRPOTrainer, on the policy that sampled and on one that has moved, with DAPO's bounds."""
    from trl import GRPOTrainer

    batch = Batch(drift)
    theirs = trainer(GRPOTrainer, batch, loss_type=loss_type, beta=beta, epsilon_low=0.2, epsilon_high=0.28)
    check(batch.ours(kind, 0.2, 0.28, beta), theirs._compute_loss(None, inputs(batch)), batch)


@pytest.mark.parametrize("drift", [0.0, 0.1])
def test_rloo_is_trls(drift: float) -> None:
    """RLOOTrainer clips the ratio of whole responses."""
    from trl import RLOOTrainer

    batch = Batch(drift)
    theirs = trainer(RLOOTrainer, batch, beta=0.0, epsilon_low=0.2, epsilon_high=0.2)
    check(batch.ours("none", 0.2, 0.2), theirs._compute_loss(None, inputs(batch)), batch)


def test_without_bounds_on_the_sampling_policy_it_is_the_policy_gradient() -> None:
    """∂/∂log π of each token is -Â/B."""
    batch = Batch(0.0)
    (slope,) = torch.autograd.grad(batch.ours("none", None, None), batch.policy)
    torch.testing.assert_close(slope * batch.mask, -batch.advantages[:, None] / B * batch.mask)


def test_advantages_by_hand() -> None:
    """Two prompts of two answers: (1, 3) and (4, 4)."""
    reward = torch.tensor([[1.0, 3.0, 4.0, 4.0]], dtype=torch.float64)
    assert advantages_of("rloo", reward, 2).tolist() == [[-2, 2, 0, 0]]
    assert advantages_of("dr_grpo", reward, 2).tolist() == [[-1, 1, 0, 0]]
    grpo = 1 / (2**0.5 + GRPO_EPSILON)  # s with G − 1: √2
    assert advantages_of("grpo", reward, 2)[0].tolist() == pytest.approx([-grpo, grpo, 0, 0])
    # Eq. 9 compares with the whole batch: mean 3, s with B √1.5.
    assert advantages_of("batch", reward, 2)[0].tolist() == pytest.approx(
        [-2 / 1.5**0.5, 0, 1 / 1.5**0.5, 1 / 1.5**0.5], abs=1e-6
    )


def test_leaving_one_out_leaves_it_out() -> None:
    reward = torch.randn(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = advantages_of("rloo", reward, 4).unflatten(1, (3, 4))
    groups = reward.unflatten(1, (3, 4))
    for i in range(4):
        others = [j for j in range(4) if j != i]
        torch.testing.assert_close(found[..., i], groups[..., i] - groups[..., others].mean(dim=-1))


@pytest.mark.parametrize("kind", ["rloo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("value", [0.1, -3.7, 1e6])
def test_equal_rewards_teach_nothing(kind: str, value: float) -> None:
    assert not advantages_of(kind, torch.full((1, 6), value), 3).any()


class TestExactGradients:
    """The expected gradient of each advantage with each place of the KL, on a policy over eight answers, by enumerating
    all pairs of answers that a prompt's two samples can be."""

    KAPPA = 0.3

    def setup_method(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.logits, reference, self.reward = torch.randn(3, 8, generator=rng, dtype=torch.float64)
        self.log_reference = reference.log_softmax(-1)

    def expected(self, kind: str, place: str) -> Tensor:
        """Σ over pairs of answers of their probability times the gradient of the loss that training takes on them."""
        logits = self.logits.clone().requires_grad_(True)
        log_policy = logits.log_softmax(-1)
        fixed = log_policy.detach()
        total = torch.zeros((), dtype=torch.float64)
        for pair in itertools.product(range(8), repeat=2):
            at = torch.tensor(pair)
            d = fixed[at] - self.log_reference[at]
            reward = self.reward[at] - (self.KAPPA * d if place == "reward" else 0)
            advantages = advantages_of(kind, reward[None], 2)[0]
            logprob, ones = log_policy[at][:, None], torch.ones(2, 1, dtype=torch.bool)
            rows = surrogate(logprob, logprob.detach(), advantages, ones, by_token=True, low=0.2, high=0.2)
            if place == "loss_k3":
                rows = rows + self.KAPPA * k3(logprob, self.log_reference[at][:, None])
            if place == "loss_square":
                rows = rows + self.KAPPA * (log_policy[at] - self.log_reference[at]).square()
            total = total + fixed[at].sum().exp() * rows.mean()
        return torch.autograd.grad(total, logits)[0]

    def slope(self, value: Any) -> Tensor:
        """∇ of a function of the policy's log-probabilities."""
        logits = self.logits.clone().requires_grad_(True)
        return torch.autograd.grad(value(logits.log_softmax(-1)), logits)[0]

    def of_reward(self, kind: str, reward: Tensor) -> Tensor:
        """-∇E[a], a the mean advantage of an answer over what the other answer may be."""
        fixed = self.logits.log_softmax(-1)
        mean = torch.zeros(8, dtype=torch.float64)
        for y, other in itertools.product(range(8), repeat=2):
            a, b = reward[y], reward[other]
            scale = {
                "rloo": 1.0,  # a less the other one
                "dr_grpo": 0.5,  # a less the mean of both
                "grpo": 0.5 / ((a - b).abs() / 2**0.5 + GRPO_EPSILON),
                "batch": 0.5 / ((a - b).abs() / 2 + EPSILON),
            }[kind]
            mean[y] += fixed[other].exp() * scale * (a - b)
        return self.slope(lambda log_policy: -(log_policy.exp() * mean).sum())

    def kl(self, log_policy: Tensor) -> Tensor:
        return (log_policy.exp() * (log_policy - self.log_reference)).sum()

    @pytest.mark.parametrize("place", ["loss_square", "loss_k3", "reward", "none"])
    @pytest.mark.parametrize("kind", ["batch", "rloo", "grpo", "dr_grpo"])
    def test_it_is_the_gradient_that_is_claimed(self, kind: str, place: str) -> None:
        reward = self.reward
        if place == "reward":
            reward = reward - self.KAPPA * (self.logits.log_softmax(-1) - self.log_reference)
        penalty = {
            "loss_square": lambda log_policy: 2 * self.KAPPA * self.kl(log_policy),
            # The gradient of GRPO's term is that of the forward KL.
            "loss_k3": lambda log_policy: (
                self.KAPPA * (self.log_reference.exp() * (self.log_reference - log_policy)).sum()
            ),
        }.get(place)
        claimed = self.of_reward(kind, reward) + (self.slope(penalty) if penalty else 0)
        torch.testing.assert_close(self.expected(kind, place), claimed, rtol=1e-6, atol=1e-7)
        assert float(claimed.norm()) > 0.05

    def test_leaving_one_out_with_kl_in_the_reward_is_unbiased(self) -> None:
        """Exactly the gradient of E[r] − β·KL, which no other pair of the two gives."""
        exact = self.slope(lambda log_policy: self.KAPPA * self.kl(log_policy) - (log_policy.exp() * self.reward).sum())
        torch.testing.assert_close(self.expected("rloo", "reward"), exact, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(2 * self.expected("dr_grpo", "reward"), exact, rtol=1e-9, atol=1e-10)
        for other in (self.expected("grpo", "reward"), self.expected("rloo", "loss_k3")):
            assert float((other - exact).norm() / exact.norm()) > 0.05


def test_weights_by_hand() -> None:
    lengths = torch.tensor([[2.0, 4.0]])
    assert response_weights("none", lengths, 8).tolist() == [[0.5, 0.5]]
    assert response_weights("response_mean", lengths, 8).tolist() == [[0.25, 0.125]]
    assert response_weights("token_mean", lengths, 8)[0].tolist() == pytest.approx([1 / 6, 1 / 6])
    assert response_weights("constant", lengths, 8).tolist() == [[1 / 16, 1 / 16]]


def test_the_controller_by_hand() -> None:
    """KL twice the target: the error is clipped to 0.2, and 100 of 1000 responses of the horizon make a tenth of it."""
    found = adapted_coefficient(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 1.1, 0.0]), 1.0, 1000, 100)
    assert found.tolist() == pytest.approx([1.02, 1.01, 0.98])


def test_the_two_signs_of_uncertainty() -> None:
    start, now = torch.tensor([0.5]), torch.tensor([1.0])
    assert coefficient_by_uncertainty(0.4, start, now, 1).tolist() == pytest.approx([0.2])
    assert coefficient_by_uncertainty(0.4, start, now, -1).tolist() == pytest.approx([0.8])
