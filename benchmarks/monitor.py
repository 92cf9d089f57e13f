"""Time of `betastar.Monitor` over a long run: what an evaluation costs, and `close`, by the number of evaluations.

    python benchmarks/monitor.py                  # 1 000 and 5 000 evaluations of 64 answers
    python benchmarks/monitor.py 200 --profile    # where `close` spends its time

Processor seconds of this process. Both should grow in proportion to the evaluations.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np

import betastar


def measured(evaluations: int, answers: int, profile: bool) -> tuple[float, float]:
    """Processor seconds of all evaluations, and of `close`."""
    rng = np.random.default_rng(0)
    texts = [f"the answer to problem {i} is {i}" for i in range(answers)]
    with tempfile.TemporaryDirectory() as folder:
        monitor = betastar.Monitor(Path(folder), evaluations=evaluations)
        began = time.process_time()
        for step in range(evaluations + 1):
            done = step / evaluations
            right = rng.random(answers) < 0.5 + done * (1 - done)
            monitor.record(step, texts, right, rng.normal(size=answers) + right + 3 * done)
        recorded = time.process_time() - began
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        began = time.process_time()
        monitor.close()
        closed = time.process_time() - began
        if profile:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)
    return recorded, closed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="*", type=int, default=[1000, 5000])
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--profile", action="store_true")
    told = parser.parse_args()
    measured(3, told.answers, False)  # imports
    for evaluations in told.evaluations:
        recorded, closed = measured(evaluations, told.answers, told.profile)
        print(
            f"{evaluations} evaluations of {told.answers} answers: {1000 * recorded / evaluations:.2f} ms each to "
            f"record, {closed:.1f} s to close ({1000 * closed / evaluations:.2f} ms each)"
        )


if __name__ == "__main__":
    main()
