"""Prompt and response token ids as padded batches, cut into pieces that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from betastar.record.responses import Response


class Row(NamedTuple):
    """One prompt with one response, as token ids. The response ends with the end token unless it hit the limit."""

    prompt: Sequence[int]
    response: Sequence[int]

    @classmethod
    def of(cls, response: Response) -> Row:
        """What a model reads of a sampled response."""
        return cls(response.prompt, response.tokens)

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.response)


class Pair(NamedTuple):
    """Two responses to one prompt, as token ids."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]

    @property
    def length(self) -> int:
        """Tokens in all, the prompt counted once."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    def rows(self) -> tuple[Row, Row]:
        return Row(self.prompt, self.chosen), Row(self.prompt, self.rejected)


class RightPadded(NamedTuple):
    """`tokens [R, T]` with padding on the right, and `response [R, T]`, true at response tokens.

    With causal attention, padding on the right cannot be seen by what stands before it: no mask is needed.
    """

    tokens: Tensor
    response: Tensor


def right_pad(rows: Sequence[Row], pad: int, device: torch.device | str) -> RightPadded:
    """Stack rows into one batch padded to the longest."""
    width = max(row.length for row in rows)
    tokens = torch.full((len(rows), width), pad, dtype=torch.long)
    response = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : row.length] = torch.tensor([*row.prompt, *row.response])
        response[index, len(row.prompt) : row.length] = True
    return RightPadded(tokens.to(device), response.to(device))


class PairBatch(NamedTuple):
    """R pairs, each one sequence `prompt | chosen | rejected`, so that the prompt is read once.

    `position [R, T]`: both responses continue the prompt's positions. `mask [R, 1, T, T]`: true where a token may be
    seen; the responses do not see each other. For the N response tokens of all: `source [N]`, the place (in the
    flattened batch) of the state that predicts it; `target [N]`, the token; `owner [N]`, its response, `2 · row` for
    the chosen and `2 · row + 1` for the rejected one. `last [2R]`: the place of each response's last token.
    """

    tokens: Tensor
    position: Tensor
    mask: Tensor
    source: Tensor
    target: Tensor
    owner: Tensor
    last: Tensor


def pair_pad(pairs: Sequence[Pair], pad: int, device: torch.device | str) -> PairBatch:
    """Stack pairs into one batch padded to the longest."""
    prompt, chosen, rejected = np.array([[len(part) for part in pair] for pair in pairs]).T[:, :, None]
    second, end = prompt + chosen, prompt + chosen + rejected
    width = int(end.max())
    place = np.arange(width)
    # 0 prompt, 1 chosen, 2 rejected, 3 padding
    part = np.stack([place >= prompt, place >= second, place >= end]).sum(axis=0)
    tokens = np.full(part.shape, pad)
    tokens[part < 3] = [token for pair in pairs for response in pair for token in response]
    position = np.where(part < 3, place - chosen * (part == 2), 0)
    # A response's first token is predicted where the prompt ends, which for the rejected one is further back.
    row, at = np.nonzero((part == 1) | (part == 2))
    before = np.where(at == second[row, 0], prompt[row, 0], at) - 1
    last = np.concatenate([second, end], axis=1) - 1 + width * np.arange(len(pairs))[:, None]
    seen, seer = part[:, None, None, :], part[:, None, :, None]
    mask = ((seen == 0) | (seen == seer)) & np.tri(width, dtype=bool)
    arrays = (
        *(tokens, position, mask),
        *(row * width + before, tokens[row, at], 2 * row + part[row, at] - 1, last.ravel()),
    )
    return PairBatch(*(torch.from_numpy(array).to(device) for array in arrays))


Told = Callable[[int, int], None]
"""Hears how many items are done, and of how many."""


class Piece(NamedTuple):
    """Part of a grid of items `[C][B]`. `conditions` is the slice of C it covers, c of them; `places [c, b]` are the
    indices of its items within each condition; `items` are the items themselves, grouped by condition."""

    conditions: slice
    places: Tensor
    items: list


def pieces(grid: Sequence[Sequence], most_tokens: int, told: Told | None = None) -> Iterator[Piece]:
    """Cut a grid `[C][B]` of rows or pairs into pieces of at most `most_tokens` tokens, padding included, but at least
    one item. Items are sorted by length within each condition first, which keeps padding small; conditions are
    separated only where one item of each is already too much. `told(done, of)`: called when so many items are done."""
    lengths = torch.tensor([[item.length for item in row] for row in grid])
    order = lengths.argsort(dim=1, descending=True, stable=True)
    widest = lengths.gather(1, order).amax(dim=0).clamp(min=1).tolist()  # the width at each place of the sorted grid
    start = done = 0
    while start < len(widest):
        together = min(len(grid), max(1, most_tokens // widest[start]))
        count = max(1, most_tokens // (together * widest[start])) if together == len(grid) else 1
        for first in range(0, len(grid), together):
            part = slice(first, min(first + together, len(grid)))
            index = order[part, start : start + count]
            items = [
                grid[c][i] for c, row in zip(range(part.start, part.stop), index.tolist(), strict=True) for i in row
            ]
            yield Piece(part, index, items)
            done += len(items)
            if told is not None:
                told(done, len(grid) * len(widest))
        start += count
