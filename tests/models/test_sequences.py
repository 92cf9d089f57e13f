"""Padding and cutting a grid of rows into pieces."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from betastar.models.sequences import Row, pieces, right_pad


def test_right_pad_by_hand() -> None:
    batch = right_pad([Row([5, 6], [7]), Row([], [8, 9]), Row([4], [])], pad=0, device="cpu")
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 0], [4, 0, 0]]
    assert batch.response.int().tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]


@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=4, max_size=4), min_size=1, max_size=5),
    rows_per_item=st.integers(1, 2),
    most_tokens=st.integers(1, 400),
)
def test_pieces_cover_the_grid_once_within_the_limit(
    lengths: list[list[int]], rows_per_item: int, most_tokens: int
) -> None:
    grid = [
        [tuple(Row([c], [i, m] + [0] * n) for m in range(rows_per_item)) for i, n in enumerate(row)]
        for c, row in enumerate(lengths)
    ]
    seen = []
    for places, rows in pieces(grid, most_tokens):
        size = places.shape[1]
        tokens = right_pad(rows, 0, "cpu").tokens.view(len(grid), rows_per_item, size, -1)
        assert tokens.numel() <= most_tokens or size == 1
        for c in range(len(grid)):
            for m in range(rows_per_item):
                assert tokens[c, m, :, 0].eq(c).all()
                assert tokens[c, m, :, 2].eq(m).all()
                assert torch.equal(tokens[c, m, :, 1], places[c])
        seen.append(places)
    whole = torch.cat(seen, dim=1).sort(dim=1).values
    assert torch.equal(whole, torch.arange(4).expand(len(grid), 4))
