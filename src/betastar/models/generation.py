"""Batched sampling for many conditions at once: KV cache, own random stream per row, finished rows leave the batch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from betastar.maths.distributions import entropy
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.decoding import BLOCK, Columns, Replayed, columns_ahead, lean_layers, seeing, unpacked_weights
from betastar.models.last_layer import reading
from betastar.models.logprobs import backbone, head_logits, lm_head
from betastar.models.probes import probe_tokens
from betastar.models.support import TOLERANCE, context_length
from betastar.randomness import exponential_noise
from betastar.record.responses import Response

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from betastar.models.cache import RoomyLayer

log = logging.getLogger(__name__)

# Rows are dropped when the fullest condition has at most this share of its places still live. Steps of fixed shape are
# recorded anew after that, which costs as much as some ten of them, and fewer rows are not much faster.
COMPACT_BELOW, COMPACT_BELOW_FIXED = 0.8, 0.5
# Prompts are read in pieces of at most so many tokens, padding included. Each piece reads all keys and values before
# it, which a GPU with its faster products feels.
PREFILL_TOKENS, PREFILL_TOKENS_ON_GPU = 4096, 16384
# What one more pass over some of the prompts costs, in tokens: rows of about one length are read together if that saves
# more padding.
PASS_TOKENS, PASS_TOKENS_ON_GPU = 128, 1024
# Tokens between two looks at which rows have ended. A look makes a GPU wait for all that was asked of it; on a CPU it
# costs nothing, and rows that leave early save work.
LOOK_EVERY, LOOK_EVERY_ON_GPU = 1, 8
FIXED_SHAPES: bool | None = None  # whether steps have fixed shapes; None: on a GPU, where they are replayed as a graph


class _Rows(NamedTuple):
    """The rows of the batch, grouped by condition: each one's row of the output, random stream, first column that is
    not padding, what attention adds to the scores of each column, and whether it has not ended yet.

    Conditions share streams, and noise is drawn once for each: row r's is stream number `stream[r]`, with the key
    `keys[stream[r]]`.
    """

    output: Tensor  # [R]
    stream: Tensor  # [R]
    keys: Tensor  # [streams]
    start: Tensor  # [R]
    bias: Tensor  # [R, columns]
    live: Tensor  # [R]

    def keep(self, index: Tensor) -> _Rows:
        """Some of the rows, perhaps some of them twice."""
        streams, stream = self.stream[index].unique(return_inverse=True)
        start, bias, live = self.start[index], self.bias[index], self.live[index]
        return _Rows(self.output[index], stream, self.keys[streams], start, bias, live)


class _Output(NamedTuple):
    """Sampled tokens `[N, max_new_tokens]`, and per row their number and the sums over them, `[N]`."""

    token: Tensor
    length: Tensor
    logprob: Tensor
    entropy: Tensor


@torch.no_grad()
def generate(
    bank: AdapterBank,
    adapters: Adapters | None,
    prompts: Sequence[Sequence[Sequence[int]]],
    row_keys: Sequence[Sequence[int]],
    *,
    end_tokens: Collection[int],
    pad: int,
    max_new_tokens: int,
    temperature: float = 1.0,
) -> list[list[Response]]:
    """Sample one response for each prompt of a grid `[C][B]`; `adapters=None` is the bare base with C = 1.

    `row_keys [C][B]` name each row's random stream: a row's noise depends on its key alone, so its text depends on key,
    prompt and its condition's weights, not on what else is in the batch; in exact arithmetic, that is: where kernels
    change with the number of rows (on a GPU, and anywhere in bfloat16) rounding can decide a close race. Conditions
    that share a key share the noise. `temperature` 0 is greedy.
    """
    model, conditions = bank.model, len(prompts)
    on_gpu = bank.device.type == "cuda"
    active = None if adapters is None else adapters.to(model.dtype)  # cast once, not at every token
    fixed = _shapes_may_be_fixed(bank, max(len(prompt) for group in prompts for prompt in group) + max_new_tokens)
    tokens, rows = _left_pad(bank, prompts, row_keys, pad, max_new_tokens, BLOCK if fixed else 1)
    counters = [torch.zeros(len(tokens), dtype=kind, device=bank.device) for kind in (torch.long, *[torch.float] * 2)]
    output = _Output(tokens.new_zeros(len(tokens), max_new_tokens), *counters)
    ends = torch.tensor(list(end_tokens), dtype=torch.long, device=bank.device)
    look_every = LOOK_EVERY_ON_GPU if on_gpu else LOOK_EVERY
    from betastar.models.cache import keep_rows, roomy_cache  # loads transformers, which a reused run can do without

    cache = roomy_cache(model.config.get_text_config().num_hidden_layers, rows.bias.shape[1], blank=fixed)
    repeated: _Repeated | None = None
    with ExitStack() as stack:
        if on_gpu and not bank.plain_decoding:
            stack.enter_context(unpacked_weights(model, _cache_bytes(model, rows)))
        for step in range(max_new_tokens):
            if not fixed or step == 0:
                with bank.use(active):
                    if step == 0:
                        hidden = _read_prompts(model, cache, tokens, rows, prompts)
                    else:
                        hidden = _read(model, cache, tokens, rows)
                tokens, rows = _sample(model, output, hidden, rows, step, ends, temperature)
            else:
                if step == 1:
                    stack.enter_context(lean_layers(bank))
                if repeated is None:
                    shape = _FixedShape(bank, active, cache, rows)
                    repeated = _Repeated(shape, output, tokens, step, ends, temperature)
                if not repeated():
                    repeated = _closed(repeated)  # its graph and the memory of that go before the next one comes
            if (step + 1) % look_every:
                continue

            live = rows.live.view(conditions, -1)
            counts = live.sum(dim=1).tolist()
            if max(counts) == 0:
                break
            if _worth_compacting(counts, live.shape[1], fixed):
                keep, staying = _compact(live, max(counts))
                if active is not None and len(staying) < conditions:
                    active = active[staying.tolist()]
                conditions, rows, tokens, repeated = len(staying), rows.keep(keep), tokens[keep], _closed(repeated)
                keep_rows(cache, keep)
        _closed(repeated)

    responses = _responses(output, [prompt for group in prompts for prompt in group], end_tokens)
    return [responses[i : i + len(prompts[0])] for i in range(0, len(responses), len(prompts[0]))]


def _left_pad(
    bank: AdapterBank,
    prompts: Sequence[Sequence[Sequence[int]]],
    row_keys: Sequence[Sequence[int]],
    pad: int,
    max_new_tokens: int,
    block: int = 1,
) -> tuple[Tensor, _Rows]:
    """Prompt tokens `[R, W]` that end together, so that one cache column serves all rows at every step. There are
    columns for all that follows, their number rounded up to a multiple of `block`."""
    flat = [prompt for group in prompts for prompt in group]
    keys = [key - (1 << 64) if key >> 63 else key for group in row_keys for key in group]
    width = max(map(len, flat))
    tokens = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in flat])
    start = torch.tensor([width - len(prompt) for prompt in flat])
    padding = torch.arange(-(-(width + max_new_tokens) // block) * block) < start[:, None]
    streams, stream = torch.tensor(keys).unique(return_inverse=True)
    # Half the lowest number: its exponential is zero, and a padding token's softmax, over padding alone, stays finite.
    dtype = bank.model.dtype
    bias = torch.zeros(padding.shape, dtype=dtype).masked_fill(padding, torch.finfo(dtype).min / 2)
    rows = _Rows(torch.arange(len(flat)), stream, streams, start, bias, torch.ones(len(flat), dtype=torch.bool))
    return tokens.to(bank.device), _Rows(*(field.to(bank.device) for field in rows))


def _read(model: nn.Module, cache: Cache, tokens: Tensor, rows: _Rows) -> Tensor:
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


def _read_prompts(
    model: nn.Module, cache: Cache, tokens: Tensor, rows: _Rows, prompts: Sequence[Sequence[Sequence[int]]]
) -> Tensor:
    """Run the model over `tokens [R, W]`, those of `prompts`; the last column's state `[R, d]`. A prompt to which a
    condition gives several answers is read once, if all conditions repeat as many."""
    from betastar.models.cache import keep_rows

    numbers = [{prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, group)))} for group in prompts]
    each = len(numbers[0])
    if each == len(prompts[0]) or any(len(mine) != each for mine in numbers):
        return _read_by_length(model, cache, tokens, rows, [[len(prompt) for prompt in group] for group in prompts])
    place = [
        c * each + mine[tuple(prompt)]
        for c, (mine, group) in enumerate(zip(numbers, prompts, strict=True))
        for prompt in group
    ]
    first = {at: row for row, at in reversed(list(enumerate(place)))}
    kept = torch.tensor([first[at] for at in range(len(first))], device=tokens.device)
    lengths = [[len(prompt) for prompt in mine] for mine in numbers]
    hidden = _read_by_length(model, cache, tokens[kept], rows.keep(kept), lengths)
    copies = torch.tensor(place, device=tokens.device)
    keep_rows(cache, copies)
    return hidden[copies]


def _read_by_length(
    model: nn.Module, cache: Cache, tokens: Tensor, rows: _Rows, lengths: Sequence[Sequence[int]]
) -> Tensor:
    """Run the model over `tokens [R, W]`, of which `lengths [C][R / C]` are not padding; the last column's state
    `[R, d]`. Rows of about one length are read together, so that little padding is."""
    from betastar.models.cache import roomy_cache, take_rows

    on_gpu, width, each = tokens.device.type == "cuda", tokens.shape[1], len(lengths[0])
    order = [sorted(range(each), key=lambda row, mine=mine: mine[row]) for mine in lengths]
    longest = [
        max(mine[ranks[i]] for mine, ranks in zip(lengths, order, strict=True)) for i in range(each)
    ]  # by rank in its condition
    groups = _length_groups(longest, PASS_TOKENS_ON_GPU if on_gpu else PASS_TOKENS, len(lengths))
    if len(groups) == 1:
        return _read(model, cache, tokens, rows)
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
        states = _read(model, own, tokens[index, skipped:], mine)
        take_rows(cache, own, index, len(tokens), width)
        hidden = states.new_empty(len(tokens), states.shape[1]) if hidden is None else hidden
        hidden[index] = states
    assert hidden is not None
    return hidden


def _length_groups(longest: Sequence[int], overhead: int, rows: int) -> list[range]:
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


def _sample(
    model: Any, output: _Output, hidden: Tensor, rows: _Rows, step: int | Tensor, ends: Tensor, temperature: float
) -> tuple[Tensor, _Rows]:
    """Draw each row's next token from its state `hidden [R, d]` and write it down: the tokens `[R, 1]`, and the rows as
    they are then."""
    logprobs = head_logits(lm_head(model), hidden).log_softmax(dim=-1)
    chosen = _choose(logprobs, rows.keys, rows.stream, step, temperature)
    _record(output, rows, step, chosen, logprobs)
    ended = (chosen[:, None] == ends).any(dim=1)
    return chosen[:, None], rows._replace(live=rows.live & ~ended)


class _FixedShape:
    """Reads one more token of every row, again and again, with the same shapes and in the same places: into the first
    `seen` columns of the cache, of which what is not written yet is hidden."""

    def __init__(self, bank: AdapterBank, active: Adapters | None, cache: Cache, rows: _Rows):
        self.bank, self.active, self.cache, self.rows = bank, active, cache, rows
        self.filled = cache.get_seq_length()
        self.seen = columns_ahead(self.filled, rows.bias.shape[1])
        self.column = torch.tensor([self.filled], device=bank.device)
        self.bias = rows.bias[:, : self.seen].clone()
        self.bias[:, self.filled :] = torch.finfo(self.bias.dtype).min / 2

    def read(self, tokens: Tensor) -> Tensor:
        """The states `[R, d]` after `tokens [R, 1]`. Only what is on the device counts its columns: see `forward`."""
        self.bias.index_fill_(1, self.column, 0.0)
        for layer in self._layers():
            layer.column, layer.seen = self.column, self.seen
        try:
            with self.bank.use(self.active), seeing(Columns(self.rows.start, self.column)):
                states = backbone(self.bank.model)(
                    input_ids=tokens,
                    attention_mask=self.bias[:, None, None],
                    position_ids=(self.column - self.rows.start)[:, None],
                    past_key_values=self.cache,
                    use_cache=True,
                )
        finally:
            for layer in self._layers():
                layer.column = None
        self.column += 1
        return states.last_hidden_state[:, -1]

    def forward(self) -> bool:
        """Count a column here, too; whether there is another."""
        self.filled += 1
        for layer in self._layers():
            layer.length = self.filled
        return self.filled < self.seen

    def _layers(self) -> list[RoomyLayer]:
        return self.cache.layers  # type: ignore[return-value]


class _Repeated:
    """A step of fixed shape for every row: `tokens [R, 1]`, those that were drawn last, and `rows.live` change in
    place. Where there are graphs it is a replay."""

    def __init__(
        self, shape: _FixedShape, output: _Output, tokens: Tensor, step: int, ends: Tensor, temperature: float
    ):
        self.shape, self.output, self.tokens, self.ends, self.temperature = shape, output, tokens, ends, temperature
        self.step = torch.tensor([step], device=tokens.device)
        self.replayed = Replayed(self._work, tokens.device)

    def close(self) -> None:
        if self.step.is_cuda:
            torch.cuda.synchronize()
        self.replayed.close()

    def __call__(self) -> bool:
        """Draw a token for every row; whether it may be called again."""
        self.replayed()
        return self.shape.forward()

    def _work(self) -> None:
        rows, model = self.shape.rows, self.shape.bank.model
        hidden = self.shape.read(self.tokens)
        tokens, after = _sample(model, self.output, hidden, rows, self.step, self.ends, self.temperature)
        self.tokens.copy_(tokens)
        rows.live.copy_(after.live)
        self.step += 1


def _closed(repeated: _Repeated | None) -> None:
    if repeated is not None:
        repeated.close()


def _cache_bytes(model: Any, rows: _Rows) -> int:
    """Bytes of keys and values in all columns."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * rows.bias.numel() * rows.bias.element_size()


