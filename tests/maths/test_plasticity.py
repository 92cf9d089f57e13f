"""Plasticity against NumPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from betastar.maths.plasticity import (
    effective_rank,
    is_dormant,
    mean_pairwise_cosine,
    singular_values,
    stable_rank,
    update_norm,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (8, 8)])
def test_singular_values_and_ranks_are_numpys(shape: tuple[int, int]) -> None:
    matrices = RNG.normal(size=(3, *shape)) * np.geomspace(1, 1e-3, shape[1])
    found = singular_values(torch.tensor(matrices))
    sigma = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(found, sigma, rtol=1e-6)
    share = sigma / sigma.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(effective_rank(found), np.exp(-(share * np.log(share)).sum(axis=1)), rtol=1e-9)
    fro, two = (np.linalg.norm(matrices, kind, axis=(1, 2)) for kind in ("fro", 2))
    np.testing.assert_allclose(stable_rank(found), (fro / two) ** 2, rtol=1e-9)


def test_ranks_in_closed_form() -> None:
    """k equal singular values have both ranks k, whatever their size; one direction has rank 1 and not less."""
    orthogonal = torch.linalg.qr(torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    values = singular_values(7 * orthogonal)
    assert effective_rank(values).item() == pytest.approx(4)
    assert stable_rank(values).item() == pytest.approx(4)
    one = singular_values(torch.outer(torch.arange(1.0, 6), torch.tensor([1.0, -2.0, 3.0])))
    assert effective_rank(one).item() == pytest.approx(1, abs=1e-5)
    assert stable_rank(one).item() == pytest.approx(1)
    assert effective_rank(torch.tensor([3.0, 1.0])).item() == pytest.approx(4 / 3**0.75)  # exp(H(3/4, 1/4))
    assert torch.isnan(effective_rank(torch.zeros(3)))
    assert torch.isnan(stable_rank(torch.zeros(3)))


def test_dormant_units() -> None:
    # Means 1 and 40: the limits are 0.025 and 1.
    activity = torch.tensor([[0.0, 0.024, 0.026, 3.95], [1.0, 1.1, 0.9, 157.0]])
    assert is_dormant(activity).tolist() == [[True, True, False, False], [True, False, True, False]]
    assert is_dormant(torch.zeros(3)).all()


def test_update_norm_is_that_of_the_whole_matrix() -> None:
    a, b = RNG.normal(size=(3, 20, 4)), RNG.normal(size=(3, 4, 30))
    expected = [2.5 * np.linalg.norm(x @ y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(update_norm(torch.tensor(a), torch.tensor(b), 2.5), expected, rtol=1e-12)
    assert update_norm(torch.tensor(a), torch.zeros(3, 4, 30), 2.0).tolist() == [0, 0, 0]


def test_mean_pairwise_cosine() -> None:
    vectors = RNG.normal(size=(5, 12))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.mean([unit[i] @ unit[j] for i in range(5) for j in range(5) if i != j])
    found = mean_pairwise_cosine(torch.tensor(vectors @ vectors.T))
    assert found.item() == pytest.approx(expected)
    for seed in range(20):  # equal vectors: never above 1, which rounding alone could bring about
        one = torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        same = mean_pairwise_cosine(torch.outer(torch.ones(3), torch.ones(3)) * (one @ one)).item()
        assert 1 - 1e-12 < same <= 1
    apart = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    assert mean_pairwise_cosine(apart).item() == -1
    assert torch.isnan(mean_pairwise_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0]])))
    assert torch.isnan(mean_pairwise_cosine(torch.ones(1, 1)))
