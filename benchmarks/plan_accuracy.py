"""What `betastar plan --probe` says against what runs take: peak memory, and time by stage, of five shapes that differ
in model width and depth, pairs, tokens_per_forward, conditions and length of responses.

    python benchmarks/plan_accuracy.py [--only NAME …] [--no-time]

Every run and every plan is a process of its own. Memory is the process's largest resident size (ru_maxrss) and, by
stage, the largest seen every 50 ms. Goals: predicted / measured within a factor of 1.3 for memory and 1.5 for time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from betastar.live.status import read_status

COMMON = (
    "base.training.steps=1",
    "base.training.batch_size=2",
    "seeds=[0]",
    "variants={paper: null}",
    "grid={method: list, values: [0.1, 1.0]}",
    "rewards.members=2",
    "evaluation.best_of=0",
    "evaluation.plasticity=0",
    "evaluation.answers=1",
    "task.test_problems=64",
    "preferences.max_new_tokens=32",
)


def geometry(width: int, layers: int) -> tuple[str, ...]:
    heads = width // 64
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "layers": layers, "heads": heads}
    return (
        *(f"base.geometry.{name}={size}" for name, size in sizes.items()),
        f"base.geometry.key_value_heads={heads}",
    )


BRIEF = (
    "preferences.prompts=80",
    "offline.batch_size=16",
    "rewards.batch_size=16",
    "online.steps=2",
    "online.batch_size=16",
    "evaluation.every=2",
    "evaluation.problems=8",
)
SHAPES: dict[str, tuple[str, ...]] = {
    "small, many conditions": (
        *geometry(128, 2),
        "preferences.prompts=600",
        "grid={method: geometric, low: 0.05, high: 5, n: 4}",
        "seeds=[0, 1]",
        "online.steps=12",
        "evaluation.problems=32",
    ),
    "wide": (*geometry(768, 3), *BRIEF),
    "deep, 4096 tokens at once": (
        *geometry(384, 6),
        *BRIEF,
        "compute.tokens_per_forward=4096",
        "offline.batch_size=64",
        "rewards.batch_size=32",
    ),
    "512 tokens at once": (*geometry(384, 4), *BRIEF, "compute.tokens_per_forward=512"),
    "long responses": (
        *geometry(256, 3),
        *BRIEF,
        "lengths.generated=128",
        "online.batch_size=32",
        "evaluation.problems=32",
    ),
}
PLAN = """
import json, sys
from betastar import api
made = api.plan(api.load_config("micro", sys.argv[2:]))
timing = api.timed(made) if sys.argv[1] == "time" else None
print(json.dumps(api.plan_record(made, timing)))
"""
MEMORY_FACTOR, TIME_FACTOR = 1.3, 1.5
PHASE_OF = {"rewards": "rewards", "offline": "offline", "online": "online"}


def planned(settings: list[str], timed: bool) -> dict[str, Any]:
    command = [sys.executable, "-c", PLAN, "time" if timed else "memory", *settings]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measured(settings: list[str]) -> tuple[int, dict[str, int], dict[str, float]]:
    """Peak of a run, peaks by stage, and seconds by stage."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, peaks = Path(temporary) / "run", dict[str, int]()
        given = [part for text in settings for part in ("--set", text)]
        command = [sys.executable, "-m", "betastar", "run", "micro", "--out", str(folder), *given]
        with open(Path(temporary) / "log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        watched = psutil.Process(process.pid)
        stage = ""
        while True:
            pid, code, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            status = read_status(folder)
            if status:
                stage = next((s.name for s in reversed(status.stages) if s.began and not s.ended), stage)
            with suppress(psutil.Error):
                peaks[stage] = max(peaks.get(stage, 0), watched.memory_info().rss)
            time.sleep(0.05)
        if code:
            sys.exit((Path(temporary) / "log").read_text()[-2000:])
        status = read_status(folder)
        assert status is not None
        seconds = {s.name: s.ended - s.began for s in status.stages if s.began and s.ended}
        return usage.ru_maxrss * 1024, peaks, seconds


def ratio(name: str, predicted: float, found: float, unit: str, factor: float) -> bool:
    share = predicted / found
    met = max(share, 1 / share) <= factor if share > 0 else False
    print(f"  {name:24}{predicted:9.2f}{found:9.2f} {unit:4} {share:6.2f}{'' if met else '  MISSED'}", flush=True)
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", help="shapes to run, by a part of their names")
    parser.add_argument("--no-time", action="store_true", help="memory alone: plans without --probe")
    arguments = parser.parse_args()
    missed = tried = 0
    for name, own in SHAPES.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        settings = [*COMMON, *own]
        plan = planned(settings, not arguments.no_time)
        peak, peaks, seconds = measured(settings)
        phases = {phase: parts["total"] / 2**30 for phase, parts in plan["memory"]["phases"].items()}
        print(f"{name}: predicted, measured, predicted / measured")
        results = [ratio("memory", max(phases.values()), peak / 2**30, "GiB", MEMORY_FACTOR)]
        for phase in PHASE_OF:
            both = max(phases["sampling"], phases["online"]) if phase == "online" else phases[phase]
            ratio(f"  in {phase}", both, peaks.get(phase, math.nan) / 2**30, "GiB", math.inf)
        if plan["time"]:
            predicted = {k: v for k, v in plan["time"]["seconds"].items() if v is not None and k in seconds}
            for stage, value in predicted.items():
                ratio(f"  {stage}", value, max(seconds[stage], 1e-3), "s", math.inf)
            whole = sum(seconds[stage] for stage in predicted)
            results.append(ratio("time", sum(predicted.values()), whole, "s", TIME_FACTOR))
        tried, missed = tried + len(results), missed + results.count(False)
    print(f"{tried - missed} of {tried} within a factor of {MEMORY_FACTOR} (memory) and {TIME_FACTOR} (time)")


if __name__ == "__main__":
    main()
