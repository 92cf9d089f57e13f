"""Prompt and response token ids as padded batches, cut into pieces that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """One prompt with one response, as token ids. The response ends with the end token unless it hit the limit."""

    prompt: Sequence[int]
    response: Sequence[int]


class RightPadded(NamedTuple):
    """`tokens [R, T]` with padding on the right, and `response [R, T]`, true at response tokens.

    With causal attention, padding on the right cannot be seen by what stands before it: no mask is needed.
    """

    tokens: Tensor
    response: Tensor


def right_pad(rows: Sequence[Row], pad: int, device: torch.device | str) -> RightPadded:
    """Stack rows into one batch padded to the longest."""
    width = max(len(row.prompt) + len(row.response) for row in rows)
    tokens = torch.full((len(rows), width), pad, dtype=torch.long)
    response = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.response)
        tokens[index, :end] = torch.tensor([*row.prompt, *row.response])
        response[index, start:end] = True
    return RightPadded(tokens.to(device), response.to(device))


class Piece(NamedTuple):
    """Part of a grid of items. `places [C, b]` are the indices within each condition; `rows` are the items' rows,
    grouped by condition, then by row of the item, so that they view as `[C, m, b]`."""

    places: Tensor
    rows: list[Row]


def pieces(items: Sequence[Sequence[Sequence[Row]]], most_tokens: int) -> Iterator[Piece]:
    """Cut a grid `[C][B]` of items of m rows each (a response, or a pair of them) into pieces of at most `most_tokens`
    tokens, padding included, but at least one item per condition. Items are sorted by length within each condition
    first, which keeps padding small."""
    lengths = torch.tensor([[max(len(r.prompt) + len(r.response) for r in item) for item in row] for row in items])
    order = lengths.argsort(dim=1, descending=True, stable=True)
    widest = lengths.gather(1, order).amax(dim=0).tolist()  # the width at each place of the sorted grid
    conditions, rows_per_item, start = len(items), len(items[0][0]), 0
    while start < len(widest):
        count = max(1, most_tokens // (conditions * rows_per_item * max(widest[start], 1)))
        index = order[:, start : start + count]
        rows = [items[c][i][m] for c in range(conditions) for m in range(rows_per_item) for i in index[c].tolist()]
        yield Piece(index, rows)
        start += count
