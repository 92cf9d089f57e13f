"""Time and peak memory of `betastar analyze` on large logs and on files made to be slow.

    python benchmarks/logs.py              # every input, a few minutes
    python benchmarks/logs.py responses    # those whose name holds a word

Inputs are made on the spot in a temporary folder. Each analysis is a process of its own, imports included.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Input(NamedTuple):
    """What is analysed, who makes it in a folder, and the goals in seconds and GB."""

    name: str
    make: Callable[[Path], Path]
    seconds: float
    gigabytes: float


def responses(rows: int = 1_000_000) -> Any:
    """Single responses: 50 steps, a fifth as many problems as rows at a step, four answers to each."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    step = np.repeat(np.arange(50) * 10, rows // 50)
    problem = np.tile(np.repeat(np.arange(rows // 200), 4), 50)
    right = rng.random(rows) < 0.6 - step / 2000
    words = [
        "so",
        "the",
        "sum",
        "of",
        "both",
        "numbers",
        "is",
        "twice",
        "the",
        "first",
        "plus",
        "one",
        "which",
        "is",
        "it",
    ]
    texts = np.array([" ".join(rng.permutation(words)) for _ in range(1000)])
    return pd.DataFrame(
        {
            "step": step,
            "problem_id": problem,
            "prompt": np.char.add("How many apples are left in basket number ", problem.astype(str)),
            "response": texts[rng.integers(0, len(texts), rows)],
            "reward": np.round(rng.normal(size=rows) + right + step / 500, 6),
            "correct": right,
            "response_length": rng.integers(20, 400, rows),
        }
    )


def run(rows: int, seed: int) -> Any:
    """A run whose truth turns over while the proxy rises."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    t = np.arange(rows) / rows
    return pd.DataFrame(
        {
            "step": np.arange(rows),
            "reward": np.round(2 * t + rng.normal(0, 0.05, rows), 6),
            "reward_std": np.round(1 + rng.normal(0, 0.02, rows), 6),
            "accuracy": np.round(np.clip(0.4 + t - 1.2 * t**2 + rng.normal(0, 0.02, rows), 0, 1), 6),
            "kl": np.round(20 * t + np.abs(rng.normal(0, 0.1, rows)), 6),
            "entropy": np.round(1 - t / 2 + rng.normal(0, 0.02, rows), 6),
        }
    )


def _responses_lines(folder: Path) -> Path:
    responses().to_json(folder / "rollouts.jsonl", orient="records", lines=True)
    return folder / "rollouts.jsonl"


def _responses_parquet(folder: Path) -> Path:
    responses().to_parquet(folder / "rollouts.parquet")
    return folder / "rollouts.parquet"


def _many_runs(folder: Path) -> Path:
    for i in range(200):
        run(10_000, i).to_csv(folder / f"beta-{(0.01, 0.03, 0.1, 0.3)[i % 4]}-seed-{i // 4}.csv", index=False)
    return folder


def _long_run(folder: Path) -> Path:
    run(1_000_000, 0).to_json(folder / "run.jsonl", orient="records", lines=True)
    return folder / "run.jsonl"


def _seeds(folder: Path, count: int, rows: int) -> Path:
    """One file of many seeds of one β."""
    import pandas as pd

    parts = [run(rows, i % 1000).assign(seed=i, beta=0.1) for i in range(count)]
    pd.concat(parts).to_csv(folder / "seeds.csv", index=False)
    return folder / "seeds.csv"


def _some_seeds(folder: Path) -> Path:
    return _seeds(folder, 1600, 100)


def _many_seeds(folder: Path) -> Path:
    return _seeds(folder, 50_000, 10)


def _many_betas(folder: Path) -> Path:
    import pandas as pd

    parts = [run(100, i).assign(seed=0, beta=0.01 * 1.002**i) for i in range(2000)]
    pd.concat(parts).to_csv(folder / "betas.csv", index=False)
    return folder / "betas.csv"


def _braces(folder: Path) -> Path:
    (folder / "console.log").write_text("{" * 2_000_000 + "\n" + "{'a': " * 30_000 + "\n")
    return folder / "console.log"


def _varint(folder: Path) -> Path:
    from betastar.analysis.logs.events import masked_crc

    record = b"\x10" + b"\xff" * 3_000_000 + b"\x01"
    length = struct.pack("<Q", len(record))
    framed = length + struct.pack("<I", masked_crc(length)) + record + bytes(4)
    (folder / "events.out.tfevents.1").write_bytes(framed)
    return folder / "events.out.tfevents.1"


def _blanks(folder: Path) -> Path:
    with gzip.open(folder / "blanks.jsonl.gz", "wb", compresslevel=9) as file:
        for _ in range(4000):
            file.write(b" " * 1_000_000)
    return folder / "blanks.jsonl.gz"


INPUTS = (
    Input("responses: 1 000 000 rows, JSON Lines", _responses_lines, 10, 2),
    Input("responses: 1 000 000 rows, Parquet", _responses_parquet, 10, 2),
    Input("runs: 200 of 10 000 rows, CSV", _many_runs, 30, 2),
    Input("run: one of 1 000 000 rows, JSON Lines", _long_run, 30, 2),
    Input("seeds: 1 600 of one β, 100 rows each, CSV", _some_seeds, 60, 2),
    Input("seeds: 50 000 of one β, 10 rows each, CSV", _many_seeds, 30, 2),  # refused: more runs than the limit
    Input("betas: 2 000, 100 rows each, CSV", _many_betas, 120, 2),
    Input("hostile: console log, a line of 2 000 000 {", _braces, 5, 1),
    Input("hostile: event file, a varint of 3 MB", _varint, 5, 1),
    Input("hostile: 4 GB of blanks in 4 MB of gzip", _blanks, 30, 2),
)


class Measured(NamedTuple):
    """Seconds of the clock and of processors, peak memory in GB, bytes of results.json, and the last line said."""

    seconds: float
    processor: float
    gigabytes: float
    record: int
    said: str


def measured(log: Path, out: Path) -> Measured:
    """One analysis."""
    command = [sys.executable, "-m", "betastar", "analyze", str(log), "--out", str(out)]
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, _, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        said.seek(0)
        lines = said.read().strip().splitlines()
    record = out / "results.json"
    size = record.stat().st_size if record.is_file() else 0
    processor = usage.ru_utime + usage.ru_stime
    return Measured(seconds, processor, usage.ru_maxrss / 1e6, size, lines[-1] if lines else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only inputs whose name holds one of these")
    parser.add_argument("--json", action="store_true", help="one JSON object per input")
    parser.add_argument("--make", nargs=2, metavar=("NAME", "FOLDER"), help="only make one input, and print its path")
    told = parser.parse_args()
    if told.make:
        print(next(entry for entry in INPUTS if entry.name == told.make[0]).make(Path(told.make[1])))
        return
    for entry in INPUTS:
        if told.words and not any(word in entry.name for word in told.words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "logs").mkdir()
            # In a process of its own: a child's peak memory counts from that of its parent at the fork.
            make = [sys.executable, __file__, "--make", entry.name, str(Path(folder) / "logs")]
            log = Path(subprocess.run(make, check=True, capture_output=True, text=True).stdout.strip())
            found = measured(log, Path(folder) / "analysis")
        if told.json:
            print(json.dumps({"input": entry.name, **found._asdict()}))
            continue
        missed = "" if found.seconds <= entry.seconds and found.gigabytes <= entry.gigabytes else "   ** missed **"
        print(
            f"{entry.name:45} {found.seconds:6.1f} s (goal {entry.seconds:g}), {found.processor:5.1f} s of processors, "
            f"{found.gigabytes:5.2f} GB (goal {entry.gigabytes:g}), results.json {found.record / 1e6:.2f} MB{missed}\n"
            f"{'':10}{found.said[:140]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
