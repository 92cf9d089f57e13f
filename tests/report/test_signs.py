"""The warning signs and the chain as table rows, before and after `results.json`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from betastar.analysis.chain import chain
from betastar.analysis.signals import all_signals, warning_signs
from betastar.record.files import to_json
from betastar.report.words import (
    CHAIN_COLUMNS,
    SIGNAL_COLUMNS,
    TIMING_COLUMNS,
    chain_notes,
    chain_rows,
    signal_notes,
    signal_rows,
    timing_rows,
)


def found(n_seeds: int = 3) -> dict[str, Any]:
    """Per seed a run that hacks at point 3 with û up one point before, and a quiet one."""
    true, gap = [0.6, 0.6, 0.6, 0.3, 0.3, 0.3, 0.3], [0, 0, 0, 2, 2, 2, 2]
    records = []
    for seed in range(n_seeds):
        hacked = {"true_strict": true, "gap_standardised": gap, "disagreement": [1, 1, 3, 3, 3, 3, 3], "proxy": gap}
        calm = {"true_strict": [0.6] * 7, "gap_standardised": [0] * 7, "disagreement": [1] * 7, "proxy": [0] * 7}
        for onset, series in ((15, hacked), (None, calm)):
            record = {"variant": "a", "seed": seed, "onset_step": onset}
            records.append({**record, "series": {"step": list(range(0, 35, 5)), **series}})
    return warning_signs(records)


@pytest.fixture(params=["before", "after"])
def signs(request: pytest.FixtureRequest) -> dict[str, Any]:
    """As computed, and as read back from JSON, where NaN is null and −inf a text."""
    return found() if request.param == "before" else json.loads(to_json(found()))


def test_signal_rows(signs: dict[str, Any]) -> None:
    rows = {row[0]: row for row in signal_rows(signs["pooled"], horizon=2)}
    assert len(rows) == len(all_signals())
    assert all(len(row) == len(SIGNAL_COLUMNS) for row in rows.values())
    # Per seed events at points 1 and 2 (û 0 and 2, among calm runs at 0): ties at the first step and wins at the
    # second, 0.75. The proxy ties at both: 0.5. All seeds are alike.
    assert rows["û"] == [
        "û",
        "rise",
        "0.75 [0.75, 0.75]",
        "warns",
        "+0.25 [+0.25, +0.25]",
        "6 / 24",
    ]
    assert rows["KL"][2:5] == ["–", "undefined: these runs have no kl", "–"]
    assert rows["(proxy reward)"][1:5] == ["–", "0.50 [0.50, 0.50]", "no better than the clock", "–"]
    assert rows["(constant)"][2:4] == ["0.50 [0.50, 0.50]", "no better than the clock"]


def test_timing_rows(signs: dict[str, Any]) -> None:
    rows = {row[0]: row for row in timing_rows(signs["pooled"], lag=1)}
    assert all(len(row) == len(TIMING_COLUMNS) for row in rows.values())
    # û one point before the gap: equal ranks at lag 1. Alarm at point 2, onset at 3; quiet runs stand still.
    assert rows["û"] == ["û", "+1.00 [+1.00, +1.00]", "+1 points [+1, +1; 75 %], +5 steps", "3 of 3", "0"]
    assert rows["(constant)"][1:4] == ["–", "none", "0 of 3"]
    assert rows["KL"][2] == "– (these runs have no kl)"


def test_a_note_says_how_many_comparisons_were_made() -> None:
    (line,) = signal_notes(found())
    assert "a horizon of 2 points" in line
    assert "of the 70 intervals" in line


def test_chain_rows_and_notes() -> None:
    records = [{"variant": "a", "beta": b, "seed": 0, "augc_standardised": b} for b in (1.0, 2.0, 3.0)]
    for links in (chain(records), json.loads(to_json({"links": chain(records)}))["links"]):
        rows = {row[0]: row for row in chain_rows(links)}
        assert all(len(row) == len(CHAIN_COLUMNS) for row in rows.values())
        assert rows["β → AUGC"] == ["β → AUGC", "+", "+", "+1.00", "0.33", "3", "undecided"]
        assert rows["entropy → diversity"][2:5] == ["none given", "–", "–"]
        notes = chain_notes(links)
        assert any("E9" in note for note in notes)
        assert notes[-1].startswith("1 of 12 links have too few values")
        assert "0.33" in notes[-1]
