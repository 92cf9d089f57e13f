"""Padding and cutting a grid of rows into pieces."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from betastar.models.sequences import Pair, Row, pair_pad, pieces, right_pad


def test_right_pad_by_hand() -> None:
    batch = right_pad([Row([5, 6], [7]), Row([], [8, 9]), Row([4], [])], pad=0, device="cpu")
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 0], [4, 0, 0]]
    assert batch.response.int().tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]


def test_pair_pad_by_hand() -> None:
    """Prompt 5 6, chosen 7 8, rejected 9; and a shorter pair."""
    batch = pair_pad([Pair([5, 6], [7, 8], [9]), Pair([1], [2], [3])], pad=0, device="cpu")
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    assert batch.position.tolist() == [[0, 1, 2, 3, 2], [0, 1, 1, 0, 0]]
    assert batch.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],  # the rejected response sees the prompt, not the chosen one
    ]
    # Predicting 7 and 9 is the prompt's last token (place 1), 8 the 7 before it; row 1 begins at place 5.
    assert batch.source.tolist() == [1, 2, 1, 5, 5]
    assert batch.target.tolist() == [7, 8, 9, 2, 3]
    assert batch.owner.tolist() == [0, 0, 1, 2, 3]
    assert batch.last.tolist() == [3, 4, 6, 7]


@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=4, max_size=4), min_size=1, max_size=5),
    most_tokens=st.integers(1, 400),
)
def test_pieces_cover_the_grid_once_within_the_limit(lengths: list[list[int]], most_tokens: int) -> None:
    grid = [[Row([c], [i] + [0] * n) for i, n in enumerate(row)] for c, row in enumerate(lengths)]
    seen = torch.zeros(len(grid), 4, dtype=torch.long)
    for part, places, rows in pieces(grid, most_tokens):
        conditions = range(len(grid))[part]
        tokens = right_pad(rows, 0, "cpu").tokens.view(len(conditions), places.shape[1], -1)
        assert tokens.numel() <= most_tokens or len(rows) == 1
        for c, mine, where in zip(conditions, tokens, places, strict=True):
            assert mine[:, 0].eq(c).all()
            assert torch.equal(mine[:, 1], where)
            seen[c, where] += 1
    assert seen.eq(1).all()
