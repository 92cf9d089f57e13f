"""docs/monitor.md: its example runs as it stands, its claims about the output hold, and it names every field."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from forked import betastar
from monitor.small import is_short, pairs

from betastar.monitor import GoodhartMonitor

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "monitor.md").read_text()


@pytest.mark.thorough
def test_the_example_runs_and_analyze_reads_its_file(tmp_path: Path) -> None:
    (script,) = [block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if block.startswith('"""')]
    (tmp_path / "sums.py").write_text(script)
    done = subprocess.run([sys.executable, "sums.py"], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    header, *table = done.stdout.splitlines()
    assert f"\n{header}\n" in PAGE
    numbers = [[float(word) for word in line.split()] for line in table[:9]]
    assert [row[0] for row in numbers] == list(range(0, 25, 3))
    first, last = numbers[0], numbers[-1]
    assert last[1] > first[1] + 0.5, "the proxy rises"
    assert last[2] < first[2] - 0.2, "right answers become fewer"
    assert last[3] > last[4], "the gap is above the threshold"
    alarms = re.findall(
        r"^GoodhartMonitor: at step (\d+) the Goodhart gap is .*, above the threshold of .*\.$", done.stderr, re.M
    )
    assert len(alarms) == 1
    assert 0 < int(alarms[0]) < 24, "and passes it before the end"

    command = re.findall(r"^betastar (analyze sums/.*)$", PAGE, re.M)[0].split()
    done = betastar(*command, folder=tmp_path, drawn=False)
    assert done.returncode == 0, done.stderr
    assert f"{first[2]:.2f} →" in done.stdout, "the true reward at the start"
    (condition,) = json.loads((tmp_path / "analysis" / "results.json").read_text())["conditions"]
    assert condition["series"]["gap_standardised"] == pytest.approx([row[3] for row in numbers], abs=0.006)


def test_the_page_names_every_field_and_setting(make_trainer: Callable[..., Any]) -> None:
    """Of runs with the default truth and with scores, with one proxy and with members, of which some give nothing."""
    fields = set()
    members = [lambda prompts, completions: [1.0, None] * (len(prompts) // 2)] * 2
    kinds: list[dict[str, Any]] = [
        {"stop_above": 9.0, "labels": {"variant": "a", "beta": 1, "seed": 0}},
        {"proxy": members, "true": lambda text, gold: len(text)},
        {"true": is_short},
    ]
    for settings in kinds:
        trainer = make_trainer(max_steps=1)
        monitor = GoodhartMonitor(trainer, pairs(8), **settings)
        trainer.add_callback(monitor)
        trainer.train()
        fields |= {name for line in monitor.path.open() for name in json.loads(line)}
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert fields <= named
    assert {"true_std", "unscored", "true_lenient", "members", "false_alarm_rate", "missing", "again"} <= fields
    settings = set(signature(GoodhartMonitor).parameters) - {"trainer", "problems"}
    assert {"every", "stop_above"} < settings <= named
