"""How much memory the device has that computes: the GPU where there is one, else the RAM this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

GIB = 2**30
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


class Memory(NamedTuple):
    """`total` GiB of a device called `name`; `gpu`: it is a GPU's own memory."""

    name: str
    gpu: bool
    total: float


def device_memory(device: str = "auto") -> Memory:
    """The memory of a device as `compute.device` names it: `auto` is a GPU if there is one, else the CPU. A device that
    is not there counts as the CPU: what runs on it says so itself."""
    if device == "cpu":
        return Memory("RAM of this machine", False, ram() / GIB)
    import torch  # takes a second or two, for which the CPU need not wait

    if device.startswith(("auto", "cuda")) and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.device("cuda" if device == "auto" else device))
        return Memory(properties.name, True, properties.total_memory / GIB)
    if device.startswith("mps") and torch.backends.mps.is_available():
        return Memory("Apple GPU", True, torch.mps.recommended_max_memory() / GIB)
    return Memory("RAM of this machine", False, ram() / GIB)


def ram() -> float:
    """Bytes of memory that this process may use: the machine's, or the limit of its container."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit for limit in map(_limit, LIMITS) if limit is not None)])


def _limit(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit
