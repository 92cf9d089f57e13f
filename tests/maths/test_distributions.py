"""Entropies, ensemble disagreement and distances against closed forms, loops, NumPy and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from betastar.maths.distributions import (
    cosine_distance_to,
    ensemble_score,
    entropy,
    gibbs_entropy_slope,
    mean_pairwise_cosine_distance,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gibbs_entropy(log_reference: torch.Tensor, reward: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return entropy((log_reference + reward / beta).log_softmax(dim=-1))


def test_entropy_closed_forms() -> None:
    """Uniform over n: log n. A coin: -p log p - q log q. Geometric p = ½: 2 log 2. Nearly certain: near zero."""
    assert entropy(torch.zeros(7).log_softmax(0)).item() == pytest.approx(math.log(7))
    p = 0.3
    coin = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert entropy(torch.tensor([p, 1 - p]).log()).item() == pytest.approx(coin)
    k = torch.arange(1, 200, dtype=torch.float64)
    assert entropy(-k * math.log(2)).item() == pytest.approx(2 * math.log(2))
    assert entropy(torch.tensor([100.0, 0.0]).log_softmax(0)).item() == pytest.approx(0, abs=1e-30)
    assert entropy(torch.zeros(2, 3, 5).log_softmax(-1)).shape == (2, 3)


@given(seed=st.integers(0, 2**31), beta=st.floats(0.2, 5))
def test_entropy_slope_is_the_derivative(seed: int, beta: float) -> None:
    """E1: Var(r)/β³ + Cov(r, log π_ref)/β² is ∂H/∂β, by autograd and by central differences."""
    log_reference, reward = normal(2, 12, seed=seed)
    log_reference = log_reference.log_softmax(-1)
    b = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(gibbs_entropy(log_reference, reward, b), b)
    slope = gibbs_entropy_slope(log_reference, reward, b.detach())
    torch.testing.assert_close(slope, derivative, rtol=1e-8, atol=1e-10)
    h = 1e-5 * beta
    up, down = (gibbs_entropy(log_reference, reward, b.detach() + sign * h) for sign in (1, -1))
    torch.testing.assert_close(slope, (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


def test_entropy_slope_of_a_uniform_reference() -> None:
    """Var(r)/β³, never negative. Two actions with r = ±1: p = σ(2/β), Var(r) = 4p(1 - p)."""
    reward = torch.tensor([1.0, -1.0], dtype=torch.float64)
    for beta in (0.5, 1.0, 2.0):
        p = 1 / (1 + math.exp(-2 / beta))
        slope = gibbs_entropy_slope(torch.full((2,), -math.log(2)).double(), reward, torch.tensor(beta).double())
        assert slope.item() == pytest.approx(4 * p * (1 - p) / beta**3)


def test_entropy_slope_has_either_sign() -> None:
    """The reward favours what the reference finds unlikely: more conservatism (larger β) then *lowers* entropy. With
    log π_ref = (0, -4) and r = (0, 2) the policy is even at β = ½, where Var(r) = 1 and Cov(r, log π_ref) = -2: the
    slope is 1·8 - 2·4 = 0, and falls below zero beyond."""
    log_reference = torch.tensor([0.0, -4.0], dtype=torch.float64).log_softmax(0)
    reward = torch.tensor([0.0, 2.0], dtype=torch.float64)
    low, even, high = (gibbs_entropy_slope(log_reference, reward, torch.tensor(b).double()) for b in (0.4, 0.5, 1.0))
    assert low.item() > 0.1
    assert even.item() == pytest.approx(0, abs=1e-12)
    assert high.item() < -0.1
    at = [gibbs_entropy(log_reference, reward, torch.tensor(b).double()).item() for b in (0.5, 1.0)]
    assert at[0] == pytest.approx(math.log(2))
    assert at[1] < at[0]


def test_ensemble_score_is_numpys() -> None:
    scores = normal(5, 40)
    mean, disagreement = ensemble_score(scores)
    np.testing.assert_allclose(mean, scores.numpy().mean(axis=0))
    np.testing.assert_allclose(disagreement, scores.numpy().std(axis=0, ddof=1))


@pytest.mark.filterwarnings("ignore:std")  # torch says itself that a single member has no spread
def test_one_member_has_no_disagreement() -> None:
    mean, disagreement = ensemble_score(torch.tensor([[1.0, 2.0]]))
    assert mean.tolist() == [1, 2]
    assert disagreement.isnan().all()


def test_cosine_distance_by_hand() -> None:
    """Same direction 0, at right angles 1, opposite 2, at 60° one half; lengths do not matter."""
    embeddings = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-2.0, 0.0], [1.0, math.sqrt(3)]])
    assert cosine_distance_to(torch.tensor([2.0, 0.0]), embeddings).tolist() == pytest.approx([0, 1, 2, 0.5], abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_pairwise_distance_is_scipys_and_the_loops(n: int) -> None:
    embeddings = normal(n, 7) + 0.5
    value = mean_pairwise_cosine_distance(embeddings).item()
    assert value == pytest.approx(pdist(embeddings.numpy(), "cosine").mean())
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    loop = [1 - torch.cosine_similarity(embeddings[i], embeddings[j], dim=0).item() for i, j in pairs]
    assert value == pytest.approx(sum(loop) / len(loop))


def test_pairwise_distance_of_a_stack_and_of_twins() -> None:
    stack = normal(3, 10, 4)
    torch.testing.assert_close(
        mean_pairwise_cosine_distance(stack), torch.stack([mean_pairwise_cosine_distance(part) for part in stack])
    )
    assert mean_pairwise_cosine_distance(stack[0, :1].repeat(6, 1)).item() == pytest.approx(0, abs=1e-12)


def test_a_single_response_has_no_diversity() -> None:
    assert mean_pairwise_cosine_distance(normal(1, 4)).isnan()
