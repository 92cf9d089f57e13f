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
    """Part of a grid of rows: `index[c]` are the places within condition c; `rows` are condition-major."""

    index: Tensor
    rows: list[Row]


def pieces(rows_by_condition: Sequence[Sequence[Row]], most_tokens: int) -> Iterator[Piece]:
    """Cut a grid of rows `[C][B]` into pieces of at most `most_tokens` tokens, padding included, at least one row per
    condition each. Rows are sorted by length within each condition first, which keeps padding small."""
    lengths = torch.tensor([[len(r.prompt) + len(r.response) for r in rows] for rows in rows_by_condition])
    order = lengths.argsort(dim=1, descending=True, stable=True)
    widest = lengths.gather(1, order).amax(dim=0).tolist()  # the width at each place of the sorted grid
    conditions, start = len(rows_by_condition), 0
    while start < len(widest):
        count = max(1, most_tokens // (conditions * max(widest[start], 1)))
        index = order[:, start : start + count]
        yield Piece(index, [rows_by_condition[c][int(i)] for c in range(conditions) for i in index[c]])
        start += count
