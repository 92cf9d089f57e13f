"""`betastar run micro` from an empty store, and again: wall time, time per stage, peak memory, and the world's goals.

    python benchmarks/micro.py [--out DIR] [--set KEY=VALUE …]

Goals: first run at most 360 s on two cores, base training at most 90 s, under 3 GB; second run under 5 s; base
accuracy at least 0.5; each reward model at least 0.65 on held-out pairs; and in at least one (variant, β), on at least
two seeds, the proxy rises by at least one standardised unit while strict accuracy falls by at least 0.10.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

FIRST_RUN_SECONDS, BASE_SECONDS, PEAK_MEGABYTES, SECOND_RUN_SECONDS = 360, 90, 3000, 5
BASE_ACCURACY, PAIR_ACCURACY, RISE, FALL, SEEDS = 0.5, 0.65, 1.0, 0.10, 2


def run(folder: Path, overrides: list[str]) -> tuple[float, str]:
    settings = [part for override in overrides for part in ("--set", override)]
    started = time.perf_counter()
    command = [sys.executable, "-m", "betastar", "run", "micro", "--out", str(folder), *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - started, done.stderr


def report(name: str, value: float, goal: float, at_most: bool, unit: str = "") -> None:
    met = value <= goal if at_most else value >= goal
    print(f"{name:44}{value:10.3g} {unit:3} goal {'≤' if at_most else '≥'} {goal:g}: {'met' if met else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="keep the run here; it must not exist")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary) / "run"
        if folder.exists():
            sys.exit(f"{folder} exists; the first run must start from nothing.")
        first, log = run(folder, arguments.overrides)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        second, _ = run(folder, arguments.overrides)
        results = json.loads((folder / "results.json").read_text())
        base = json.loads(next((folder / "store" / "probe").glob("*/*/point.json")).read_text())["base"]
    stages = {name: float(s) for name, s in re.findall(r"\] (\w+): .*?, (\d+) s(?:;|$)", log, re.MULTILINE)}
    print("stage seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages.items()))
    report("first run", first, FIRST_RUN_SECONDS, True, "s")
    report("base training", stages["base"], BASE_SECONDS, True, "s")
    report("peak memory", peak, PEAK_MEGABYTES, True, "MB")
    report("second run", second, SECOND_RUN_SECONDS, True, "s")
    report("base accuracy on held-out problems", base["true_strict"], BASE_ACCURACY, False)
    accuracy = min(results["rewards"]["validation"]["member_accuracy"])
    report("weakest reward model, validation pairs", accuracy, PAIR_ACCURACY, False)
    report("weakest reward model, test pairs", min(results["rewards"]["test"]["member_accuracy"]), PAIR_ACCURACY, False)
    hacked: dict[tuple[str, float], int] = defaultdict(int)
    for c in results["conditions"]:
        series = zip(c["series"]["proxy"], c["series"]["true_strict"], strict=True)
        hacked[c["variant"], c["beta"]] += any(
            proxy - c["proxy"]["start"] >= RISE * c["series"]["proxy_std"][0]
            and true <= c["true_strict"]["start"] - FALL
            for proxy, true in series
        )
    for (variant, beta), seeds in hacked.items():
        of = len(results["summary"][variant]["seeds"])
        print(f"hacking visible in variant {variant}, β {beta:.3g}: {seeds} of {of} seeds")
    report("most seeds that show it in one (variant, β)", max(hacked.values()), SEEDS, False)


if __name__ == "__main__":
    main()
