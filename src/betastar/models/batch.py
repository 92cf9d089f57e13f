"""A batch that is being sampled: its cache, the rows that leave it as they end, and those that wait and enter it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.cache import add_rows, keep_rows, roomy_cache
from betastar.models.decoding import BLOCK, rounded_up
from betastar.models.prefill import read, read_by_length, read_prompts
from betastar.models.repeated import FixedShape, Repeated
from betastar.models.rows import Rows, left_pad
from betastar.models.sampler import Sampler

# Rows are dropped when the fullest condition has at most this share of its places still live. Steps of fixed shape are
# recorded anew after that, which costs as much as some ten of them, and fewer rows are not much faster.
COMPACT_BELOW, COMPACT_BELOW_FIXED = 0.8, 0.5
ENTER_BELOW = 0.6  # rows that wait enter when at most this share of all places is still live
# Tokens between two looks at which rows have ended. A look makes a GPU wait for all that was asked of it; on a CPU it
# costs nothing, and rows that leave early save work.
LOOK_EVERY, LOOK_EVERY_ON_GPU = 1, 8

Grid = Sequence[Sequence[Sequence[int]]]  # prompts [C][B], each some tokens


class Batch:
    """The rows that are sampled together, equally many of each condition, and those that wait for a place. A condition
    leaves when the last of its rows has ended."""

    def __init__(
        self,
        bank: AdapterBank,
        adapters: Adapters | None,
        sampler: Sampler,
        prompts: Grid,
        row_keys: Sequence[Sequence[int]],
        pad: int,
        places: int,
        fixed: bool,
    ):
        self.bank, self.model, self.sampler, self.fixed = bank, bank.model, sampler, fixed
        # Cast once, not at every token.
        self.adapters = self.active = None if adapters is None else adapters.to(bank.model.dtype)
        self.prompts, self.row_keys, self.pad = prompts, row_keys, pad
        self.places = places
        self.longest = max(len(prompt) for group in prompts for prompt in group) + sampler.output.limit
        self.conditions = list(range(len(prompts)))  # those that are still here, whose adapters are `active`
        self.entered = [places] * len(prompts)  # rows of each condition, its first ones
        others = places < len(prompts[0])
        self.room = rounded_up(self.longest + BLOCK * others) if fixed else self.longest  # columns, see `_full`
        self.cache = self._blank_cache(self.room, blank=fixed)
        self.tokens, self.rows = self._padded(self.conditions, [range(places)] * len(prompts), 0, self.room)
        self.step = 0  # tokens drawn of each row that entered first
        self.deadline = sampler.output.limit  # the step by which all that are here have ended
        self.look_every = LOOK_EVERY_ON_GPU if bank.device.type == "cuda" else LOOK_EVERY
        self.repeated: Repeated | None = None

    def run(self) -> None:
        """Sample all responses."""
        grid = [group[: self.places] for group in self.prompts]
        with self.bank.use(self.active):
            hidden = read_prompts(self.model, self.cache, self.tokens, self.rows, grid)
        self.tokens, self.rows = self.sampler(hidden, self.rows, 0)
        self.step = 1
        while True:
            due = self.step % self.look_every == 0 or self.step >= self.deadline or self._full()
            if due and not self._look():
                return
            self._advance()

    def close(self) -> None:
        """Before the shape of a step changes, and at the end: its graph and the memory of that go."""
        if self.repeated is not None:
            repeated, self.repeated = self.repeated, None
            repeated.close()

    def cache_bytes(self) -> int:
        """Bytes of keys and values in all columns."""
        text = self.model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2 * text.num_hidden_layers * heads * width * self.rows.bias.numel() * self.rows.bias.element_size()

    def _padded(
        self, conditions: Sequence[int], entering: Sequence[Sequence[int]], begun: int, columns: int | None = None
    ) -> tuple[Tensor, Rows]:
        """Tokens and rows of some of the prompts of some conditions. A condition that has fewer than another gets rows
        of one token that belong to no response."""
        most, each, nowhere = max(map(len, entering)), len(self.prompts[0]), len(self.sampler.output.length) - 1
        prompts, keys, output = [], [], []
        for c, mine in zip(conditions, entering, strict=True):
            fill = most - len(mine)
            prompts += [self.prompts[c][i] for i in mine] + [[self.pad]] * fill
            keys += [self.row_keys[c][i] for i in mine] + [0] * fill
            output += [c * each + i for i in mine] + [nowhere] * fill
        tokens, rows = left_pad(prompts, keys, self.pad, columns, self.model.dtype, self.bank.device, begun)
        return tokens, rows._replace(output=torch.tensor(output, device=self.bank.device))

    def _blank_cache(self, columns: int, blank: bool = False) -> Cache:
        return roomy_cache(self.model.config.get_text_config().num_hidden_layers, columns, blank=blank)

    def _full(self) -> bool:
        """Whether there is no column for another token. As there is a block more than any row needs, what comes before
        the rows that are live can then be cut."""
        return self.cache.get_seq_length() >= self.room

    def _advance(self) -> None:
        """Draw another token for every row."""
        if not self.fixed:
            with self.bank.use(self.active):
                hidden = read(self.model, self.cache, self.tokens, self.rows)
            self.tokens, self.rows = self.sampler(hidden, self.rows, self.step)
        else:
            if self.repeated is None:
                shape = FixedShape(self.bank, self.active, self.cache, self.rows, self.longest)
                self.repeated = Repeated(shape, self.sampler, self.tokens, self.step)
            if not self.repeated():
                self.close()
        self.step += 1

    def _look(self) -> bool:
        """See which rows have ended, and let them leave and others enter if that is worth it; whether any are left."""
        while True:
            live = self.rows.live.view(len(self.conditions), -1).tolist()
            waiting = [len(self.prompts[c]) - self.entered[c] for c in self.conditions]
            counts = [sum(mine) for mine in live]
            if not any(counts) and not any(waiting):
                return False
            if self._full() or _worth_a_change(counts, waiting, len(live[0]), self.fixed):
                self._turn_over(_turnover(live, waiting, self.places))
            if self.step < self.deadline:
                return True

    def _turn_over(self, change: _Turnover) -> None:
        """Rows leave and others enter. All end at the last column in use, and what lies before every live row is cut
        where others enter or there is no column left."""
        self.close()
        places = len(self.rows.live) // len(self.conditions)
        kept = [c * places + i for c, mine in zip(change.staying, change.kept, strict=True) for i in mine]
        index, begin, filled = self._index(kept), 0, self.cache.get_seq_length()
        if any(change.entering) or self._full():
            starts = self.rows.start[self.rows.live]
            begin = int(starts.min()) if len(starts) else filled
        if len(change.staying) < len(self.conditions):
            self.conditions = [self.conditions[c] for c in change.staying]
            self.active = None if self.active is None else self.active[change.staying]
        self.tokens, self.rows = self.tokens[index], self.rows.keep(index)
        keep_rows(self.cache, index, begin)
        if any(change.entering):
            tokens, rows, cache = self._read_entering(change.entering)
            width = cache.get_seq_length()
            end = max(filled - begin, width)
            order = self._index(change.order())
            place = order.argsort()
            add_rows(self.cache, cache, place[: len(kept)], place[len(kept) :], end)
            self.tokens = torch.cat([self.tokens, tokens])[order]
            mine, others = self.rows.moved(end - filled, self.room), rows.moved(end - width, self.room)
            self.rows = mine.and_others(others).keep(order)
        elif begin:
            self.rows = self.rows.moved(-begin, self.room)

    def _read_entering(self, counts: Sequence[int]) -> tuple[Tensor, Rows, Cache]:
        """Let so many rows of each condition that is here enter: their first tokens `[R, 1]`, the rows, and the cache
        of their prompts."""
        conditions = [c for c, count in zip(self.conditions, counts, strict=True) if count]
        entering = []
        for c, count in zip(self.conditions, counts, strict=True):
            if count:
                entering.append(range(self.entered[c], self.entered[c] + count))
                self.entered[c] += count
        begun = self.step - 1
        tokens, rows = self._padded(conditions, entering, begun)
        cache = self._blank_cache(tokens.shape[1])
        lengths = (tokens.shape[1] - rows.start).view(len(conditions), -1).tolist()
        with self.bank.use(None if self.adapters is None else self.adapters[conditions]):
            hidden = read_by_length(self.model, cache, tokens, rows, lengths)
        tokens, rows = self.sampler(hidden, rows, begun)
        self.deadline = begun + self.sampler.output.limit
        most = max(map(len, entering))
        real = self._index([i * most + j for i, mine in enumerate(entering) for j in range(len(mine))])
        keep_rows(cache, real)
        return tokens[real], rows.keep(real), cache

    def _index(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.bank.device)


class _Turnover(NamedTuple):
    """Which conditions of a batch stay, by their place in it, and of each the rows that stay, by their place among its
    rows, and how many of those that wait enter. The bank needs equally many of each: the live ones stay, and finished
    ones as filler, which are computed and not written anywhere."""

    staying: list[int]
    kept: list[list[int]]
    entering: list[int]

    def order(self) -> list[int]:
        """The new batch's rows, each condition's together, where all that stay are numbered before all that enter."""
        order, before, after = [], 0, sum(map(len, self.kept))
        for kept, count in zip(self.kept, self.entering, strict=True):
            order += [*range(before, before + len(kept)), *range(after, after + count)]
            before, after = before + len(kept), after + count
        return order


def _turnover(live: Sequence[Sequence[bool]], waiting: Sequence[int], places: int) -> _Turnover:
    """Given which rows `[C][B]` are live, how many of each condition wait, and how many of each there may be."""
    counts = [sum(mine) for mine in live]
    entering = [min(places - count, more) for count, more in zip(counts, waiting, strict=True)]
    staying = [c for c in range(len(live)) if counts[c] + entering[c]]
    size = max(counts[c] + entering[c] for c in staying)
    kept = [sorted(range(len(live[c])), key=lambda i, mine=live[c]: not mine[i])[: size - entering[c]] for c in staying]
    return _Turnover(staying, kept, [entering[c] for c in staying])


def _worth_a_change(counts: Sequence[int], waiting: Sequence[int], places: int, fixed: bool) -> bool:
    """Given the live rows of each condition, how many wait, and how many places each has."""
    if any(waiting):
        return sum(counts) <= ENTER_BELOW * places * len(counts)
    if fixed:
        left = max(counts) * sum(count > 0 for count in counts)
        return left <= COMPACT_BELOW_FIXED * places * len(counts)
    return max(counts) <= COMPACT_BELOW * places or min(counts) == 0
