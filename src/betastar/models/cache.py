"""A key-value cache with room made in advance: decoding writes in place instead of copying the past at every token."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values `[R, heads, room, head_dim]`; only the first `length` positions are filled.

    While `column [1]` is set, one token's are written there, and attention gets the first `seen` positions, filled or
    not, for its mask to choose from: shapes that do not change from token to token. Then the rest has to be `blank`,
    zeros and not whatever the memory held, as zero times that may be NaN.
    """

    def __init__(self, room: int, blank: bool = False):
        super().__init__()
        self.room, self.blank, self.length = room, blank, 0
        self.column: Tensor | None = None
        self.seen = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self._make_room(key_states, value_states, len(key_states))
        assert self.keys is not None
        assert self.values is not None
        if self.column is not None:
            self.keys.index_copy_(2, self.column, key_states)
            self.values.index_copy_(2, self.column, value_states)
            return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _make_room(self, keys: Tensor, values: Tensor, rows: int) -> None:
        self.dtype, self.device = keys.dtype, keys.device
        self.keys = self._empty(keys, rows, keys.shape[1], self.room, keys.shape[-1])
        self.values = self._empty(values, rows, values.shape[1], self.room, values.shape[-1])
        self.is_initialized = True

    def take_rows(self, other: RoomyLayer, rows: Tensor, of: int, end: int) -> None:
        """What `other` holds becomes the positions before `end` of these `rows`, of `of` in all; what a row has before
        that is zero."""
        assert other.keys is not None
        assert other.values is not None
        if not self.is_initialized:
            self._make_room(other.keys, other.values, of)
        assert self.keys is not None
        assert self.values is not None
        begin = end - other.length
        for mine, its in ((self.keys, other.keys), (self.values, other.values)):
            mine[rows, :, begin:end] = its[:, :, : other.length]
            if not self.blank:
                mine[rows, :, :begin] = 0.0
        self.length = end

    def with_rows(self, others: RoomyLayer, mine: Tensor, theirs: Tensor, end: int) -> RoomyLayer:
        """These rows at the places `mine` and the others at `theirs`, all ending at position `end`."""
        joined, of = RoomyLayer(self.room, self.blank), len(mine) + len(theirs)
        joined.take_rows(self, mine, of, end)
        joined.take_rows(others, theirs, of, end)
        return joined

    def _empty(self, like: Tensor, *shape: int) -> Tensor:
        return like.new_zeros(shape) if self.blank else like.new_empty(shape)

    def get_seq_length(self) -> int:
        """Nothing where shapes are fixed: a number that changes with the tokens must not enter what is repeated."""
        return self.length if self.column is None else 0

    def keep_rows(self, rows: Tensor, begin: int = 0) -> None:
        """Keep only `rows`, in this order and as often as they are named, and the positions from `begin` on, which
        become the first; positions not filled yet are not copied."""
        length = self.length - begin
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._empty(old, len(rows), *old.shape[1:])
            torch.index_select(old[:, :, begin : self.length], 0, rows, out=new[:, :, :length])
            setattr(self, name, new)
        self.length = length


def roomy_cache(layers: int, room: int, *, blank: bool = False) -> Cache:
    """An empty cache for `layers` layers and sequences of up to `room` tokens; `blank` as in `RoomyLayer`."""
    return Cache(layers=[RoomyLayer(room, blank) for _ in range(layers)])


def take_rows(cache: Cache, other: Cache, rows: Tensor, of: int, end: int) -> None:
    """What `other` holds becomes the positions before `end` of these `rows` of `cache`, of `of` in all. `roomy_cache`
    made both."""
    for layer, its in zip(cache.layers, other.layers, strict=True):
        assert isinstance(layer, RoomyLayer)
        assert isinstance(its, RoomyLayer)
        layer.take_rows(its, rows, of, end)


def keep_rows(cache: Cache, rows: Tensor, begin: int = 0) -> None:
    """Keep only `rows` of a cache that `roomy_cache` made, in this order and as often as they are named, and the
    positions from `begin` on, which become the first."""
    for layer in cache.layers:
        assert isinstance(layer, RoomyLayer)
        layer.keep_rows(rows, begin)


def add_rows(cache: Cache, others: Cache, mine: Tensor, theirs: Tensor, end: int) -> None:
    """Add the rows of `others`, at the places `theirs` of all rows, to those of `cache`, which move to `mine`; all end
    together at position `end`. `roomy_cache` made both, and `cache` keeps its room."""
    for i, (layer, its) in enumerate(zip(cache.layers, others.layers, strict=True)):
        assert isinstance(layer, RoomyLayer)
        assert isinstance(its, RoomyLayer)
        cache.layers[i] = layer.with_rows(its, mine, theirs, end)
