"""Losses against TRL's own trainers, hand-worked numbers and closed-form gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betastar.maths.constants import EPSILON
from betastar.maths.objectives import (
    advantage,
    bradley_terry_loss,
    dpo_loss,
    implicit_reward_margin,
    kl_coefficient,
    online_loss,
)
from betastar.models.bank import AdapterBank
from betastar.models.loading import quiet
from betastar.models.logprobs import response_logprobs, token_logprobs
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.models.rewards import RewardEnsemble, pair_scores
from betastar.models.sequences import Pair, RightPadded, pair_pad
from betastar.settings.sections import Geometry

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*gradient_checkpointing:FutureWarning"
)

PAIRS = {
    "prompt": ["2 + 2 =", "Say hello to Anna.", "x"],
    "chosen": [" 4", " Hello Anna, how are you?", " y"],
    "rejected": [" five", " No.", " a much longer answer"],
}


def tiny_model(seed: int) -> Any:
    torch.set_num_threads(1)
    geometry = Geometry(
        hidden_size=32,
        intermediate_size=48,
        layers=2,
        heads=4,
        key_value_heads=2,
        context=128,
        initializer_range=0.1,
    )
    return build_model(geometry, len(build_byte_tokenizer()), seed)


def margin_of_halves(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """TRL's batches hold all chosen rows, then all rejected ones."""
    half = len(policy) // 2
    return implicit_reward_margin(policy[:half], policy[half:], reference[:half], reference[half:], torch.tensor(beta))


def trainer_settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": len(PAIRS["prompt"]),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
    }


@pytest.fixture(scope="module")
def dpo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    quiet()
    settings = DPOConfig(**trainer_settings(tmp_path_factory.mktemp("dpo")))
    return DPOTrainer(
        tiny_model(0),
        ref_model=tiny_model(1),
        args=settings,
        train_dataset=Dataset.from_dict(PAIRS),
        processing_class=build_byte_tokenizer(),
    )


@pytest.mark.parametrize("beta", [0.05, 0.2, 1.0])
def test_dpo_loss_is_trls(dpo_trainer: Any, beta: float) -> None:
    """TRL computes log-probabilities and loss itself, from its own batch; ours come from the same token ids."""
    batch = next(iter(dpo_trainer.get_train_dataloader()))
    dpo_trainer.beta = beta
    theirs = dpo_trainer.compute_loss(dpo_trainer.model, batch).detach()
    ours_batch = RightPadded(batch["input_ids"], batch["completion_mask"].bool())
    policy, reference = (response_logprobs(tiny_model(seed), ours_batch).detach() for seed in (0, 1))
    ours = dpo_loss(margin_of_halves(policy, reference, beta)).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert 0.01 < float(theirs) < 100  # not saturated


def test_bradley_terry_loss_is_trls(tmp_path: Path) -> None:
    """TRL's RewardTrainer on a sequence classifier; ours scores the same tokens with a bare member of an ensemble."""
    from datasets import Dataset
    from transformers import Qwen3ForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    quiet()
    backbone = tiny_model(0)
    backbone.config.num_labels, backbone.config.pad_token_id = 1, build_byte_tokenizer().pad_token_id
    classifier = Qwen3ForSequenceClassification(backbone.config)
    classifier.model.load_state_dict(backbone.model.state_dict())
    head = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    classifier.score.weight.data.copy_(head)
    trainer: Any = RewardTrainer(
        classifier,
        args=RewardConfig(**trainer_settings(tmp_path)),
        train_dataset=Dataset.from_dict({side: PAIRS[side] for side in ("chosen", "rejected")}),
        processing_class=build_byte_tokenizer(),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(batch)).detach()

    bank = AdapterBank(tiny_model(0), ("q_proj",), rank=2, alpha=2)
    ensemble = RewardEnsemble(bank.create([0]), head)
    rows = [row[kept.bool()].tolist() for row, kept in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    half = len(rows) // 2  # TRL's batches hold all chosen rows, then all rejected ones
    pairs = [Pair(*_split(*sides)) for sides in zip(rows[:half], rows[half:], strict=True)]
    chosen, rejected = pair_scores(bank, ensemble, pair_pad(pairs, 0, "cpu"), None)[0].unbind(-1)
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected).mean(), theirs, rtol=1e-5, atol=1e-6)
    assert float((chosen - rejected).abs().min()) > 0.01


