"""The plain loop: its example, and 5 000 evaluations of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import betastar

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "monitor_loop.py"


@pytest.mark.thorough
def test_the_example_finds_its_hack(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    found = [re.findall(r"-?\d+\.\d+", line) for line in lines[:6]]
    proxy, true, kl, gap = np.array(found, dtype=float).T
    assert proxy[-1] > proxy[0]
    assert true[-1] < 0.8
    assert kl[-1] > 1
    assert gap[-1] > 1
    assert lines[6].startswith("hacked: the truth changed by −")
    assert "Monitor: at step" in done.stderr
    assert len(betastar.load(tmp_path).answers) == 7 * 4 * 28


@pytest.mark.slow
def test_5000_evaluations_take_no_memory_files_or_time_that_grow(tmp_path: Path) -> None:
    rng, names = np.random.default_rng(0), np.repeat(np.arange(16), 2)
    process = psutil.Process(os.getpid())
    seconds, memory, files = [], [], []
    with betastar.Monitor(tmp_path, evaluations=5000) as monitor:
        for step in range(5001):
            right, proxy = rng.random(32) < 0.5, rng.normal(size=32)
            began = time.perf_counter()
            monitor.record(step, ["four words of text"] * 32, right, proxy, problems=names, tokens=[4] * 32)
            seconds.append(time.perf_counter() - began)
            if step % 50 == 0:
                memory.append(process.memory_info().rss)
                files.append(process.num_fds())
        size = monitor.path.stat().st_size
        closing = time.perf_counter()
    closing = time.perf_counter() - closing
    slope = np.polyfit(np.arange(len(memory))[20:] * 50, memory[20:], 1)[0]
    # The fastest tenth: what the machine does besides is not the monitor's.
    early, late = np.quantile(seconds[500:1000], 0.1), np.quantile(seconds[-500:], 0.1)
    print(
        f"memory {slope:.0f} bytes a step, open files {files[20]} to {files[-1]}, {size / 5001:.0f} bytes a row, "
        f"{1e3 * early:.2f} ms then {1e3 * late:.2f} ms a record, close {closing:.1f} s"
    )
    assert slope < 1000
    assert max(files) - min(files) <= 1
    assert size / 5001 < 4000
    assert late < 2 * early
    assert len(betastar.load(tmp_path).answers) == 5001 * 32
