"""Commands of benchmarks, each a process of its own, and what it took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Took(NamedTuple):
    """Wall and CPU seconds, and the largest resident size in gigabytes (10⁹ bytes)."""

    wall: float
    cpu: float
    peak_gb: float


def child(command: Sequence[str], log: Path) -> Took:
    """Run a command, which must end well, with what it prints in `log`."""
    started = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[:4])} ended with status {process.returncode}:\n{log.read_text()[-3000:]}")
    return Took(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9)


def betastar(arguments: Sequence[str], log: Path) -> Took:
    return child([sys.executable, "-m", "betastar", *arguments], log)
