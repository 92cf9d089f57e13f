"""Problems, a proxy reward and a true reward for the eight words of the tiny model."""

from __future__ import annotations

from typing import Any


def pays_length(completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """The proxy: longer is better."""
    return [float(len(ids)) for ids in completion_ids]


def is_short(text: str, gold: str) -> bool:
    """The truth: a short answer is right."""
    return len(text.split()) <= 4


def pairs(n: int) -> list[tuple[str, str]]:
    """(prompt, gold answer) of n problems, of different lengths."""
    words = ("good", "fine", "1", "2")
    return [(" ".join(words[(i + j) % 4] for j in range(1 + i % 3)), f"#### {1 + i % 2}") for i in range(n)]
