"""Attention backends where betastar meets them: every batch has a length that no batch had before.

A backend that builds a plan for each new shape looks fast when one shape is timed again and again. So every length here
is new when it is timed, and timed a second time for comparison.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gpu_parts.check import Check
from gpu_parts.device import seconds

DELIVERS = ("new length", "NaN case")
BACKENDS = {
    "as torch chooses": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
MOST = 2.0  # times the second call that the first call of a length may take
LENGTHS = 10
TINY_LENGTHS = 2


class Kind(NamedTuple):
    """A use of attention: `make(length)` gives query, key, value `[R, heads, T, d]` and a mask or None; `backward`."""

    name: str
    make: Callable[[int], tuple[Tensor, Tensor, Tensor, Tensor | None]]
    backward: bool


def run(check: Check) -> None:
    switch_off_as_betastar_does(check)
    first, count = (16, TINY_LENGTHS) if check.tiny else (500, LENGTHS)
    for k, kind in enumerate(kinds(check)):
        for b, (name, backend) in enumerate(BACKENDS.items()):
            # Lengths of this kind and backend alone, the first one only to load libraries.
            lengths = [first + 17 * i + 5 * k + b for i in range(count + 1)]
            measure(check, kind, name, backend, lengths)
    for name, backend in BACKENDS.items():
        nan_case(check, name, backend)


def switch_off_as_betastar_does(check: Check) -> None:
    """`as torch chooses` is what betastar gets: with what it switches off on its device."""
    from gpu_parts.rates import after_betastar

    after_betastar(check)


def chosen(backend: SDPBackend | None) -> AbstractContextManager[object]:
    return nullcontext() if backend is None else sdpa_kernel(backend)


def kinds(check: Check) -> Iterator[Kind]:
    """The shapes of a 14B model: 40 heads of width 128 (key-value heads repeated, as transformers does)."""
    rows, heads, width = (2, 2, 32) if check.tiny else (4, 40, 128)
    decoded = 4 if check.tiny else 56

    def states(rows: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
        def normal(n: int) -> Tensor:
            return torch.randn(rows, heads, n, width, device=check.device, dtype=torch.bfloat16)

        return normal(queries), normal(keys), normal(keys)

    def masked(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool, device=check.device).tril()
        mask[:, :, 2 * length // 3 :, length // 3 : 2 * length // 3] = False  # a pair: responses do not see each other
        return *states(rows, length, length), mask

    def one_token(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        bias = torch.zeros(decoded, 1, 1, length, dtype=torch.bfloat16, device=check.device)
        bias[::2, :, :, : length // 4] = torch.finfo(torch.bfloat16).min / 2  # left padding
        return *states(decoded, 1, length), bias

    yield Kind("training, causal", lambda length: (*states(rows, length, length), None), True)
    yield Kind("training, pairs (mask)", masked, True)
    yield Kind("decoding (mask)", one_token, False)


def measure(check: Check, kind: Kind, name: str, backend: SDPBackend | None, lengths: list[int]) -> None:
    case = f"{kind.name}; {name}"

    def work(length: int) -> Callable[[], None]:
        query, key, value, mask = kind.make(length)
        states = [state.requires_grad_(kind.backward) for state in (query, key, value)]

        def once() -> None:
            with chosen(backend):
                output = scaled_dot_product_attention(*states, attn_mask=mask, is_causal=mask is None)
            if kind.backward:
                output.backward(output.detach())

        return once

    try:
        work(lengths[0])()
        times = []
        for length in lengths[1:]:
            once = work(length)
            times.append((seconds(check.device, once), seconds(check.device, once)))
    except RuntimeError as error:
        check.record(
            "new length", None, case=case, compared=f"not available ({str(error).strip().splitlines()[0][:80]})"
        )
        return
    new, again = (1e3 * statistics.median(part) for part in zip(*times, strict=True))
    worst = 1e3 * max(first for first, _ in times)
    check.record(
        "new length",
        new,
        "ms",
        case=f"{case}; median of {len(times)}",
        compared=f"{again:.3g} ms the second time; longest {worst:.3g} ms",
        limit=f"{MOST:g} × the second time" if backend is None else "",
        ok=new <= MOST * again if backend is None and not check.tiny else None,
    )


def nan_case(check: Check, name: str, backend: SDPBackend | None) -> None:
    """An explicit mask, a length of 64 modulo 128, and a row whose log-sum-exp is below -88.7, the logarithm of the
    least normal float32: grad_q must be finite, and near the float32 one of the plain computation."""
    length, width = 192, 128  # 192 = 128 + 64
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, length, width, generator=draw) for _ in range(3))
    low, direction = [100, 170], torch.ones(width) / width**0.5  # in the first tile of 128 rows and in the second
    key[:] = key / 10 + direction * 12
    query[:, :, low] = -direction * 100  # scores about -12 · 100 / √128 = -106
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    weight = torch.randn(1, 2, length, width, generator=draw)
    scores = (query @ key.transpose(-1, -2)) / width**0.5
    highest = scores.masked_fill(~mask, -torch.inf)[:, :, low].logsumexp(-1).max().item()
    assert highest < -88.7

    def gradient(dtype: torch.dtype, backend: SDPBackend | None) -> Tensor:
        states = [state.to(check.device, dtype).requires_grad_(True) for state in (query, key, value)]
        with chosen(backend):
            output = scaled_dot_product_attention(*states, attn_mask=mask.to(check.device))
        (output.float() * weight.to(check.device)).sum().backward()
        assert states[0].grad is not None
        return states[0].grad.float()

    case = f"{name}; length {length}, log-sum-exp {highest:.0f}"
    try:
        mine = gradient(torch.bfloat16, backend)
    except RuntimeError as error:
        check.record("NaN case", None, case=case, compared=f"not available ({str(error).strip().splitlines()[0][:80]})")
        return
    exact = gradient(torch.float32, SDPBackend.MATH)
    finite = bool(mine.isfinite().all())
    off = ((mine - exact).norm() / exact.norm()).item() if finite else None
    check.record(
        "NaN case",
        "finite" if finite else f"{int((~mine.isfinite()).sum())} numbers of grad_q are not finite",
        case=case,
        compared="" if off is None else f"{off:.2g} from float32",
        limit="finite" if backend is None else "",
        ok=finite if backend is None else None,
    )
