"""Lines for a log: how fast, and in which words."""

from __future__ import annotations

import pytest

from betastar.live import reporters
from betastar.live.reporters import LogReporter, Speed
from betastar.progress import pace


@pytest.mark.parametrize(
    ("rate", "unit", "words"),
    [
        (123.4, "steps", "123 steps/s"),
        (1.25, "steps", "1.2 steps/s"),
        (0.4, "steps", "2.5 s/step"),
        (1 / 90, "steps", "90 s/step"),
        (0.5, "policies", "2.0 s/policy"),
        (1.5, "", "1.5/s"),
        (0.1, "", "10 s each"),
        (0.0, "steps", ""),
        (float("nan"), "steps", ""),
    ],
)
def test_a_slow_pace_is_seconds_for_each(rate: float, unit: str, words: str) -> None:
    assert pace(rate, unit) == words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(reporters.time, "time", lambda: now[0])
    return now


def test_the_speed_counts_from_where_this_process_began_and_anew_in_other_units(clock: list[float]) -> None:
    speed = Speed()
    assert speed.at(50, "steps") == 0  # resumed after 50
    clock[0] += 10
    assert speed.at(55, "steps") == 0.5
    clock[0] += 10
    assert speed.at(64, "pairs") == 0
    clock[0] += 2
    assert speed.at(128, "pairs") == 32
    assert speed.at(64, "pairs") == 0  # the next split


def test_lines_of_a_slow_stage(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    reporter = LogReporter()
    monkeypatch.setattr(reporter, "say", lines.append)
    reporter.stage("online", 11, 14)
    for step in (1, 2, 3):
        reporter.progress(step, 3, "steps", "proxy 0.10")
        clock[0] += 40
    assert lines == [
        "[11/14] online: 1/3 steps; proxy 0.10",
        "[11/14] online: 2/3 steps, 40 s/step, 40 s left; proxy 0.10",
        "[11/14] online: 3/3 steps, 40 s/step, 80 s; proxy 0.10",
    ]
