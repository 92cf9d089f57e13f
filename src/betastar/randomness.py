"""One root seed, many named streams: no global random state, and no stream depends on the order of use.

A *stream* is named by a path of words and numbers, for example `("sampling", seed, step)`; hashing the path gives its
64-bit key. Bulk draws (shuffles, bootstrap samples, initial weights) take a generator made from the key. Sampling
noise for tokens is *counter-based*: a hash of (row key, position, token), so a row's noise is the same whichever
batch, device or order it is computed in, and every condition that shares a row key shares its noise.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from operator import index
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_key(root_seed: int, *path: str | int) -> int:
    """64-bit key of the stream named `path` under `root_seed`; the same on every platform and Python version."""
    # NumPy's numbers and strings name the same stream as Python's.
    named = [f"str:{part!s}" if isinstance(part, str) else f"int:{index(part)}" for part in path]
    text = "\x1f".join([str(int(root_seed)), *named])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def numpy_generator(root_seed: int, *path: str | int) -> np.random.Generator:
    """Generator of the stream `path` for bulk draws with numpy."""
    return np.random.default_rng(stream_key(root_seed, *path))


def torch_generator(root_seed: int, *path: str | int) -> torch.Generator:
    """CPU generator of the stream `path` for bulk draws with torch; draw on the CPU, then move, so that every device
    sees the same numbers."""
    import torch

    return torch.Generator().manual_seed(stream_key(root_seed, *path) & (2**63 - 1))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit finaliser (xor-shift and multiply, bijective) on int32 tensors, which wrap around on overflow."""
    x = x ^ (x >> 16).bitwise_and_(0xFFFF)
    x *= 0x7FEB352D
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= -0x7B935975  # 0x846CA68B as a signed 32-bit number
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x


@lru_cache(maxsize=8)
def _token_words(n_tokens: int, device: torch.device) -> torch.Tensor:
    """The part of the hash that every row and position shares, `[n_tokens]`."""
    import torch

    return _mix(torch.arange(n_tokens, dtype=torch.int32, device=device))


def exponential_noise(row_keys: torch.Tensor, positions: torch.Tensor | int, n_tokens: int) -> torch.Tensor:
    """Standard exponential noise `[R, n_tokens]` for rows with `row_keys` `[R]` (int64) at `positions` ([R] or one).

    `argmin(noise / probability)`, equivalently `argmax(log probability - log noise)`, is then an exact sample from
    the categorical distribution (the exponential race, the same law as Gumbel-max). Two rows with the same key and
    position get the same noise, which couples their samples as tightly as their distributions allow.

    Small values decide the race, so the noise is `-log1p(-u)` with `u` near zero resolved to 2**-32.
    """
    import torch

    low = (row_keys & 0xFFFFFFFF).to(torch.int32)
    high = (row_keys >> 32).to(torch.int32)
    # Weyl steps of the golden ratio (0x9E3779B9, signed), from one: zero is a fixed point of the mixer, and would
    # let small keys through unmixed.
    steps = torch.as_tensor(positions, device=row_keys.device).to(torch.int32) + 1
    position = _mix(steps * -0x61C88647)
    first, second = _mix(torch.stack([low + position, high ^ position]))[:, :, None]
    bits = _mix(_mix(_token_words(n_tokens, row_keys.device) ^ first).add_(second)).bitwise_and_(0x7FFFFFFF)
    u = bits.to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return u.neg_().log1p_().neg_()