def _worth_compacting(counts: Sequence[int], places: int, fixed: bool) -> bool:
    """Given the live rows of each condition, which all have so many places."""
    if fixed:
        left = max(counts) * sum(count > 0 for count in counts)
        return left <= COMPACT_BELOW_FIXED * places * len(counts)
    return max(counts) <= COMPACT_BELOW * places or min(counts) == 0


def _shapes_may_be_fixed(bank: AdapterBank, columns: int) -> bool:
    """Whether steps can be repeated as they are: wanted here, within the model's context (whose guard counts columns,
    which a replayed graph does not), and computing what the model does otherwise."""
    wanted = bank.device.type == "cuda" and not bank.plain_decoding if FIXED_SHAPES is None else FIXED_SHAPES
    if not wanted:
        return False
    context = context_length(bank.model.config)
    if context is not None and columns > context:
        return False
    if bank.model not in _REPEATABLE:
        _REPEATABLE[bank.model] = _is_repeatable(bank)
        if not _REPEATABLE[bank.model]:
            log.warning("%s is decoded without CUDA graphs, which is slower", bank.model.config.model_type)
    return _REPEATABLE[bank.model]


_REPEATABLE: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # whether a model's steps can have fixed shapes


def _is_repeatable(bank: AdapterBank) -> bool:
    """Whether reading with a fixed shape gives the states that reading with a growing one gives: an architecture might
    count its tokens in ways of its own. The median of several texts decides: a mistake shows in most, rounding that
    decides everything in few."""
    from betastar.models.cache import roomy_cache

    model = bank.model
    lengths = range(3, 10)
    texts = [text.tolist() for text in probe_tokens(model, sum(lengths)).split(list(lengths))]
    tokens, rows = _left_pad(bank, [texts], [lengths], 0, 1, BLOCK)

    def state(fixed: bool) -> Tensor:
        cache = roomy_cache(model.config.get_text_config().num_hidden_layers, rows.bias.shape[1], blank=True)
        with bank.use(None):
            _read(model, cache, tokens[:, :-1], rows)
            if not fixed:
                return _read(model, cache, tokens[:, -1:], rows).float()
        with lean_layers(bank):
            return _FixedShape(bank, None, cache, rows).read(tokens[:, -1:]).float()

    try:
        growing, repeated = state(fixed=False), state(fixed=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever an unknown architecture does with what it does not expect
        log.info("no steps of fixed shape for %s: %s", model.config.model_type, error)
        return False
    most = TOLERANCE[torch.bfloat16 if getattr(model, "is_quantized", False) else model.dtype]
    return bool(((repeated - growing).norm(dim=1) / growing.norm(dim=1)).median() <= most)


def _choose(logprobs: Tensor, keys: Tensor, stream: Tensor, step: int | Tensor, temperature: float) -> Tensor:
    """The next token of each row `[R]`: an exponential race with the noise of `keys[stream]`, or the most probable one
    at temperature 0."""
    if temperature == 0:
        return logprobs.argmax(dim=-1)
    noise = exponential_noise(keys, step, logprobs.shape[-1]).log_()
    scaled = logprobs if temperature == 1 else logprobs / temperature
    return (scaled - noise[stream]).argmax(dim=-1)


def _record(output: _Output, rows: _Rows, step: int | Tensor, chosen: Tensor, logprobs: Tensor) -> None:
    """Write what the live rows chose; masked, not selected, which would make a GPU wait for the row numbers."""
    logprob = logprobs.gather(-1, chosen[:, None]).squeeze(-1)
    output.token[rows.output, step] = chosen
    output.length[rows.output] += rows.live
    output.logprob[rows.output] += logprob.where(rows.live, 0.0)
    output.entropy[rows.output] += entropy(logprobs).where(rows.live, 0.0)


def _responses(output: _Output, prompts: Sequence[Sequence[int]], end_tokens: Collection[int]) -> list[Response]:
    result = []
    rows = zip(prompts, *(field.tolist() for field in output), strict=True)
    for prompt, row, length, logprob, entropies in rows:
        result.append(Response(prompt, row[:length], row[length - 1] not in end_tokens, logprob, entropies / length))
    return result


def _compact(live: Tensor, fullest: int) -> tuple[Tensor, Tensor]:
    """Batch rows to keep, condition-major, and the conditions that stay, given `live [C, B]`.

    Every staying condition keeps `fullest` rows, its live ones first and finished ones as filler (the bank needs
    groups of equal size; a filler row is computed and not written anywhere).
    """
    staying = live.any(dim=1).nonzero()[:, 0]
    order = live[staying].int().argsort(dim=1, descending=True, stable=True)[:, :fullest]
    return (order + staying[:, None] * live.shape[1]).flatten(), staying
