"""The summary in Markdown and the text of the terminal: the same words, nothing that breaks out of its place."""

from __future__ import annotations

import json

import pytest
from report.records import HOSTILE, record
from report.test_headline import clear, one_run

from betastar.report.markdown import summary
from betastar.report.terminal import show
from betastar.report.words import headlines, outcome_rows


def test_the_summary_has_answer_tables_and_warnings() -> None:
    text = summary(clear(), ["column r: the proxy"])
    (found,) = headlines(clear())
    assert f"**{found.verdict}**" in text
    assert f"- *Which β?* {found.choice}" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == 1 + 7 + 1 + 35  # by β, then every run, each with a head
    assert all(row.count(" | ") == rows[0].count(" | ") for row in rows[:8])
    assert (
        rows[8] == "| β | seed | verdict | truth: start → peak → end | change | since the peak | proxy: start → end |"
    )
    assert "<details><summary>How the logs were read</summary>\n\n- column r: the proxy" in text
    assert "Regret: what stopping at the best step would have kept of the true reward." in text
    assert text.endswith("</sub>\n")


def test_a_summary_of_one_run_says_nothing_of_beta() -> None:
    text = summary(one_run([0.61, 0.64, 0.69, 0.72, 0.71, 0.68, 0.64, 0.59]))
    assert "**Verdict: hacked.**" in text
    assert "| hacked | 0.61 → 0.72 → 0.59 |" in text
    assert "β" not in text


def test_names_full_of_markup_stay_text() -> None:
    evil = "".join(HOSTILE.values()) + "|a|b|\n# head"
    numbers = {**json.loads(json.dumps(record())), "name": evil}
    first = summary(numbers).splitlines()[0]
    assert "<script" not in first.replace("\\<", "")
    assert "\\|a\\|b\\|" in first
    assert "⟨U+202E⟩" in first


def test_the_terminal_leads_with_the_verdict_and_keeps_augc_for_the_details(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(clear(), None)
    short = capsys.readouterr().out
    (found,) = headlines(clear())
    order = [
        short.index(text[:40]) for text in (found.verdict, found.truth, found.effect, found.choice, found.certainty)
    ]
    assert order == sorted(order)
    for row in outcome_rows(clear(), "logged"):
        assert row[2] in short
    assert "β★ = " not in short
    show(clear(), None, details=True)
    long = capsys.readouterr().out
    assert "AUGC standardised, 95 %" in long
    assert "β★ = 1.27" in long


def test_the_terminal_says_nothing_of_beta_for_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    show(one_run([0.61, 0.64, 0.69, 0.72, 0.71, 0.68, 0.64, 0.59]), None)
    printed = capsys.readouterr().out
    assert "Verdict: hacked." in printed
    assert "β" not in printed
