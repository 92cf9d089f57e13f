"""A run of thousands of tiny online steps: what grows with them. Memory, open files and threads, logs and status, the
time of a step, and the time of `betastar watch` beside it.

    python benchmarks/long_run.py [--steps 5000] [--out DIR]

The run is a process of its own; this one looks at it every second. Slopes are least-squares fits over the second half
of the online steps, per 1 000 steps. Goals: memory at most 5 MB per 1 000 steps, no more open files or threads at the
end than in the middle, status.json below 32 KiB, a look of `watch` below 0.5 s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from betastar.api import look, picture
from betastar.live.status import read_status

SETTINGS = (
    "base.training.steps=1",
    "base.geometry.hidden_size=16",
    "base.geometry.intermediate_size=16",
    "base.geometry.heads=2",
    "base.geometry.key_value_heads=2",
    "preferences.prompts=40",
    "rewards.members=2",
    "online.batch_size=2",
    "online.learning_rate=0.0001",
    "evaluation.every=50",
    "evaluation.problems=4",
    "evaluation.answers=1",
    "evaluation.best_of=0",
    "evaluation.plasticity=0",
    "task.test_problems=20",
    "seeds=[0]",
    "grid={method: list, values: [0.1, 1.0]}",
    "variants={paper: null}",
    "lengths.generated=4",
    "compute.threads=1",
    "compute.checkpoint_seconds=5",
)
MEGABYTES_PER_1000, STATUS_BYTES, LOOK_SECONDS = 5.0, 32768, 0.5


class Sample(NamedTuple):
    """The run at one moment. Sizes in bytes."""

    step: int
    seconds: float
    memory: int
    files: int
    threads: int
    status: int
    logs: int
    look: float


def sampled(process: psutil.Process, folder: Path, began: float) -> Sample | None:
    """None before the online stage and after it."""
    status = read_status(folder)
    stage = next((s for s in status.stages if s.name == "online"), None) if status else None
    if stage is None or not stage.done or stage.ended is not None:
        return None
    started = time.perf_counter()
    picture(look(folder), 120)
    took = time.perf_counter() - started
    logs = sum(path.stat().st_size for path in (folder / "store" / "partial").rglob("*.jsonl"))
    with process.oneshot():
        return Sample(
            stage.done,
            time.monotonic() - began,
            process.memory_info().rss,
            process.num_fds(),
            process.num_threads(),
            (folder / "status.json").stat().st_size,
            logs,
            took,
        )


def followed(steps: int, folder: Path) -> tuple[list[Sample], int]:
    """Samples of the run while it lasts, and its exit code."""
    settings = [part for text in (*SETTINGS, f"online.steps={steps}") for part in ("--set", text)]
    command = [sys.executable, "-m", "betastar", "run", "micro", "--out", str(folder), *settings]
    samples: list[Sample] = []
    began = time.monotonic()
    with (folder.parent / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                sample = sampled(watched, folder, began)
            except (psutil.Error, FileNotFoundError):
                sample = None
            if sample is not None and (not samples or sample.step > samples[-1].step):
                samples.append(sample)
            time.sleep(1)
    return samples, process.returncode


def per_1000(samples: list[Sample], what: str) -> float:
    return 1000 * float(np.polyfit([s.step for s in samples], [getattr(s, what) for s in samples], 1)[0])


def report(name: str, value: str, met: bool | None = None) -> None:
    print(f"{name:44}{value:>24}{'' if met is None else ': met' if met else ': MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=Path, help="keep the run in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary) / "run").resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        samples, code = followed(arguments.steps, folder)
        if code:
            print((folder.parent / "log.txt").read_text()[-2000:])
        whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        page = (folder / "report.html").stat().st_size if (folder / "report.html").exists() else 0
    if len(samples) < 10:
        sys.exit("too short a run to measure anything; take more --steps")
    late = [s for s in samples if s.step >= samples[-1].step / 2]
    early = [s for s in samples if s.step < samples[-1].step / 2]
    middle, last = late[0], late[-1]
    report("online steps", f"{last.step} of {arguments.steps}, exit code {code}")
    report("memory at the end", f"{last.memory / 1e6:.0f} MB")
    slope = per_1000(late, "memory") / 1e6
    report("memory per 1 000 steps", f"{slope:.2f} MB", slope <= MEGABYTES_PER_1000)
    report("open files, middle and end", f"{middle.files}, {last.files}", last.files <= max(s.files for s in early) + 1)
    report("threads, middle and end", f"{middle.threads}, {last.threads}", last.threads <= middle.threads + 1)
    report("status.json at the end", f"{last.status} bytes", last.status < STATUS_BYTES)
    report("logs per 1 000 steps", f"{per_1000(late, 'logs') / 1e6:.2f} MB")
    slowest = max(s.look for s in samples)
    report("a look of `watch`, last and slowest", f"{last.look:.3f}, {slowest:.3f} s", slowest < LOOK_SECONDS)
    speed = [
        1000 * (part[-1].seconds - part[0].seconds) / max(1, part[-1].step - part[0].step) for part in (early, late)
    ]
    report("ms per step, first and second half", f"{speed[0]:.1f}, {speed[1]:.1f}")
    report("run folder, page", f"{whole / 1e6:.1f} MB, {page / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
