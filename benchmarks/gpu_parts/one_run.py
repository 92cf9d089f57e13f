"""`betastar run` in a process of its own: without the report, and, on demand, killed with SIGKILL at a given step.

    python -m gpu_parts.one_run PRESET-OR-FILE FOLDER [--kill-at STAGE:STEP] [KEY=VALUE…]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from betastar import pipeline
from betastar.config import load_config
from betastar.errors import BetastarError
from betastar.progress import Reporter
from betastar.stages import report


class Deadly(Reporter):
    """Ends the process, as a machine that is taken away does, when a stage has made so many steps."""

    def __init__(self, stage: str, step: int):
        self.deadly, self.step, self.present = stage, step, ""

    def stage(self, name: str, place: int, of: int) -> None:
        self.present = name
        print(name, flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if self.present == self.deadly and done >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def start(source: str, folder: Path, settings: Sequence[str], log: Path, kill_at: str = "") -> subprocess.Popen[bytes]:
    """Begin a run; what it prints goes to `log`."""
    command = [sys.executable, "-m", "gpu_parts.one_run", source, str(folder), *settings]
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, *(["--kill-at", kill_at] if kill_at else [])],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a run. Raises RuntimeError with its last words where it failed."""
    if process.wait() != 0:
        words = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no word"]
        raise RuntimeError(f"the run ended with {process.returncode}: {words[0]}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--kill-at", default=":0")
    given = parser.parse_args()
    stage, _, step = given.kill_at.partition(":")
    report.run = lambda ctx, results: None  # drawing takes seconds, and what it needs may be missing
    try:
        pipeline.run(load_config(given.source, given.settings), given.folder, Deadly(stage, int(step)))
    except BetastarError as error:
        print(f"betastar: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
