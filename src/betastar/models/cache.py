"""A key-value cache with room made in advance: decoding writes in place instead of copying the past at every token."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values `[R, heads, room, head_dim]`; only the first `length` positions are filled."""

    def __init__(self, room: int):
        super().__init__()
        self.room, self.length = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            rows, heads, _, width = key_states.shape
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys = key_states.new_empty(rows, heads, self.room, width)
            self.values = value_states.new_empty(rows, heads, self.room, value_states.shape[-1])
            self.is_initialized = True
        start, self.length = self.length, self.length + key_states.shape[-2]
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only `rows`; positions that are not filled yet are not copied."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), *old.shape[1:])
            torch.index_select(old[:, :, : self.length], 0, rows, out=new[:, :, : self.length])
            setattr(self, name, new)


def roomy_cache(layers: int, room: int) -> Cache:
    """An empty cache for `layers` layers and sequences of up to `room` tokens."""
    return Cache(layers=[RoomyLayer(room) for _ in range(layers)])
