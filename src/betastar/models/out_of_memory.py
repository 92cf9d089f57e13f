"""Running out of memory, as devices say it."""

from __future__ import annotations

import torch

from betastar.errors import BetastarError

FULL = "Out of memory while training with TRL."


class OutOfMemory(BetastarError):
    """There was no room for a piece of work, which may fit in smaller pieces."""


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA and MPS say so by a class or a text of their own, the CPU's allocator by another text."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "allocate memory" in text
    )
