"""Frames of `betastar watch`: what they show, that they fit, and the command itself."""

from __future__ import annotations

import io
import math
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from forked import betastar
from rich.console import Console

from betastar.live.reading import Named
from betastar.live.status import StageStatus, Status
from betastar.live.view import Phase, Series, View
from betastar.progress import STAGES
from betastar.report.watch import condition_lines, duration, frame, pace, pasteable, sparkline

NOW = 1_700_000_000.0


def text(view: View, width: int = 80, height: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(frame(view, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def view(seeds: int = 1, phase: Phase = "running", points: int = 9, **status: Any) -> View:
    """Three stages before offline are done, offline is at 45 of 85 steps, 1.5 a second."""
    stages = [StageStatus(name=name) for name in STAGES]
    place = STAGES.index("offline")
    for stage in stages[:place]:
        stage.began, stage.ended = NOW - 120, NOW - 60
    stages[0].folders = {"key": "store/base/key"}
    offline = stages[place]
    offline.began, offline.first_at, offline.last_at = NOW - 60, NOW - 30, NOW
    offline.first_done, offline.done, offline.total, offline.unit, offline.note = 0, 45, 85, "steps", "loss 0.612"
    series = [
        Series(
            Named(variant, beta, seed),
            [5 * i for i in range(points)],
            [beta * i / 8 + seed for i in range(points)],
            [0.6 - 0.05 * i for i in range(points)],
            [0.25 * i for i in range(points)],
        )
        for variant in ("paper", "fixed")
        for beta in (0.442925, 1.0, 2.14574)
        for seed in range(seeds)
    ]
    given = Status.model_validate(
        {
            "name": "micro",
            "began": NOW - 130,
            "updated": NOW,
            "stages": stages,
            "command": "betastar run micro",
            **status,
        }
    )
    return View(Path("runs/micro"), given, phase, NOW, NOW - 5, {"offline": [0.7, 0.65, 0.612]}, series)


def test_a_frame_shows_stages_rates_losses_and_conditions() -> None:
    lines = text(view()).splitlines()
    assert lines[0].split() == ["micro", "running", "for", "2", "min", "10", "s", "runs/micro"]
    offline = next(line for line in lines if "offline" in line)
    # 40 steps are left at 45 in 30 s.
    for part in ("▸ offline", "45/85 steps", "━", "1.5/s", "27 s left", "loss 0.612 █▄▁"):
        assert part in offline
    assert next(line for line in lines if "base" in line).split() == ["✓", "base", "reused"]
    assert next(line for line in lines if "rewards" in line).split() == ["✓", "rewards", "1", "min"]
    assert next(line for line in lines if "online" in line).split() == ["·", "online"]
    row = next(line for line in lines if "β 2.15, seed 0" in line)
    _, _, _, _, proxy, last_proxy, true, last_true, gap = row.split()
    assert (proxy, last_proxy, last_true, gap) == ("▁▂▃▄▅▆▇██", "+2.15", "0.20", "+2.00")
    assert (true[0], true[-1], len(true)) == ("█", "▁", 9)
    assert "Steps 0 to 40. Bars: proxy 0.00 to 2.15, true 0.20 to 0.60" in " ".join(lines)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("seeds", [1, 3, 40])
@pytest.mark.parametrize("points", [1, 9, 500])
def test_every_line_fits(width: int, seeds: int, points: int) -> None:
    for line in text(view(seeds=seeds, points=points), width).splitlines():
        assert len(line) <= width


def test_numbers_are_whole_at_80_columns() -> None:
    shown = text(view(points=500))
    assert "…" not in shown
    assert shown.count("+124.75") == 6  # the gap at the last of 500 points


def test_many_conditions_are_means_over_seeds() -> None:
    assert len(condition_lines(view(seeds=2).series)) == 12
    lines = condition_lines(view(seeds=3).series)
    assert [line.name for line in lines[:3]] == [f"β {beta}, 3 seeds" for beta in ("0.443", "1", "2.15")]
    assert lines[1].proxy[8] == pytest.approx(1.0 + (0 + 1 + 2) / 3)
    behind = [s._replace(steps=s.steps[:4], proxy=s.proxy[:4], true=s.true[:4], gap=s.gap[:4])
              if s.condition.seed == 2 else s for s in view(seeds=3).series]  # fmt: skip
    assert condition_lines(behind)[1].proxy[8] == pytest.approx(1.0 + 0.5)  # of the seeds that have got there


def test_a_low_window_sums_up_what_is_done() -> None:
    shown = text(view(), height=20)
    assert "✓ base to rewards" in shown
    assert "▸ offline" in shown
    assert len(shown.splitlines()) < len(text(view()).splitlines())


@pytest.mark.parametrize(
    ("phase", "status", "words"),
    [
        ("finished", {"state": "finished"}, "after 2 min 10 s; the results are in runs/micro."),
        ("failed", {"message": "pairs.jsonl: no such file."}, "pairs.jsonl: no such file. Continue with: betastar run"),
        ("stopped", {}, "finished work is kept. Continue with: betastar run micro"),
        ("killed", {}, "5 s ago). Continue with: betastar run micro"),
        ("killed", {"directory": "/else where"}, "Continue with: cd '/else where' && betastar run micro"),
        ("killed", {"command": ""}, "Run the same command again to continue."),
        ("elsewhere", {"host": "node7"}, "5 s ago)."),
    ],
)
def test_how_it_ended_and_what_to_do(phase: Phase, status: dict[str, Any], words: str) -> None:
    shown = " ".join(text(view(phase=phase, **status)).split())
    assert words in shown
    if phase in ("failed", "stopped", "killed"):
        assert "left" not in shown  # nothing to wait for where nobody works


LONG = ["betastar", "run", "mine.yaml", "--set", "name=two words", "--set", "grid={low: 0.05, n: 7}", "--out", "o" * 70]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_command_to_be_pasted_is_whole_in_any_window(width: int) -> None:
    """A shell reads from what is shown the words that were given."""
    lines = pasteable(shlex.join(LONG), width)
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == LONG
    assert all(len(line) <= width or len(line.strip(" \\").split(" ")) == 1 or "'" in line for line in lines)
    console = Console(file=io.StringIO(), width=width)
    console.print(frame(view(phase="killed", command=shlex.join(LONG), directory="/else where"), width), crop=False)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().partition("Continue with:")[2]
    said = subprocess.run(
        ["sh", "-c", f"cd() {{ :; }}\nbetastar() {{ printf '%s\\n' betastar \"$@\"; }}\n{shown}"],
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert said.stdout.splitlines() == LONG


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 0, 7, 20) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 0, 7, 2) == "▁█"
    assert sparkline([0, math.nan, 7], 0, 7, 9) == "▁ █"
    assert sparkline([3, 3], 3, 3, 9) == "▅▅"
    assert sparkline([], 0, 1, 9) == ""
    assert len(sparkline(list(range(1000)), 0, 999, 37)) == 37


def test_durations_in_words() -> None:
    spans = {0: "0 s", 41: "41 s", 60: "1 min", 250: "4 min 10 s", 7500: "2 h 5 min", 273600: "3 d 4 h", -3: "0 s"}
    assert {seconds: duration(seconds) for seconds in spans} == spans


def test_no_rate_before_there_are_two_moments() -> None:
    stage = StageStatus(name="base", began=NOW, first_at=NOW, last_at=NOW, done=1, total=10)
    assert pace(stage, NOW) == ("", "")
    resumed = StageStatus(name="base", first_at=NOW, last_at=NOW + 10, first_done=100, done=101, total=103)
    assert pace(resumed, NOW + 12) == ("10 s each", "18 s left")  # not 101 steps in ten seconds


def test_the_command_prints_one_frame_without_a_terminal_and_refuses_other_folders(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    done = betastar("watch", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is starting" in done.stdout
    done = betastar("watch", tmp_path / "nowhere", "--once")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "no such folder" in done.stderr
