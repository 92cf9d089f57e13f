"""Whether 4-bit NF4 works here: a small layer is really quantised, and compared with itself."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from typing import final

SECONDS = 60  # for a process that imports torch
TOLERANCE = 0.2  # the widest step of NF4 is 0.30 of a block's largest weight


@final
class NF4Check:
    """The check in a process of its own: bitsandbytes takes a second to import, and a broken build may crash."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    @classmethod
    def started(cls) -> NF4Check | None:
        """None if bitsandbytes is not installed."""
        if importlib.util.find_spec("bitsandbytes") is None:
            return None
        command = [sys.executable, "-c", f"from {__name__} import largest_error; print(largest_error())"]
        # bitsandbytes marks functions for torch.compile when it is imported, which takes a second unless that is off.
        environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}
        return cls(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )

    def problem(self) -> str | None:
        """What does not work, in a few words; None if all is well. Waits for the process."""
        try:
            out, complaints = self._process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return f"no result within {SECONDS} s"
        if self._process.returncode:
            lines = complaints.strip().splitlines()
            return lines[-1] if lines else f"exit status {self._process.returncode}"
        error = float(out.split()[-1])
        return None if error < TOLERANCE else f"weights between -1 and 1 come back with an error of {error:.2g}"


def largest_error() -> float:
    """Largest absolute error of 64 × 64 weights between -1 and 1 after a round trip through NF4."""
    import torch

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends packages that only make it faster
    from bitsandbytes import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.linspace(-1, 1, 64 * 64, device=device).view(64, 64)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4")
    return float((functional.dequantize_4bit(packed, state) - weight).abs().max())
