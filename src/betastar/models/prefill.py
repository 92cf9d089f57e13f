"""Reading what is known of a batch into its key-value cache: prompts, each once and with little padding, or a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from betastar.models.cache import keep_rows, roomy_cache, take_rows
from betastar.models.last_layer import reading
from betastar.models.logprobs import backbone
from betastar.models.rows import Rows

# Prompts are read in pieces of at most so many tokens, padding included. Each piece reads all keys and values before
# it, which a GPU with its faster products feels.
PREFILL_TOKENS, PREFILL_TOKENS_ON_GPU = 4096, 16384
# What one more pass over some of the prompts costs, in tokens: rows of about one length are read together if that saves
# more padding.
PASS_TOKENS, PASS_TOKENS_ON_GPU = 128, 1024


def read(model: nn.Module, cache: Cache, tokens: Tensor, rows: Rows) -> Tensor:
    """Run the model over the columns `tokens [R, W]` that follow those in the cache; the last one's state `[R, d]`."""
    hidden = tokens
    most = PREFILL_TOKENS_ON_GPU if tokens.device.type == "cuda" else PREFILL_TOKENS
    for piece in tokens.split(max(1, most // len(tokens)), dim=1):
        begin = cache.get_seq_length()
        end = begin + piece.shape[1]
        mask = rows.bias[:, None, None, :end]
        if end - begin > 1:
            mask = mask + mask.new_full((end - begin, end), -torch.inf).triu(begin + 1)
        position = (torch.arange(begin, end, device=tokens.device) - rows.start[:, None]).clamp(min=0)
        with reading(model, _last_columns(piece)):
            hidden = backbone(model)(
                input_ids=piece, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
            ).last_hidden_state
    return hidden[:, -1]


def _last_columns(tokens: Tensor) -> Tensor | None:
    """Their places in the flattened `tokens [R, T]`; None where they are all there is."""
    rows, width = tokens.shape
    return None if width == 1 else torch.arange(1, rows + 1, device=tokens.device) * width - 1


def read_prompts(
    model: nn.Module, cache: Cache, tokens: Tensor, rows: Rows, prompts: Sequence[Sequence[Sequence[int]]]
) -> Tensor:
    """Run the model over `tokens [R, W]`, those of `prompts [C][R / C]`; the last column's state `[R, d]`. A prompt to
    which a condition gives several answers is read once, if all conditions repeat as many."""
    numbers = [{prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, group)))} for group in prompts]
    each = len(numbers[0])
    if each == len(prompts[0]) or any(len(mine) != each for mine in numbers):
        return read_by_length(model, cache, tokens, rows, [[len(prompt) for prompt in group] for group in prompts])
    place = [
        c * each + mine[tuple(prompt)]
        for c, (mine, group) in enumerate(zip(numbers, prompts, strict=True))
        for prompt in group
    ]
    first = {at: row for row, at in reversed(list(enumerate(place)))}
    kept = torch.tensor([first[at] for at in range(len(first))], device=tokens.device)
    lengths = [[len(prompt) for prompt in mine] for mine in numbers]
    hidden = read_by_length(model, cache, tokens[kept], rows.keep(kept), lengths)
    copies = torch.tensor(place, device=tokens.device)
    keep_rows(cache, copies)
    return hidden[copies]


def read_by_length(
    model: nn.Module, cache: Cache, tokens: Tensor, rows: Rows, lengths: Sequence[Sequence[int]]
) -> Tensor:
    """Run the model over `tokens [R, W]`, of which `lengths [C][R / C]` are not padding; the last column's state
    `[R, d]`. Rows of about one length are read together, so that little padding is."""
    on_gpu, width, each = tokens.device.type == "cuda", tokens.shape[1], len(lengths[0])
    order = [sorted(range(each), key=lambda row, mine=mine: mine[row]) for mine in lengths]
    longest = [
        max(mine[ranks[i]] for mine, ranks in zip(lengths, order, strict=True)) for i in range(each)
    ]  # by rank in its condition
    groups = length_groups(longest, PASS_TOKENS_ON_GPU if on_gpu else PASS_TOKENS, len(lengths))
    if len(groups) == 1:
        return read(model, cache, tokens, rows)
    hidden: Tensor | None = None
    for group in groups:
        index = torch.tensor(
            [c * each + rank for c, ranks in enumerate(order) for rank in ranks[group.start : group.stop]],
            device=tokens.device,
        )
        skipped = width - longest[group.stop - 1]
        mine = rows.keep(index)
        mine = mine._replace(start=mine.start - skipped, bias=mine.bias[:, skipped:])
        own = roomy_cache(len(cache.layers), width - skipped)
        states = read(model, own, tokens[index, skipped:], mine)
        take_rows(cache, own, index, len(tokens), width)
        hidden = states.new_empty(len(tokens), states.shape[1]) if hidden is None else hidden
        hidden[index] = states
    assert hidden is not None
    return hidden


def length_groups(longest: Sequence[int], overhead: int, rows: int) -> list[range]:
    """Split `range(len(longest))` into groups whose reading costs least: `rows` times each group's size times the last,
    hence largest, of its `longest`, which do not fall; and `overhead` for each group. All in tokens."""
    best: list[tuple[int, list[range]]] = [(0, [])]
    for end in range(1, len(longest) + 1):
        best.append(
            min(
                (
                    (cost + rows * (end - begin) * longest[end - 1] + overhead, [*groups, range(begin, end)])
                    for begin, (cost, groups) in enumerate(best)
                ),
                key=lambda choice: choice[0],
            )
        )
    return best[-1][1]
