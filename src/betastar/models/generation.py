"""Batched sampling for many conditions at once: KV cache, own random stream per row, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from betastar.maths.distributions import entropy
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.logprobs import backbone, head_logits, lm_head
from betastar.randomness import exponential_noise
from betastar.record.responses import Response

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

COMPACT_BELOW = 0.8  # rows are dropped when the fullest condition has at most this share of its places still live
PREFILL_TOKENS = 4096  # prompts are read in pieces of at most so many tokens, padding included
# Tokens between two looks at which rows have ended. A look makes a GPU wait for all that was asked of it; on a CPU it
# costs nothing, and rows that leave early save work.
LOOK_EVERY, LOOK_EVERY_ON_GPU = 1, 8


class _Rows(NamedTuple):
    """The rows of the batch, grouped by condition: each one's row of the output, random stream, first column that is
    not padding, what attention adds to the scores of each column, and whether it has not ended yet."""

    output: Tensor  # [R]
    key: Tensor  # [R]
    start: Tensor  # [R]
    bias: Tensor  # [R, columns]
    live: Tensor  # [R]

    def keep(self, index: Tensor) -> _Rows:
        return _Rows(*(field[index] for field in self))


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
    active = None if adapters is None else adapters.to(model.dtype)  # cast once, not at every token
    tokens, rows = _left_pad(bank, prompts, row_keys, pad, max_new_tokens)
    counters = [torch.zeros(len(tokens), dtype=kind, device=bank.device) for kind in (torch.long, *[torch.float] * 2)]
    output = _Output(tokens.new_zeros(len(tokens), max_new_tokens), *counters)
    ends = torch.tensor(list(end_tokens), dtype=torch.long, device=bank.device)
    look_every = LOOK_EVERY_ON_GPU if bank.device.type == "cuda" else LOOK_EVERY
    from betastar.models.cache import RoomyLayer, roomy_cache  # loads transformers, which a reused run can do without

    cache = roomy_cache(model.config.get_text_config().num_hidden_layers, rows.bias.shape[1])

    for step in range(max_new_tokens):
        with bank.use(active):
            hidden = _read(model, cache, tokens, rows)
        logprobs = head_logits(lm_head(model), hidden).log_softmax(dim=-1)
        chosen = _choose(logprobs, rows.key, step, temperature)
        _record(output, rows, step, chosen, logprobs)
        rows = rows._replace(live=rows.live & ~torch.isin(chosen, ends))
        tokens = chosen[:, None]
        if (step + 1) % look_every:
            continue

        live = rows.live.view(conditions, -1)
        counts = live.sum(dim=1).tolist()
        if max(counts) == 0:
            break
        if max(counts) <= COMPACT_BELOW * live.shape[1] or min(counts) == 0:
            keep, staying = _compact(live, max(counts))
            if active is not None and len(staying) < conditions:
                active = active[staying.tolist()]
            conditions, rows, tokens = len(staying), rows.keep(keep), tokens[keep]
            for layer in cache.layers:
                assert isinstance(layer, RoomyLayer)
                layer.keep_rows(keep)

    responses = _responses(output, [prompt for group in prompts for prompt in group], end_tokens)
    return [responses[i : i + len(prompts[0])] for i in range(0, len(responses), len(prompts[0]))]


def _left_pad(
    bank: AdapterBank,
    prompts: Sequence[Sequence[Sequence[int]]],
    row_keys: Sequence[Sequence[int]],
    pad: int,
    max_new_tokens: int,
) -> tuple[Tensor, _Rows]:
    """Prompt tokens `[R, W]` that end together, so that one cache column serves all rows at every step."""
    flat = [prompt for group in prompts for prompt in group]
    keys = [key - (1 << 64) if key >> 63 else key for group in row_keys for key in group]
    width = max(map(len, flat))
    tokens = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in flat])
    start = torch.tensor([width - len(prompt) for prompt in flat])
    padding = torch.arange(width + max_new_tokens) < start[:, None]
    # Half the lowest number: its exponential is zero, and a padding token's softmax, over padding alone, stays finite.
    dtype = bank.model.dtype
    bias = torch.zeros(padding.shape, dtype=dtype).masked_fill(padding, torch.finfo(dtype).min / 2)
    rows = _Rows(torch.arange(len(flat)), torch.tensor(keys), start, bias, torch.ones(len(flat), dtype=torch.bool))
    return tokens.to(bank.device), _Rows(*(field.to(bank.device) for field in rows))


def _read(model: nn.Module, cache: Cache, tokens: Tensor, rows: _Rows) -> Tensor:
    """Run the model over the columns `tokens [R, W]` that follow those in the cache; the last one's state `[R, d]`."""
    hidden = tokens
    for piece in tokens.split(max(1, PREFILL_TOKENS // len(tokens)), dim=1):
        begin = cache.get_seq_length()
        end = begin + piece.shape[1]
        mask = rows.bias[:, None, None, :end]
        if end - begin > 1:
            mask = mask + mask.new_full((end - begin, end), -torch.inf).triu(begin + 1)
        position = (torch.arange(begin, end, device=tokens.device) - rows.start[:, None]).clamp(min=0)
        hidden = backbone(model)(
            input_ids=piece, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        ).last_hidden_state
    return hidden[:, -1]


def _choose(logprobs: Tensor, keys: Tensor, step: int, temperature: float) -> Tensor:
    """The next token of each row `[R]`: an exponential race, or the most probable one at temperature 0."""
    if temperature == 0:
        return logprobs.argmax(dim=-1)
    noise = exponential_noise(keys, step, logprobs.shape[-1])
    return (logprobs / temperature - noise.log_()).argmax(dim=-1)


def _record(output: _Output, rows: _Rows, step: int, chosen: Tensor, logprobs: Tensor) -> None:
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