def _split(chosen: list[int], rejected: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The first token, which both begin with, as the prompt of both."""
    assert chosen[0] == rejected[0]
    return chosen[:1], chosen[1:], rejected[1:]


def test_dpo_loss_by_hand() -> None:
    """β·((-1 + 2) - (-3 + 2)) = 0.5·2 = 1; -log σ(1) = log(1 + 1/e)."""
    margin = margin_of_halves(torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -2.0]), 0.5)
    assert margin.tolist() == [1.0]
    assert dpo_loss(margin).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert bradley_terry_loss(torch.tensor(3.0), torch.tensor(3.0)).item() == pytest.approx(math.log(2))
    # Far from zero the loss is linear, neither infinite nor zero by rounding.
    assert dpo_loss(torch.tensor([-1000.0, 50.0])).tolist() == pytest.approx([1000.0, math.exp(-50)])


def test_dpo_gradient_is_the_papers() -> None:
    """∂/∂m of -log σ(m) is -σ(-m)."""
    margin = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    dpo_loss(margin).sum().backward()
    torch.testing.assert_close(margin.grad, -torch.sigmoid(-margin.detach()))


def test_advantage_by_hand() -> None:
    """(1, 3): mean 2, std 1 with B in the denominator. Equal rewards and a batch of one give zero, not NaN."""
    result = advantage(torch.tensor([[1.0, 3.0], [5.0, 5.0]], dtype=torch.float64))
    assert result[0].tolist() == pytest.approx([-1 / (1 + EPSILON), 1 / (1 + EPSILON)], rel=1e-12)
    assert result[1].tolist() == [0, 0]
    assert advantage(torch.tensor([[4.0]])).tolist() == [[0.0]]


def test_advantage_keeps_conditions_apart_and_ignores_scale() -> None:
    reward = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = advantage(reward)
    for c in range(3):
        torch.testing.assert_close(advantage(reward[c]), whole[c])
    torch.testing.assert_close(advantage(7 * reward - 100), whole, rtol=1e-5, atol=1e-6)


def test_kl_coefficient_by_hand() -> None:
    """|d| = 0, 1, 2, 3, 4: the 75th percentile is 3, the median 2."""
    log_ratio, beta = torch.tensor([[-4.0, 3.0, 0.0, -1.0, 2.0]]), torch.tensor([0.6])
    assert kl_coefficient(log_ratio, beta, 75).tolist() == pytest.approx([0.6 / 3], rel=1e-6)
    assert kl_coefficient(log_ratio, beta, 50).tolist() == pytest.approx([0.3], rel=1e-6)


def test_kl_coefficient_takes_no_penalty_on_rounding_noise() -> None:
    """The 75th percentile of |d| is 3: with a noise of 0.99 it is above 3 × 0.99, with one of 1 it is not. Where all
    log-ratios are exactly 0, as at the first step, there is no penalty either."""
    log_ratio = torch.tensor([[-4.0, 3.0, 0.0, -1.0, 2.0]] * 2 + [[0.0] * 5])
    kappa = kl_coefficient(log_ratio, torch.full((3,), 0.6), 75, torch.tensor([0.99, 1.0, 0.0]))
    assert kappa.tolist() == pytest.approx([0.2, 0.0, 0.0], rel=1e-6)


@pytest.mark.parametrize("value", [0.1, -3.7, 1e6, 0.0])
@pytest.mark.parametrize("batch", [2, 3, 7, 32])
def test_equal_rewards_have_advantage_zero(value: float, batch: int) -> None:
    """In float32 the mean of equal numbers may differ from them in the last bit, and ε is no larger than that."""
    reward = torch.stack([torch.full((batch,), value), torch.arange(batch, dtype=torch.float32)])
    advantages = advantage(reward)
    assert not advantages[0].any()
    assert float(advantages[1].abs().max()) > 0.9


class TestEquationEight:
    """Which gradient Eq. 8 takes as coded, by enumerating a policy over eight answers.

    Each answer's loss comes from `token_logprobs` (a head, a temperature) and `online_loss`, as in training; weighted
    with the answer's probability it gives the expected gradient exactly.
    """

    KAPPA = 0.3

    def setup_method(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Linear(6, 8, bias=False, dtype=torch.float64).requires_grad_(False)
        self.head.weight.copy_(torch.randn(8, 6, generator=generator))
        self.hidden, self.reference = torch.randn(2, 1, 6, generator=generator, dtype=torch.float64)
        self.advantages = torch.randn(8, generator=generator, dtype=torch.float64)

    def policy(self, hidden: Tensor, temperature: float) -> Tensor:
        return (self.head(hidden)[0] / temperature).log_softmax(-1)

    def gradient(self, value: Callable[[Tensor], Tensor]) -> Tensor:
        hidden = self.hidden.clone().requires_grad_(True)
        value(hidden).backward()
        assert hidden.grad is not None
        return hidden.grad[0]

    def as_coded(self, sampled_at: float, taken_at: float) -> Tensor:
        """Expected gradient with answers sampled at one temperature and their log-probabilities taken at another."""
        weight = self.policy(self.hidden, sampled_at).exp()
        answers = torch.arange(8)

        def loss(hidden: Tensor) -> Tensor:
            ours, fixed = (
                token_logprobs(state.expand(8, 6), answers, self.head, taken_at)[:, None]
                for state in (hidden, self.reference)
            )
            kappa = torch.full((8,), self.KAPPA, dtype=torch.float64)
            return (weight * online_loss(ours, fixed, self.advantages[:, None], kappa)).sum()

        return self.gradient(loss)

    def of_the_objective(self, temperature: float) -> Tensor:
        """∇(−E[Â] + 2κ·KL(π‖π_ref)) at a temperature."""

        def objective(hidden: Tensor) -> Tensor:
            log_policy = self.policy(hidden, temperature)
            log_ratio = log_policy - self.policy(self.reference, temperature)
            return (log_policy.exp() * (2 * self.KAPPA * log_ratio - self.advantages)).sum()

        return self.gradient(objective)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
    def test_it_is_that_of_minus_the_advantage_plus_twice_kappa_kl(self, temperature: float) -> None:
        torch.testing.assert_close(
            self.as_coded(temperature, temperature), self.of_the_objective(temperature), rtol=1e-4, atol=1e-5
        )

    def test_read_literally_equation_eight_has_further_terms(self) -> None:
        """∇E[f] = E[∇f] + E[f·∇log π] with f = κd² − Â·log π: the second is the score-function part, which is not
        taken. Both of its terms are more than rounding."""

        def literal(hidden: Tensor) -> Tensor:
            log_policy = self.policy(hidden, 1.0)
            log_ratio = log_policy - self.policy(self.reference, 1.0)
            return (log_policy.exp() * (self.KAPPA * log_ratio.square() - self.advantages * log_policy)).sum()

        log_policy = self.policy(self.hidden, 1.0)
        log_ratio = log_policy - self.policy(self.reference, 1.0)

        def further(of_each_answer: Tensor) -> Tensor:
            return self.gradient(lambda hidden: (self.policy(hidden, 1.0).exp() * of_each_answer).sum())

        penalty, reward = further(self.KAPPA * log_ratio.square()), further(-self.advantages * log_policy)
        difference = self.gradient(literal) - self.as_coded(1.0, 1.0)
        torch.testing.assert_close(difference, penalty + reward, rtol=1e-4, atol=1e-5)
        assert min(float(penalty.norm()), float(reward.norm())) > 0.01

    def test_log_probabilities_at_another_temperature_than_that_of_sampling_are_biased(self) -> None:
        off = self.as_coded(1.7, 1.0) - self.of_the_objective(1.7)
        assert float(off.norm() / self.of_the_objective(1.7).norm()) > 0.1


def test_kl_coefficient_has_no_gradient() -> None:
    log_ratio = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    kappa = kl_coefficient(log_ratio, torch.tensor([0.5]), 75)
    assert not kappa.requires_grad
    # So the penalty's gradient is 2κd/B alone: κ = 0.5 / 2.5 = 0.2, B = 3.
    (kappa * log_ratio.square().mean(dim=-1)).sum().backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad[0].tolist() == pytest.approx([0.4 / 3, -0.8 / 3, 1.2 / 3], rel=1e-5)


def test_online_loss_by_hand() -> None:
    """-mean(1·(-2), -1·(-4)) + 0.1·mean(1², 2²) = -(2) / 2 + 0.25 = -0.75; the second condition has κ = 0."""
    logprob = torch.tensor([[-2.0, -4.0], [-2.0, -4.0]])
    reference = torch.tensor([[-3.0, -2.0], [-3.0, -2.0]])
    advantages = torch.tensor([[1.0, -1.0], [1.0, 0.0]])
    loss = online_loss(logprob, reference, advantages, torch.tensor([0.1, 0.0]))
    assert loss.tolist() == pytest.approx([-1 + 0.25, 1.0])


def test_online_gradient_is_the_closed_form() -> None:
    """∂L/∂log π_i = (-Â_i + 2κ d_i) / B, condition by condition."""
    generator = torch.Generator().manual_seed(0)
    logprob, reference, advantages = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    kappa = torch.tensor([0.0, 0.1, 1.0, 5.0], dtype=torch.float64)
    logprob.requires_grad_(True)
    online_loss(logprob, reference, advantages, kappa).sum().backward()
    expected = (-advantages + 2 * kappa[:, None] * (logprob.detach() - reference)) / 6
    torch.testing.assert_close(logprob.grad, expected)
