# pyright: reportMissingImports=false, reportIndexIssue=false
"""Triton kernels for one decoding step: what PyTorch would do in several small kernels, or without the parallelism that
one token a row leaves unused. Each rounds where the operations that it stands for round.

`betastar.models.decoding` decides where they take part; the tests compute them with Triton's interpreter, too, which
needs no GPU. Numbers of rows and of conditions change within one answer, so kernels are not compiled anew for each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 64  # of the cache that one program of `attend` reads at a time
TILE = 16  # rows that a matrix product has at least
DEPTH, WIDTH = 64, 256  # of a piece of the matrices A and B of an adapter
PROGRAMS, PIECES = 320, 8  # `add_adapters` wants about so many programs, and cuts a row into so many pieces at most
MOST_ROWS = 64  # of a condition; with more, PyTorch's products are as good


@triton.jit
def _attend(
    query, key, value, bias, start, column, output, scale, heads, width,
    query_row, query_head, key_row, key_head, key_column, value_row, value_head, value_column, bias_row,
    output_row, output_head,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, shared = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, place = tl.arange(0, HEADS), tl.arange(0, WIDTH)
    these = (head[:, None] < heads) & (place[None, :] < width)
    mine = shared * heads + head[:, None]
    q = tl.load(query + row * query_row + mine * query_head + place[None, :], mask=these, other=0.0)
    most = tl.full([HEADS], float("-inf"), tl.float32)
    total = tl.zeros([HEADS], tl.float32)
    mean = tl.zeros([HEADS, WIDTH], tl.float32)
    end = tl.load(column).to(tl.int32) + 1
    for first in range(tl.load(start + row).to(tl.int32) // COLUMNS * COLUMNS, end, COLUMNS):
        at = first + tl.arange(0, COLUMNS)
        seen = at < end
        both = seen[:, None] & (place[None, :] < width)
        k = tl.load(key + row * key_row + shared * key_head + at[:, None] * key_column + place[None, :], both, 0.0)
        v = tl.load(
            value + row * value_row + shared * value_head + at[:, None] * value_column + place[None, :], both, 0.0
        )
        hidden = tl.load(bias + row * bias_row + at, mask=seen, other=float("-inf")).to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + hidden[None, :]
        larger = tl.maximum(most, tl.max(scores, axis=1))
        weights = tl.exp(scores - larger[:, None])
        shrink = tl.exp(most - larger)
        total = total * shrink + tl.sum(weights, axis=1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = larger
    result = (mean / total[:, None]).to(output.dtype.element_ty)
    tl.store(output + row * output_row + mine * output_head + place[None, :], result, mask=these)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, start: Tensor, column: Tensor, scaling: float
) -> Tensor:
    """Attention of one token of each row, `query [R, heads, 1, d]`, to the columns `start[r]` to `column` of `key` and
    `value [R, key-value heads, L, d]`: `[R, 1, heads, d]`. `bias [R, L]` is added to the scores; `start [R]` and
    `column [1]` are numbers on the device, so what lies outside them is not even read."""
    rows, heads, _, width = query.shape
    shared = key.shape[1]
    output = query.new_empty(rows, 1, heads, width)
    each = heads // shared
    _attend[rows, shared](
        query, key, value, bias, start, column, output, scaling, each, width,
        query.stride(0), query.stride(1), *key.stride()[:3], *value.stride()[:3], bias.stride(0),
        output.stride(0), output.stride(2),
        HEADS=max(TILE, triton.next_power_of_2(each)), WIDTH=max(TILE, triton.next_power_of_2(width)), COLUMNS=COLUMNS,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return output


@triton.jit
def _rotate(
    query, key, cosine, sine, query_output, key_output, heads, shared, half,
    query_row, query_head, key_row, key_head, angle_row,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    blocks = (heads + HEADS - 1) // HEADS
    place = tl.arange(0, HALF)
    angle = row * angle_row + place
    inside = place < half
    low_cos, low_sin = tl.load(cosine + angle, inside), tl.load(sine + angle, inside)
    high_cos, high_sin = tl.load(cosine + angle + half, inside), tl.load(sine + angle + half, inside)
    if block < blocks:
        head = block * HEADS + tl.arange(0, HEADS)
        source, target = query + row * query_row, query_output + row * heads * 2 * half
        step, count = query_head, heads
    else:
        head = (block - blocks) * HEADS + tl.arange(0, HEADS)
        source, target = key + row * key_row, key_output + row * shared * 2 * half
        step, count = key_head, shared
    these = (head[:, None] < count) & inside[None, :]
    low = tl.load(source + head[:, None] * step + place[None, :], these)
    high = tl.load(source + head[:, None] * step + place[None, :] + half, these)
    kind = low.dtype
    to = target + head[:, None] * 2 * half + place[None, :]
    low, high = low.to(tl.float32), high.to(tl.float32)
    one = (low * low_cos[None, :].to(tl.float32)).to(kind).to(tl.float32)
    other = (high * low_sin[None, :].to(tl.float32)).to(kind).to(tl.float32)
    tl.store(to, (one - other).to(kind), these)
    one = (high * high_cos[None, :].to(tl.float32)).to(kind).to(tl.float32)
    other = (low * high_sin[None, :].to(tl.float32)).to(kind).to(tl.float32)
    tl.store(to + half, (one + other).to(kind), these)


def rotate(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions of `query [R, heads, 1, d]` and `key [R, key-value heads, 1, d]`, in halves: `x cos + (-x₂, x₁)
    sin`, with `cosine` and `sine [R or 1, 1, d]`."""
    rows, heads, _, width = query.shape
    shared, several = key.shape[1], 8
    turned = query.new_empty(query.shape), key.new_empty(key.shape)
    assert cosine.stride() == sine.stride()
    _rotate[rows, triton.cdiv(heads, several) + triton.cdiv(shared, several)](
        query, key, cosine, sine, *turned, heads, shared, width // 2,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), cosine.stride(0) if len(cosine) > 1 else 0,
        HEADS=several, HALF=triton.next_power_of_2(width // 2), num_warps=2,
    )  # fmt: skip
    return turned


@triton.jit(do_not_specialize=["rows"])
def _norm(x, weight, output, rows, width, epsilon, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, WIDTH)
    inside = place < width
    these = (row[:, None] < rows) & inside[None, :]
    at = row[:, None] * width + place[None, :]
    given = tl.load(x + at, these, 0.0)
    wide = given.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, axis=1) / width + epsilon)[:, None]
    scaled = normed.to(given.dtype).to(tl.float32) * tl.load(weight + place, inside, 0.0)[None, :].to(tl.float32)
    tl.store(output + at, scaled.to(output.dtype.element_ty), these)


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`weight · x / RMS(x)` over the last dimension."""
    x = x.contiguous()
    width = x.shape[-1]
    rows, padded = x.numel() // width, triton.next_power_of_2(width)
    several = max(1, 1024 // padded)
    output = torch.empty_like(x)
    _norm[(triton.cdiv(rows, several),)](
        x, weight, output, rows, width, epsilon, ROWS=several, WIDTH=padded, num_warps=8 if padded > 2048 else 4
    )
    return output


@triton.jit(do_not_specialize=["count"])
def _gate(gate, up, output, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    given = tl.load(gate + at, inside, 0.0)
    wide = given.to(tl.float32)
    opened = (wide / (1 + tl.exp(-wide))).to(given.dtype).to(tl.float32)
    tl.store(output + at, (opened * tl.load(up + at, inside, 0.0).to(tl.float32)).to(given.dtype), inside)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) · up`."""
    gate, up = gate.contiguous(), up.contiguous()
    output = torch.empty_like(gate)
    _gate[(triton.cdiv(gate.numel(), 2048),)](gate, up, output, gate.numel(), BLOCK=2048, num_warps=4)
    return output


