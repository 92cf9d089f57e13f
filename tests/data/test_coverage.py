"""Coverage statistics against hand arithmetic, and the sequence lengths of Algorithm 1."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.data.preferences import PreferencePair, SequenceLengths, coverage, sequence_lengths
from betastar.data.sources import Malformed
from betastar.errors import InternalError


def test_coverage_by_hand() -> None:
    pairs = [PreferencePair(*texts) for texts in ("pab", "pab", "pba", "qab", "qac")]
    left_out = Malformed(3, 15, ("pairs.jsonl, line 2: no text",))
    measured = coverage(pairs, [2, 2, 2, 4, 4], [1, 1, 3, 5, 10], [1, 1, 1, 1, 12], 30, 120, 7, left_out)
    assert json.loads(json.dumps(measured)) == measured
    assert measured["pairs"] == 5
    assert measured["unique_prompts"] == 2
    assert measured["duplicate_pairs"] == 1
    assert measured["ties_dropped"] == 7
    assert measured["malformed_dropped"] == 3
    assert measured["malformed_examples"] == ["pairs.jsonl, line 2: no text"]
    assert measured["vocabulary"] == {"seen": 30, "size": 120, "share": 0.25}
    # five sorted values sit at 0, 25, 50, 75, 100 %, so the 5th percentile lies a fifth of the way to the second
    assert measured["tokens"]["chosen"] == pytest.approx({"mean": 4, "p5": 1, "p50": 3, "p95": 5 + 0.8 * 5})
    assert measured["tokens"]["prompt"] == pytest.approx({"mean": 2.8, "p5": 2, "p50": 2, "p95": 4})
    assert measured["tokens"]["rejected"] == pytest.approx({"mean": 3.2, "p5": 1, "p50": 1, "p95": 1 + 0.8 * 11})
    # differences 0, 0, 2, 4, -2
    gap = measured["chosen_minus_rejected_tokens"]
    assert gap == pytest.approx({"mean": 0.8, "p5": -2 + 0.2 * 2, "p50": 0, "p95": 2 + 0.8 * 2})


def test_coverage_refuses_what_cannot_be() -> None:
    pair = PreferencePair("p", "a", "b")
    with pytest.raises(InternalError, match=r"Coverage of 1 pairs got chosen lengths of shape \[2\]"):
        coverage([pair], [1], [1, 2], [1], 1, 10, 0, Malformed())
    with pytest.raises(InternalError, match=r"Coverage of 0 pairs got prompt lengths of shape \[0\]"):
        coverage([], [], [], [], 1, 10, 0, Malformed())
    with pytest.raises(InternalError, match=r"Coverage got 11 tokens seen of 10, which cannot be"):
        coverage([pair], [1], [1], [1], 11, 10, 0, Malformed())


def test_sequence_lengths_by_hand() -> None:
    # one length: the sample is all of it; two: ⌈√2⌉ = 2, again all, and 75 % of the way from 10 to 21 is 18.25
    assert sequence_lengths([7], [10, 21], np.random.default_rng(0)) == SequenceLengths(7, 19, 0.0, 0.5)


def test_sequence_lengths_sample_the_root_of_n() -> None:
    """Of n different lengths the limit is the 75th percentile of ⌈√n⌉ of them, drawn by the generator alone."""
    lengths = np.arange(1, 102)  # ⌈√101⌉ = 11: the 75th percentile of 11 values lies halfway from the 8th to the 9th
    sample = np.sort(np.random.default_rng(3).choice(lengths, 11, replace=False))
    limit = math.ceil((sample[7] + sample[8]) / 2)
    measured = sequence_lengths(lengths, [5] * 4, np.random.default_rng(3))
    assert measured == SequenceLengths(limit, 5, (101 - limit) / 101, 0.0)


@given(st.lists(st.integers(0, 10_000), min_size=1), st.lists(st.integers(0, 10_000), min_size=1), st.integers(0, 99))
def test_limits_lie_among_the_lengths_and_shares_count_what_is_longer(
    prompts: list[int], responses: list[int], seed: int
) -> None:
    measured = sequence_lengths(prompts, responses, np.random.default_rng(seed))
    assert measured == sequence_lengths(prompts, responses, np.random.default_rng(seed))
    for limit, share, lengths in zip(measured[:2], measured[2:], (prompts, responses), strict=True):
        assert isinstance(limit, int)
        assert max(1, min(lengths)) <= limit <= max(1, *lengths)
        assert share == sum(length > limit for length in lengths) / len(lengths)


def test_sequence_lengths_refuse_no_lengths() -> None:
    with pytest.raises(InternalError, match=r"Sequence lengths need a list of token counts, not shape \[0\]"):
        sequence_lengths([1], [], np.random.default_rng(0))
