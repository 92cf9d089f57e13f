"""The command line in a process of its own, without the seconds of CPU in which a cold start loads torch and
transformers: a server loads them once, and every command is a fork of it. What a cold start takes and loads is tested
in tests/cli/test_cli.py and tests/test_imports.py."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "betastar.analysis.analyze",
        "betastar.api",
        "betastar.cli.commands",
        "betastar.experiment.pipeline",
        "transformers.models.qwen3.modeling_qwen3",
    ]
)
PATIENCE = 300  # seconds
Done = subprocess.CompletedProcess[str]


class Command:
    """`betastar ARGUMENTS…` in `folder`, begun at once. Without `drawn` a run or an analysis ends before its report,
    which takes seconds. `used`: the seconds of CPU that it has taken, as far as was seen."""

    def __init__(self, *arguments: str | Path, folder: Path | None = None, drawn: bool = True):
        self.arguments = [str(argument) for argument in arguments]
        self.used = 0.0
        self._place = tempfile.TemporaryDirectory()
        self._printed = [Path(self._place.name) / name for name in ("out", "err")]
        for path in self._printed:
            path.touch()
        where = str(folder or Path.cwd())
        self.process: BaseProcess = SERVER.Process(
            target=_main, args=(self.arguments, where, dict(os.environ), self._printed, drawn)
        )
        self.process.start()

    def killed_after(self, used: float) -> bool:
        """Whether it came to take so many seconds of CPU, and was then ended with SIGKILL. Raises
        subprocess.TimeoutExpired if it does not end at all."""
        ends = time.monotonic() + PATIENCE
        while self.process.exitcode is None:
            try:
                self.used = sum(psutil.Process(self.process.pid).cpu_times()[:2])
            except psutil.NoSuchProcess:
                break
            if (late := time.monotonic() > ends) or self.used >= used:
                self.process.kill()
                self.process.join()
                if late:
                    raise subprocess.TimeoutExpired(self.arguments, PATIENCE)
                return True
            self.process.join(0.03)
        self.process.join()
        return False

    def interrupt(self, said: str) -> None:
        """Send SIGINT, as Ctrl-C does, once it has said this on standard error."""
        ends = time.monotonic() + PATIENCE
        while said not in self._printed[1].read_text(encoding="utf-8"):
            assert self.process.is_alive()
            assert time.monotonic() < ends
            time.sleep(0.03)
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGINT)

    def done(self) -> Done:
        """What it left, once it has ended. Raises subprocess.TimeoutExpired if it does not."""
        self.killed_after(math.inf)
        assert self.process.exitcode is not None
        out, err = (path.read_text(encoding="utf-8") for path in self._printed)
        self._place.cleanup()
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, out, err)


def betastar(*arguments: str | Path, folder: Path | None = None, drawn: bool = True) -> Done:
    """Exit code and text of a command."""
    return Command(*arguments, folder=folder, drawn=drawn).done()


def _main(arguments: list[str], folder: str, environment: dict[str, str], printed: list[Path], drawn: bool) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path, descriptor in zip(printed, (1, 2), strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["betastar", *arguments]
    # As in a terminal: what is started in the background inherits that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not drawn:
        from betastar.experiment import pipeline
        from betastar.report import folders

        pipeline.report.run = lambda ctx, results: None
        folders.write_report = lambda source, target=None: source / folders.REPORT
    from betastar.cli import main

    main()