@triton.jit(do_not_specialize=["rows", "conditions"])
def _into_rank(
    x, a, part, rows, depth, rank, piece, conditions, x_condition, x_row, a_condition, a_row,
    ROWS: tl.constexpr, RANK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    condition, block, number = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row, r, k = block * ROWS + tl.arange(0, ROWS), tl.arange(0, RANK), tl.arange(0, DEPTH)
    sums = tl.zeros([ROWS, RANK], tl.float32)
    end = tl.minimum((number + 1) * piece, depth)
    for first in range(number * piece, end, DEPTH):
        at = first + k
        left = tl.load(
            x + condition * x_condition + row[:, None] * x_row + at[None, :],
            (row[:, None] < rows) & (at[None, :] < end),
            0.0,
        )
        right = tl.load(
            a + condition * a_condition + at[:, None] * a_row + r[None, :],
            (at[:, None] < end) & (r[None, :] < rank),
            0.0,
        )
        sums += tl.dot(left, right, input_precision="ieee")
    target = part + ((number * conditions + condition) * rows + row[:, None]) * rank + r[None, :]
    tl.store(target, sums, (row[:, None] < rows) & (r[None, :] < rank))


@triton.jit(do_not_specialize=["rows", "conditions"])
def _out_of_rank(
    part, b, y, rows, width, rank, scale, conditions, b_condition, b_row, y_condition, y_row,
    PIECES: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    condition, block, number = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row, r, n = block * ROWS + tl.arange(0, ROWS), tl.arange(0, RANK), number * WIDTH + tl.arange(0, WIDTH)
    right = tl.load(
        b + condition * b_condition + r[:, None] * b_row + n[None, :], (r[:, None] < rank) & (n[None, :] < width), 0.0
    )
    inside = (row[:, None] < rows) & (r[None, :] < rank)
    sums = tl.zeros([ROWS, RANK], tl.float32)
    for piece in tl.static_range(PIECES):
        source = part + ((piece * conditions + condition) * rows + row[:, None]) * rank + r[None, :]
        sums += tl.load(source, inside, 0.0)
    these = (row[:, None] < rows) & (n[None, :] < width)
    at = y + condition * y_condition + row[:, None] * y_row + n[None, :]
    added = tl.dot(sums.to(right.dtype), right, input_precision="ieee") * scale + tl.load(at, these, 0.0).to(tl.float32)
    tl.store(at, added.to(y.dtype.element_ty), these)


def add_adapters(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`y += scale · x A B` in place, for every condition: `y [C, N, d_out]`, `x [C, N, d_in]`, `a [C, d_in, r]`,
    `b [C, r, d_out]`. A row of `x` is cut into pieces that are added up in a fixed order, since a few rows of each
    condition would leave most of a GPU idle."""
    conditions, rows, depth = x.shape
    rank, width = b.shape[1:]
    if rows > MOST_ROWS or y.stride(2) != 1 or x.stride(2) != 1 or a.stride(2) != 1 or b.stride(2) != 1:
        return y.baddbmm_(torch.bmm(x, a), b, alpha=scale)
    blocks, padded = triton.cdiv(rows, TILE), max(TILE, triton.next_power_of_2(rank))
    pieces = min(
        PIECES, 1 << (max(1, PROGRAMS // (conditions * blocks)).bit_length() - 1)
    )  # few values: one is compiled
    piece = triton.cdiv(triton.cdiv(depth, pieces), DEPTH) * DEPTH
    pieces = triton.cdiv(depth, piece)
    part = torch.empty(pieces, conditions, rows, rank, dtype=torch.float32, device=x.device)
    _into_rank[conditions, blocks, pieces](
        x, a, part, rows, depth, rank, piece, conditions, *x.stride()[:2], *a.stride()[:2],
        ROWS=TILE, RANK=padded, DEPTH=DEPTH, num_warps=4, num_stages=3,
    )  # fmt: skip
    _out_of_rank[conditions, blocks, triton.cdiv(width, WIDTH)](
        part, b, y, rows, width, rank, scale, conditions, *b.stride()[:2], *y.stride()[:2],
        PIECES=pieces, ROWS=TILE, RANK=padded, WIDTH=WIDTH, num_warps=4,
    )  # fmt: skip
    return y
