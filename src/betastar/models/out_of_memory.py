"""Running out of memory, as devices say it."""

from __future__ import annotations

import torch

from betastar.errors import BetastarError

FULL = "Out of memory while training with TRL."


class OutOfMemory(BetastarError):
    """There was no room for a piece of work, which may fit in smaller pieces."""


SIGNS = ("out of memory", "allocate memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA and MPS say so by a class or a text of their own, the CPU's allocator by another text, and CUDA's libraries
    by the status of the handle or workspace that they could not allocate."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in text for sign in SIGNS)
