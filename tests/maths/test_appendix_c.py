"""Appendix C against values worked by hand from its formulas, and properties of its clips."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.maths.appendix_c import (
    batch_size,
    gradient_clip,
    learning_rate,
    lora_dropout,
    lora_rank,
    warm_up_steps,
    weight_decay,
)

COUNTS = st.integers(1, 10**12)


@pytest.mark.parametrize(
    ("hidden", "rank", "clipped"),
    [
        (5120, 64, None),  # √5120 = 71.55, log2 71.55 = 6.16, so 2^6 (Qwen3-14B)
        (2048, 64, None),  # √2048 = 2^5.5: half rounds up, 2^6 (Qwen3-1.7B)
        (1024, 32, None),  # √1024 = 2^5 (Qwen3-0.6B)
        (512, 32, None),  # √512 = 2^4.5: half rounds up, 2^5
        (511, 16, None),  # log2 √511 = 4.4986, just below the half
        (96, 8, None),  # √96 = 9.80, log2 = 3.29
        (4, 4, "low"),  # √4 = 2^1
        (8192, 64, "high"),  # √8192 = 2^6.5: 2^7
    ],
)
def test_rank(hidden: int, rank: int, clipped: str | None) -> None:
    derived = lora_rank(hidden)
    assert (derived.value, derived.clipped) == (rank, clipped)


def test_what_a_clip_took_is_kept() -> None:
    assert lora_rank(8192).raw == 128
    assert lora_dropout(48_908).raw == pytest.approx(0.1447, abs=5e-5)


@pytest.mark.parametrize(
    ("pairs", "dropout", "clipped"),
    [
        (48_908, 0.10, "high"),  # 32 / √48 908 = 32 / 221.15 = 0.1447
        (102_400, 0.10, None),  # √102 400 = 320: the first n whose formula does not go beyond the bound
        (102_399, 0.10, "high"),
        (409_600, 0.05, None),  # √409 600 = 640
        (10_240_001, 0.01, "low"),  # 32 / 3200.0002 < 0.01
    ],
)
def test_dropout_sits_on_its_bound_for_every_usual_data_set(pairs: int, dropout: float, clipped: str | None) -> None:
    derived = lora_dropout(pairs)
    assert derived.value == pytest.approx(dropout, rel=1e-12)
    assert derived.clipped == clipped


@pytest.mark.parametrize(
    ("memory", "parameters", "tokens", "training", "size", "clipped"),
    [
        (80, 14_768_307_200, 1024, True, 4, None),  # 80 / 14.768 = 5.417: 2^2
        (80, 14_768_307_200, 1024, False, 8, None),  # twice that, 10.83: 2^3
        (80, 14_768_307_200, 768, True, 4, None),  # s = 0.75: 7.22
        (80, 14_768_307_200, 512, True, 8, None),  # s = 0.5: 10.83
        (80, 1_720_574_976, 768, True, 32, None),  # 80 / 1.7206 / 0.75 = 61.99
        (80, 596_049_920, 768, True, 64, "high"),  # 80 / 0.596 / 0.75 = 179: 2^7
        (12, 14_768_307_200, 1024, True, 1, "low"),  # 0.81: 2^-1
        (16, 1e9, 1024, True, 16, None),  # exactly 2^4
        (15.999, 1e9, 1024, True, 8, None),
    ],
)
def test_batch_size(
    memory: float, parameters: float, tokens: int, training: bool, size: int, clipped: str | None
) -> None:
    derived = batch_size(memory, parameters, tokens, training=training)
    assert (derived.value, derived.clipped) == (size, clipped)


@pytest.mark.parametrize(
    ("weights", "rate", "clipped"),
    [
        (83_886_080, 6.9053e-5, None),  # √8.3886 = 2.8963
        (10**7, 2e-4, None),
        (10**6, 2e-4, "high"),  # √0.1 would give 6.3e-4
        (40_000_000, 1e-4, None),  # √4 = 2
        (10**13, 5e-7, "low"),  # √1e6 = 1000 would give 2e-7
    ],
)
def test_learning_rate(weights: int, rate: float, clipped: str | None) -> None:
    derived = learning_rate(weights)
    assert derived.value == pytest.approx(rate, rel=1e-4)
    assert derived.clipped == clipped


@pytest.mark.parametrize(
    ("weights", "norm", "clipped"),
    [
        (10**7, 1.0, None),
        (83_886_080, 1.13195, None),  # log10 8.3886e7 = 7.92369, / 7
        (1000, 0.5, "low"),  # 3 / 7
        (10**15, 2.0, "high"),  # 15 / 7
    ],
)
def test_gradient_clip(weights: int, norm: float, clipped: str | None) -> None:
    derived = gradient_clip(weights)
    assert derived.value == pytest.approx(norm, abs=1e-5)
    assert derived.clipped == clipped


@pytest.mark.parametrize(("steps", "warm_up"), [(1, 1), (99, 9), (100, 10), (200, 14), (12_227, 110)])
def test_warm_up(steps: int, warm_up: int) -> None:
    assert warm_up_steps(steps) == warm_up


def test_weight_decay() -> None:
    assert weight_decay(48_908).value == pytest.approx(0.0045218, rel=1e-4)  # 1 / 221.15
    assert weight_decay(100).value == 0.1


@given(COUNTS, st.floats(0.5, 1e4), st.integers(1, 10**6))
def test_whole_numbers_are_powers_of_two_within_their_bounds(count: int, memory: float, tokens: int) -> None:
    for derived, low, high in ((lora_rank(count), 4, 64), (batch_size(memory, count, tokens), 1, 64)):
        assert low <= derived.value <= high
        assert math.log2(derived.value).is_integer()


@given(COUNTS)
def test_a_clipped_value_is_the_bound_and_any_other_the_formula(count: int) -> None:
    for formula, low, high in (
        (lora_rank, 4, 64),
        (lora_dropout, 0.01, 0.10),
        (learning_rate, 5e-7, 2e-4),
        (gradient_clip, 0.5, 2.0),
    ):
        value, raw, clipped = formula(count)
        if clipped == "low":
            assert value == low > raw
        elif clipped == "high":
            assert value == high < raw
        else:
            assert value == raw
            assert low <= raw <= high


@given(COUNTS, COUNTS)
def test_more_data_regularises_less_and_more_weights_learn_more_slowly(a: int, b: int) -> None:
    few, many = sorted((a, b))
    assert lora_dropout(many).value <= lora_dropout(few).value
    assert weight_decay(many).value <= weight_decay(few).value
    assert learning_rate(many).value <= learning_rate(few).value
    assert gradient_clip(many).value >= gradient_clip(few).value
