"""Triton's kernels against the PyTorch operations that they stand for. Without a GPU they are interpreted, if triton is
installed and TRITON_INTERPRET=1 (`make test-kernels`), in float32 and float16: the interpreter does not know bfloat16.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from betastar.models import decoding
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.decoding import grouped_attention
from betastar.models.sequences import Row
from betastar.randomness import stream_key

ON_GPU = torch.cuda.is_available()
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]


@pytest.fixture
def fast() -> Any:
    if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs a GPU, or TRITON_INTERPRET=1")
    pytest.importorskip("triton")
    from betastar.models import kernels

    return kernels


@pytest.fixture
def place(device: torch.device) -> torch.device:
    if ON_GPU and device.type == "cpu":
        pytest.skip("with a GPU, Triton compiles for that alone")
    return device


@pytest.fixture
def some(place: torch.device) -> Callable[..., Tensor]:
    draw = torch.Generator().manual_seed(0)
    return lambda dtype, *shape: torch.randn(*shape, generator=draw).to(place, dtype)


def assert_near(ours: Tensor, theirs: Tensor, roundings: float = 2) -> None:
    """Within so many roundings of the largest number."""
    most = roundings * torch.finfo(ours.dtype).eps * float(theirs.abs().max())
    torch.testing.assert_close(ours.float(), theirs.float(), atol=max(most, 2e-5), rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "shared", "width"), [(6, 2, 24), (4, 4, 16), (20, 1, 64)])
def test_attention(
    fast: Any, some: Callable[..., Tensor], place: torch.device, dtype: torch.dtype, heads: int, shared: int, width: int
) -> None:
    """A part of a larger cache; what a row may not see holds large numbers, or is not a number where it lies outside
    of `start` to `column`, as it is not read."""
    query, cache = some(dtype, 4, heads, 1, width), some(dtype, 2, 4, shared, 170, width)
    start, last = torch.tensor([0, 5, 70, 139], device=place), torch.tensor([139], device=place)
    column = torch.arange(150, device=place)
    hidden = (column < start[:, None]) | (column > last)
    bias = torch.zeros(4, 150, dtype=dtype, device=place).masked_fill(hidden, torch.finfo(dtype).min / 2)
    clean = cache[..., :150, :].clone()
    cache[..., :150, :].masked_fill_(hidden[:, None, :, None], 1e4)
    cache[..., 140:, :] = torch.nan
    key, value = cache[..., :150, :]
    ours = fast.attend(query, key, value, bias, start, last, width**-0.5)
    theirs, _ = grouped_attention(nn.Module(), query, clean[0], clean[1], bias[:, None, None])
    assert ours.shape == theirs.shape == (4, 1, heads, width)
    assert_near(ours, theirs, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angles", [1, 3])
def test_rotary_positions(
    fast: Any, some: Callable[..., Tensor], place: torch.device, dtype: torch.dtype, angles: int
) -> None:
    """Of views, as a model has them after its norms; bit by bit."""
    query, key = some(dtype, 3, 1, 10, 24).transpose(1, 2), some(dtype, 3, 1, 3, 24).transpose(1, 2)
    angle = some(torch.float32, angles, 1, 24)
    given = query, key, angle.cos().to(dtype), angle.sin().to(dtype)
    for ours, theirs in zip(fast.rotate(*given), decoding._rotated(*given), strict=True):
        assert_near(ours, theirs, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 1, 5, 24), (7, 1, 1500)])
def test_norm(fast: Any, some: Callable[..., Tensor], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight = some(dtype, *shape), some(dtype, shape[-1])
    assert_near(fast.norm(x, weight, 1e-6), F.rms_norm(x.float(), weight.shape, weight.float(), 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate(fast: Any, some: Callable[..., Tensor], dtype: torch.dtype) -> None:
    gate, up = some(dtype, 3, 1, 3000), some(dtype, 3, 1, 3000)
    assert_near(fast.gated(gate, up), F.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("conditions", "rows", "depth", "rank", "width"), [(2, 3, 100, 8, 50), (3, 20, 1300, 24, 300)])
def test_adapters(
    fast: Any,
    some: Callable[..., Tensor],
    dtype: torch.dtype,
    conditions: int,
    rows: int,
    depth: int,
    rank: int,
    width: int,
) -> None:
    """In place; one condition's numbers, which are not finite, do not reach another's."""
    x, a, b = (
        some(dtype, conditions, rows, depth),
        some(dtype, conditions, depth, rank),
        some(dtype, conditions, rank, width),
    )
    a /= depth**0.5
    y = some(dtype, conditions, rows, width)
    expected = torch.baddbmm(y.float(), torch.bmm(x.float(), a.float()), b.float(), alpha=0.5).to(dtype)
    given = y.clone()
    assert fast.add_adapters(given, x, a, b, 0.5) is given
    assert_near(given, expected, 8)
    a[0] = torch.nan
    fast.add_adapters(y, x, a, b, 0.5)
    assert y[0].isnan().all()
    assert_near(y[1:], expected[1:], 8)


def test_sampling_with_them_gives_the_same_tokens(
    fast: Any,
    bank: AdapterBank,
    adapters: Adapters,
    make_rows: Callable[..., list[Row]],
    monkeypatch: pytest.MonkeyPatch,
    place: torch.device,
) -> None:
    """In float32, with every kernel taking part; on a GPU as a graph."""
    from betastar.models import generation, repeated

    used = set()
    for name in ("attend", "rotate", "norm", "gated", "add_adapters"):
        own = getattr(fast, name)
        monkeypatch.setattr(fast, name, lambda *args, own=own, name=name: (used.add(name), own(*args))[1])
    monkeypatch.setattr(repeated, "FIXED_SHAPES", True)
    prompts = [[list(row.prompt) for row in make_rows(4, seed)] for seed in range(3)]
    keys = [[stream_key(0, "row", b) for b in range(len(group))] for group in prompts]
    made = []
    for with_kernels in (False, True):
        monkeypatch.setattr(decoding, "kernels", lambda device, found=with_kernels: fast if found else None)
        repeated.REPEATABLE.clear()
        made.append(generation.generate(bank, adapters, prompts, keys, end_tokens=[40], pad=0, max_new_tokens=10))
    assert repeated.REPEATABLE[bank.model]
    assert used == {"attend", "rotate", "norm", "gated", "add_adapters"}
    plain, ours = ([r for group in each for r in group] for each in made)
    assert [r.tokens for r in ours] == [r.tokens for r in plain]
    assert [r.logprob for r in ours] == pytest.approx([r.logprob for r in plain], abs=1e-3)


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
def test_they_are_found_to_be_right_on_this_gpu() -> None:
    assert decoding.kernels(torch.device("cuda", torch.cuda.current_device())) is not None


def test_without_a_gpu_there_are_none() -> None:
    assert decoding.kernels(torch.device("cpu")) is None
