"""Why the command line sets GOMP_SPINCOUNT: a small training step alone, and beside a twin that does the same.

    python benchmarks/threads.py

Each case runs in processes of its own, since GNU OpenMP reads the variable when it loads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

STEPS = 20
CASES = {"default": None, "10000 (set by betastar)": "10000", "0 (never spin)": "0"}


def work() -> None:
    """Print milliseconds per forward and backward pass of a micro model on all cores."""
    import torch

    from betastar.models.random_models import build_model
    from betastar.settings.sections import Geometry

    torch.set_num_threads(os.cpu_count() or 1)
    model = build_model(Geometry(intermediate_size=256), 128, 0)
    tokens = torch.randint(0, 100, (48, 35), generator=torch.Generator().manual_seed(0))
    model(tokens, labels=tokens).loss.backward()
    started = time.perf_counter()
    for _ in range(STEPS):
        model(tokens, labels=tokens).loss.backward()
    print((time.perf_counter() - started) / STEPS * 1e3)


def measure(spin: str | None, twins: int) -> float:
    """Mean milliseconds per step of `twins` processes side by side."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, "work"]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(twins)]
    return sum(float(process.communicate()[0]) for process in running) / twins


def main() -> None:
    print(f"{'GOMP_SPINCOUNT':26}{'alone, ms':>12}{'beside a twin, ms':>20}")
    for name, spin in CASES.items():
        print(f"{name:26}{measure(spin, 1):12.0f}{measure(spin, 2):20.0f}", flush=True)


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
