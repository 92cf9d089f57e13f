"""Timing, peak memory, and the card's best rates. Needs torch alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gpu_parts.check import Check


class Rates(NamedTuple):
    """Bytes per second of a large copy (read and written), FLOP per second of a large bfloat16 product."""

    bandwidth: float
    bf16: float


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, work: Callable[[], Any], repeats: int = 1) -> float:
    """Wall time of one call, the mean of `repeats` in a row."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (time.perf_counter() - start) / repeats


def seconds_and_peak(device: str, work: Callable[[], Any]) -> tuple[float, float | None]:
    """Wall time of one call, and the most bytes allocated at one time; None on the CPU, where nobody counts."""
    if device != "cuda":
        return seconds(device, work), None
    wait(device)
    torch.cuda.reset_peak_memory_stats()
    time = seconds(device, work)
    return time, torch.cuda.max_memory_allocated()


def rates(check: Check) -> Rates:
    """As the part of that name measured them, or measured now where it did not run."""
    bandwidth, bf16 = check.recorded("copy bandwidth"), check.recorded("bfloat16 product")
    if bandwidth and bf16:
        return Rates(bandwidth * 1e9, bf16 * 1e12)
    return Rates(copy_bandwidth(check), product_rate(check, torch.bfloat16))


def copy_bandwidth(check: Check) -> float:
    """Of random bytes, not zeros, counted once read and once written."""
    n = 1 << 22 if check.tiny else 1 << 31
    source = torch.randint(256, (n,), dtype=torch.uint8, device=check.device)
    target = torch.empty_like(source)
    seconds(check.device, lambda: target.copy_(source), 3)
    return 2 * n / seconds(check.device, lambda: target.copy_(source), 10)


def product_rate(check: Check, dtype: torch.dtype) -> float:
    """Of two large square matrices of random numbers."""
    side = 256 if check.tiny else 8192
    a, b = (torch.randn(side, side, device=check.device).to(dtype) for _ in range(2))
    seconds(check.device, lambda: a @ b, 2)
    return 2 * side**3 / seconds(check.device, lambda: a @ b, 5)
