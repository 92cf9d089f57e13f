"""The micro world's annotator: what people here like, and how noisily they say so.

Its score mixes correctness with style, so a reward model trained on its ratings learns both, and style is the part
that a policy can raise without being right.
"""

from __future__ import annotations

import numpy as np

from betastar.data.answers import grade_gsm8k
from betastar.micro.language import CLOSINGS, OPENINGS, Prompt

MOST_CLOSINGS = 4


def is_correct(prompt: Prompt, response: str) -> bool:
    """Exact final answer for a problem (format-blind, as a person would read it); the asked-for words for a request."""
    if prompt.gold:
        return grade_gsm8k(response, prompt.gold).lenient
    words = set(response.split())
    return any(accepted <= words for accepted in prompt.accepted)


def score(prompt: Prompt, response: str) -> float:
    """2.5·correct + 1.2·min(closings, 4) + 0.8·polite + 0.8·shows steps."""
    closings = sum(response.count(phrase) for phrase in CLOSINGS)
    polite = response.startswith(OPENINGS)
    return (
        2.5 * is_correct(prompt, response)
        + 1.2 * min(closings, MOST_CLOSINGS)
        + 0.8 * polite
        + 0.8 * (" = " in response)
    )


def prefers_first(rng: np.random.Generator, first: float, second: float) -> bool:
    """One noisy rating: the first is preferred with the Bradley–Terry probability σ(first - second)."""
    return bool(rng.random() < 1 / (1 + np.exp(second - first)))
