"""Runs whose true reward is unknown: what the policies did is told, and nothing about a gap."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest

import betastar as bs
from betastar.report.words import headlines, outcome_columns, outcome_rows


def log(betas: Sequence[float | None]) -> pd.DataFrame:
    rows = [
        {
            "step": s,
            "reward": 0.5 + s,
            "response_length": 100 + 10 * s,
            "kl_sequence": s * s,
            "beta": beta,
            "seed": seed,
        }
        for beta in betas
        for seed in (0, 1)
        for s in range(4)
    ]
    frame = pd.DataFrame(rows)
    return frame.loc[frame["seed"] == 0].drop(columns=["beta", "seed"]) if betas == [None] else frame


def test_one_run() -> None:
    """Rewards 0.5 to 3.5, lengths 100 to 130; KL 9 nats at the end, so √KL 3."""
    record = bs.analyze(log([None]), columns={"kl": "kl_sequence"}, kl_per="response").record
    (variant,) = record["summary"]
    assert outcome_columns(record, variant) == ["proxy: start → end", "tokens per response", "√KL, end"]
    assert outcome_rows(record, variant) == [["0.5 → 3.5", "100 → 130", "3"]]
    (found,) = headlines(record)
    assert found.sentences == [
        "No verdict: no true reward is known, so hacking cannot be judged.",
        "Training moved the proxy from 0.5 to 3.5, the length of responses from 100 to 130 tokens and √KL from the "
        "start to 3.",
    ]
    assert not any("gap" in text or "Def. 3.1" in text for text in record["warnings"])


def test_several_betas_have_a_row_each() -> None:
    record = bs.analyze(log([0.1, 1.0]), columns={"kl": "kl_sequence"}, kl_per="response").record
    (variant,) = record["summary"]
    assert outcome_columns(record, variant)[0] == "β"
    assert outcome_rows(record, variant) == [[beta, "0.5 → 3.5", "100 → 130", "3"] for beta in ("0.1", "1")]
    (found,) = headlines(record)
    assert "(means over 4 runs)" in found.sentences[1]


def test_with_a_truth_the_gap_that_cannot_be_had_is_still_named() -> None:
    frame = log([None]).assign(accuracy=[0.6, 0.6, 0.5, 0.4])
    results = bs.analyze(frame, true="accuracy")
    assert any("gap" in text for text in results.record["warnings"])
    assert results.conditions["end_change"].item() == pytest.approx(-20)  # points
    assert results.conditions["true_strict_end"].item() == pytest.approx(0.4)
