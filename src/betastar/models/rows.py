"""The rows of a batch that is being sampled: what each needs besides its tokens and its part of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """The rows of a batch, grouped by condition: each one's row of the output, random stream, first column that is not
    padding, what attention adds to the scores of each column, and whether it has not ended yet.

    Conditions share streams, and noise is drawn once for each: row r's is stream number `stream[r]`, with the key
    `keys[stream[r]]`, and its first token is drawn at step `begun[stream[r]]` of the batch.
    """

    output: Tensor  # [R]
    stream: Tensor  # [R]
    keys: Tensor  # [streams]
    begun: Tensor  # [streams]
    start: Tensor  # [R]
    bias: Tensor  # [R, columns]
    live: Tensor  # [R]

    def keep(self, index: Tensor) -> Rows:
        """Some of the rows, perhaps some of them twice."""
        streams, stream = self.stream[index].unique(return_inverse=True)
        start, bias, live = self.start[index], self.bias[index], self.live[index]
        return Rows(self.output[index], stream, self.keys[streams], self.begun[streams], start, bias, live)

    def moved(self, columns: int, room: int) -> Rows:
        """With everything so many columns further to the right, of `room` in all; what is moved out of sight is none of
        a live row's."""
        start = (self.start + columns).clamp(min=0)
        return self._replace(start=start, bias=padding_bias(start, room, self.bias.dtype))

    def and_others(self, others: Rows) -> Rows:
        """These and then the others, which have as many columns."""
        joined = Rows(*(torch.cat(pair) for pair in zip(self, others, strict=True)))
        return joined._replace(stream=torch.cat([self.stream, others.stream + len(self.keys)]))


def padding_bias(start: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """What attention adds to the scores `[R, columns]`, so that each row sees nothing before its `start [R]`. Half the
    lowest number: its exponential is zero, and a padding token's softmax, over padding alone, stays finite."""
    padding = torch.arange(columns, device=start.device) < start[:, None]
    return torch.zeros(padding.shape, dtype=dtype, device=start.device).masked_fill(padding, torch.finfo(dtype).min / 2)


def left_pad(
    prompts: Sequence[Sequence[int]],
    row_keys: Sequence[int],
    pad: int,
    columns: int | None,
    dtype: torch.dtype,
    device: torch.device,
    begun: int = 0,
) -> tuple[Tensor, Rows]:
    """Prompt tokens `[R, W]` that end together, so that one cache column serves all rows at every step, and rows with
    so many columns, W of them where none are given, whose first token is drawn at step `begun`."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    start = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
    signed = [key - (1 << 64) if key >> 63 else key for key in row_keys]
    keys, stream = torch.tensor(signed, device=device).unique(return_inverse=True)
    rows = Rows(
        output=torch.arange(len(prompts), device=device),
        stream=stream,
        keys=keys,
        begun=torch.full_like(keys, begun),
        start=start,
        bias=padding_bias(start, width if columns is None else columns, dtype),
        live=torch.ones(len(prompts), dtype=torch.bool, device=device),
    )
    return tokens, rows
