"""How the sweep scales: measured with two Ray workers on this machine, simulated for 1 to 256 GPUs.

    python benchmarks/scale.py                 # the simulation alone, in seconds
    python benchmarks/scale.py --measure [--set KEY=VALUE …]   # also two workers against one process, in minutes

The simulation plays the engine's own schedule of `paper-strict` with 7 β × 10 seeds × 2 variants. Its costs of
Qwen3-14B were measured on one H200 (docs/benchmarks.md); those of the 1.7B reward models are taken to be smaller by the
ratio of the parameters, which has not been measured. Only the schedule is simulated: no network, no stragglers, no
losses.
Goal: efficiency at least 0.85 at 16 GPUs, against one process with banks as large as its settings allow.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from betastar.api import plan
from betastar.experiment import scale
from betastar.experiment.work import OPENING, REFERENCE, Unit
from betastar.planning.plan import Plan

TRAINED, READ = 5436.0, 13_000.0  # tokens per second, DPO with gradient checkpointing, and reading
STEP, ROW = 12.3e-3, 0.072e-3  # seconds of a decoding step, and of each row in it: a line through 12, 56 and 192 rows
ROWS = 192  # compute.rows_per_decode
OPENING_SECONDS, START_SECONDS = 300.0, 60.0  # assumed: reading the data, and loading both bases
GOAL_GPUS, GOAL = 16, 0.85
SWEEP = ("seeds=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]",)


def cost_on_h200(made: Plan) -> scale.Cost:
    """Seconds of a unit of `paper-strict`, which depend on how many conditions sample together."""
    stages = {stage.name: stage for stage in made.stages}
    parts = {work.stage: len(work.keys) for work in scale.declared(made)}
    smaller = made.facts.policy.parameters / made.facts.reward.parameters
    length = made.facts.generated_tokens
    variant = made.config.variant(next(iter(made.config.variants)))
    batch = variant.numbers(variant.steps).batch_size

    def sampled(answers: float) -> float:
        rows = min(answers, ROWS)
        return math.ceil(answers / ROWS) * length * (STEP + ROW * rows) if answers else 0.0

    def cost(unit: Unit) -> float:
        if unit == OPENING:
            return OPENING_SECONDS
        stage = stages[unit.stage]
        tokens = stage.policy.trained / TRAINED + stage.policy.read / READ
        tokens += (stage.reward.trained / TRAINED + stage.reward.read / READ) / smaller
        if unit == REFERENCE:
            return tokens
        share, n = len(unit.keys) / parts[unit.stage], len(unit.keys)
        answers = stage.policy.sampled * share / length
        seconds = scale.UNIT_SECONDS + tokens * share
        if unit.stage == "online":
            updates = variant.steps * batch * n
            seconds, answers = seconds + variant.steps * sampled(batch * n), answers - updates
        return seconds + sampled(answers)

    return cost


def simulation() -> bool:
    """Print the table; returns whether the goal is met."""
    made = plan("paper-strict", overrides=SWEEP)
    works, cost = scale.declared(made), cost_on_h200(made)
    one = scale.alone(works, cost)
    print(
        f"Simulated: {made.counts.checkpoints} checkpoints, {made.counts.adapted} conditions online; in one process on "
        f"one H200 {one / 3600:.0f} h.\n"
    )
    print("| GPUs | hours | pieces | longest chain, hours | efficiency |\n| --- | --- | --- | --- | --- |")
    met = False
    for gpus in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        found = scale.simulate(works, cost, gpus, made.config.compute.engine.units_per_worker, START_SECONDS)
        efficiency = one / gpus / found.makespan
        met |= gpus == GOAL_GPUS and efficiency >= GOAL
        print(
            f"| {gpus} | {found.makespan / 3600:.1f} | {found.units} | {found.longest / 3600:.1f} | {efficiency:.2f} |"
        )
    print(f"\nGoal: at least {GOAL} at {GOAL_GPUS} GPUs: {'met' if met else 'MISSED'}")
    return met


def measurement(overrides: list[str]) -> None:
    """Wall time of the micro world with two workers of one thread each, and in one process with two threads; and what
    a unit costs beside its work."""
    seconds, name, folder = {}, "", Path()
    with tempfile.TemporaryDirectory() as temporary:
        for name, options in {
            "one process, two threads": ["--set", "compute.threads=2"],
            "two workers, one thread each": ["--engine", "ray", "--workers", "2", "--set", "compute.threads=1"],
        }.items():
            folder = Path(temporary) / name.replace(" ", "-").replace(",", "")
            settings = [part for override in overrides for part in ("--set", override)]
            command = [sys.executable, "-m", "betastar", "run", "micro", "--out", str(folder), *settings, *options]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            seconds[name] = time.perf_counter() - started
            print(f"{name:32}{seconds[name]:8.0f} s")
        manifests = [json.loads(p.read_text()) for p in folder.glob("store/*/[0-9a-f]*/manifest.json")]
    sweep = [m for m in manifests if m["parts"]]
    work = sum(m["write_seconds"] for m in sweep)
    print(f"two workers: {len(sweep)} units, {work:.0f} s of work in them, of {2 * seconds[name]:.0f} s of two workers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--measure", action="store_true", help="also run the micro world, twice")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="settings of the micro world")
    arguments = parser.parse_args()
    met = simulation()
    if arguments.measure:
        measurement(arguments.overrides)
    if not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
