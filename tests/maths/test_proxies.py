"""Aggregates and shapes of rewards, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from betastar.errors import BetastarError
from betastar.maths.proxies import aggregate, preference_as_reward, standardised, whitened
from betastar.settings.config import load_config

SCORES = torch.tensor([[1.0, 4.0], [2.0, 0.0], [6.0, 2.0]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mean", [3.0, 2.0]),
        ("single", [1.0, 4.0]),
        ("median", [2.0, 2.0]),
        ("min", [1.0, 0.0]),
        ("lcb", [3 - 0.5 * 7**0.5, 2 - 0.5 * 2.0]),  # variances 7 and 4
        ("uwo", [3 - 0.5 * 7, 2 - 0.5 * 4]),
    ],
)
def test_aggregates_by_hand(kind: str, expected: list[float]) -> None:
    assert aggregate(kind, SCORES, 0.5).tolist() == pytest.approx(expected, rel=1e-6)


def test_members_on_one_scale_are_not_told_apart_by_their_constants() -> None:
    """With a constant of -100 a member is always the lowest, until scores are standardised."""
    shifted = SCORES.clone()
    shifted[2] = 3 * shifted[2] - 100
    assert aggregate("min", shifted).tolist() == shifted[2].tolist()
    scaled = [standardised(s, s.mean(dim=1), s.std(dim=1)) for s in (SCORES, shifted)]
    torch.testing.assert_close(scaled[0], scaled[1])


def test_shapes_by_hand() -> None:
    assert whitened(torch.tensor([1.0, 3.0])).tolist() == [-1, 1]
    assert whitened(torch.full((3,), 0.1)).tolist() == [0, 0, 0]
    found = preference_as_reward(torch.tensor([1.0, 100.0]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 2.0)
    assert found.tolist() == pytest.approx([(0.5 + 1 / (1 + math.exp(-2))) / 2, 1.0])


@pytest.mark.parametrize(
    ("proxy", "sentence"),
    [
        (
            "{aggregate: min}",
            ".proxy: aggregate min compares members, whose constants and scales are arbitrary; set mem",
        ),
        ("{shape: clip}", ".proxy: shape clip bounds rewards in standard deviations; set members: standardised"),
        (
            "{members: standardised, aggregate: median}",
            ".proxy.aggregate: median needs 3 members, but rewards.members is 2; raise it, or choose mean",
        ),
    ],
)
def test_faults_are_one_sentence(proxy: str, sentence: str) -> None:
    with pytest.raises(BetastarError) as error:
        load_config("micro", [f"variants.v={{proxy: {proxy}}}", "rewards.members=2"])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
