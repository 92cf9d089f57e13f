"""What the logging data cover: the statistics of arXiv:2606.30627 Appendix F item d, and the sequence lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from betastar.data.pairs import PreferencePair
from betastar.data.rows import Malformed
from betastar.errors import InternalError

LENGTH_PERCENTILE = 75
"""Algorithm 1, line 2."""


class SequenceLengths(NamedTuple):
    """Limits in tokens, and the share of all examples, in [0, 1], that is longer than them."""

    prompt: int
    response: int
    share_prompts_truncated: float
    share_responses_truncated: float


def coverage(
    pairs: Sequence[PreferencePair],
    prompt_lengths: npt.ArrayLike,
    chosen_lengths: npt.ArrayLike,
    rejected_lengths: npt.ArrayLike,
    tokens_seen: int,
    vocabulary_size: int,
    n_equal_dropped: int,
    malformed: Malformed,
) -> dict[str, Any]:
    """Appendix F item d, ready for JSON.

    The lengths are token counts `[n pairs]`, in the order of `pairs`; `tokens_seen` counts the different tokens of a
    vocabulary of `vocabulary_size`. Percentiles interpolate linearly. Raises InternalError for no pairs, lengths of
    another count or more tokens seen than exist.
    """
    lengths = {
        "prompt": np.asarray(prompt_lengths, dtype=np.float64),
        "chosen": np.asarray(chosen_lengths, dtype=np.float64),
        "rejected": np.asarray(rejected_lengths, dtype=np.float64),
    }
    for name, values in lengths.items():
        if not pairs or values.shape != (len(pairs),):
            shape = list(values.shape)
            raise InternalError(
                f"Coverage of {len(pairs)} pairs got {name} lengths of shape {shape}; report this fault."
            )
    if not 0 <= tokens_seen <= vocabulary_size or vocabulary_size < 1:
        seen = f"{tokens_seen} tokens seen of {vocabulary_size}"
        raise InternalError(f"Coverage got {seen}, which cannot be; report this fault.")
    return {
        "pairs": len(pairs),
        "unique_prompts": len({pair.prompt_id for pair in pairs}),
        "duplicate_pairs": len(pairs) - len(set(pairs)),
        "ties_dropped": n_equal_dropped,
        **malformed.record(),
        "tokens": {name: _summary(values) for name, values in lengths.items()},
        "chosen_minus_rejected_tokens": _summary(lengths["chosen"] - lengths["rejected"]),
        "vocabulary": {"seen": tokens_seen, "size": vocabulary_size, "share": tokens_seen / vocabulary_size},
    }


def sequence_lengths(
    prompt_lengths: npt.ArrayLike, response_lengths: npt.ArrayLike, rng: np.random.Generator
) -> SequenceLengths:
    """Token limits by Algorithm 1 line 2: the 75th percentile over a random sample of ⌈√n⌉ of the n lengths.

    Prompts and responses are sampled apart, since a pair has one prompt and two responses; a fraction of a token
    rounds up. Raises InternalError without any lengths.
    """
    prompts, responses = np.asarray(prompt_lengths), np.asarray(response_lengths)
    prompt, response = _limit(prompts, rng), _limit(responses, rng)
    return SequenceLengths(prompt, response, float((prompts > prompt).mean()), float((responses > response).mean()))


def _summary(values: np.ndarray) -> dict[str, float]:
    p5, p50, p95 = np.percentile(values, (5, 50, 95)).tolist()
    return {"mean": float(values.mean()), "p5": p5, "p50": p50, "p95": p95}


def _limit(lengths: np.ndarray, rng: np.random.Generator) -> int:
    if lengths.ndim != 1 or not lengths.size:
        raise InternalError(
            f"Sequence lengths need a list of token counts, not shape {list(lengths.shape)}; report this."
        )
    n_sample = math.isqrt(lengths.size - 1) + 1  # ⌈√n⌉ in integers
    sample = rng.choice(lengths, n_sample, replace=False)
    return max(1, math.ceil(np.percentile(sample, LENGTH_PERCENTILE)))
