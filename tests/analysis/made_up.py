"""Made-up records of conditions, as far as a decision reads them, and tables of single answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from betastar.record.answers import Grid


def records(
    tables: Mapping[str, Any], betas: Sequence[float], end: Any = None, variant: str = "paper"
) -> list[dict[str, Any]]:
    """One record per seed and β; `tables`: measure → values [S, B]; `end`: true rewards at the end [S, B]."""
    shape = np.shape(next(iter(tables.values())))
    end = np.full(shape, 0.5) if end is None else np.asarray(end, dtype=float)
    return [
        {
            "variant": variant,
            "beta": float(beta),
            "seed": seed,
            **{name: float(np.asarray(values)[seed, i]) for name, values in tables.items()},
            "true_strict": {"start": 0.5, "end": float(end[seed, i])},
            "series": {"step": [0, 10], "true_strict": [0.5, float(end[seed, i])]},
        }
        for seed in range(shape[0])
        for i, beta in enumerate(betas)
    ]


def grid(true: Any, steps: Sequence[int] | None = None) -> Grid:
    """Answers of one condition: `true` [T, P] or [T, P, A]."""
    strict = np.asarray(true, dtype=float)
    strict = strict[:, :, None] if strict.ndim == 2 else strict
    at = np.arange(len(strict)) if steps is None else np.asarray(steps)
    names = [f"{i:04d}" for i in range(strict.shape[1])]
    return Grid(at, names, np.zeros_like(strict), strict, np.full_like(strict, np.nan), None)
