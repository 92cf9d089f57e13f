"""Hyper-parameters derived from model, hardware and data: arXiv:2606.30627 Appendix C, Eq. B.1 to B.7.

Every function returns a `Derived`: the value, and on which bound of its clip it sits, if on one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

RANK_BOUNDS = (4, 64)
DROPOUT_BOUNDS = (0.01, 0.10)
BATCH_BOUNDS = (1, 64)
LEARNING_RATE_BOUNDS = (5e-7, 2e-4)
CLIP_BOUNDS = (0.5, 2.0)
REFERENCE_RATE = 2e-4  # η₀
REFERENCE_PARAMETERS = 1e7  # n₀


class Derived(NamedTuple):
    """A derived `value`. `clipped`: "low" or "high" where the formula went beyond that bound, `raw` what it gave."""

    value: float
    raw: float
    clipped: str | None = None


def _clip(raw: float, bounds: tuple[float, float]) -> Derived:
    low, high = bounds
    if raw < low:
        return Derived(low, raw, "low")
    return Derived(high, raw, "high") if raw > high else Derived(raw, raw)


def lora_rank(hidden_size: int) -> Derived:
    """r = clip(2^round(log2 √h), 4, 64) (Eq. B.1). Half rounds up, which the paper leaves open (errata E11)."""
    return _clip(2.0 ** math.floor(math.log2(hidden_size) / 2 + 0.5), RANK_BOUNDS)


def lora_dropout(n_train: int) -> Derived:
    """clip(32 / √n, 0.01, 0.10) of n pairs (Eq. B.2). At the upper bound for every n < 102 400 (errata E10)."""
    return _clip(32 / math.sqrt(n_train), DROPOUT_BOUNDS)


def batch_size(memory_gb: float, parameters: float, tokens: int, *, training: bool = True) -> Derived:
    """B = clip(2^⌊log2(V_GB / P_B · m / s)⌋, 1, 64) (Eq. B.3): V_GB of device memory, `parameters` of the model (P_B
    counts them in billions), m = 1 in training and 2 in inference, s = `tokens` / 1024 of a sequence."""
    room = memory_gb / (parameters / 1e9) * (1 if training else 2) / (tokens / 1024)
    return _clip(2.0 ** math.floor(math.log2(room)), BATCH_BOUNDS)


def learning_rate(n_trainable: int) -> Derived:
    """clip(2e−4 / √(n_trainable / 1e7), 5e−7, 2e−4) (Eq. B.4). The upper bound up to n = 1e7 (errata E21)."""
    return _clip(REFERENCE_RATE / math.sqrt(n_trainable / REFERENCE_PARAMETERS), LEARNING_RATE_BOUNDS)


def gradient_clip(n_trainable: int) -> Derived:
    """clip(log10(n_trainable) / 7, 0.5, 2.0) (Eq. B.5)."""
    return _clip(math.log10(n_trainable) / math.log10(REFERENCE_PARAMETERS), CLIP_BOUNDS)


def warm_up_steps(total: int) -> int:
    """⌊√T⌋ (Eq. B.6)."""
    return math.isqrt(total)


def weight_decay(n_train: int) -> Derived:
    """1 / √n_train (Eq. B.7), which the paper does not clip."""
    value = 1 / math.sqrt(n_train)
    return Derived(value, value)
