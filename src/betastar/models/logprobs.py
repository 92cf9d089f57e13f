"""Log-probabilities and entropies of responses, without logits that nobody reads.

Only response positions reach the language-model head, in chunks; log-probability and entropy come from one pass.
Vocabularies padded beyond their tokenizer: tokens without a text are never sampled and take no probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.last_layer import reading
from betastar.models.sequences import Pair, PairBatch, RightPadded, Row, Told, pair_pad, pieces, right_pad


def hide_padding(model: Any, tokens: int) -> None:
    """Give logits of token ids from `tokens` on the lowest value, wherever the head is used: sampling, log-probability
    and entropy then agree on a distribution over what can be decoded."""
    head = model.get_output_embeddings()
    if head.weight.shape[0] <= tokens:
        return
    head.readable_tokens = tokens
    head.register_forward_hook(lambda module, _args, logits: hide_unreadable(module, logits))


def hide_unreadable(head: nn.Module, logits: Tensor) -> Tensor:
    """The logits `[…, V]` of a head, in place, with those of padded places hidden if `hide_padding` has been called."""
    tokens = getattr(head, "readable_tokens", None)
    if tokens is not None:
        # Half the lowest number stays finite on its way to a probability of 0, and 0 times it is 0.
        logits[..., tokens:] = torch.finfo(logits.dtype).min / 2
    return logits


# Most logits held at once by one chunk of the head. A CPU is fastest with small chunks, which the allocator reuses; a
# GPU needs hundreds of rows to be busy, and its vocabularies are large.
HEAD_ELEMENTS, HEAD_ELEMENTS_ON_GPU = 1 << 24, 1 << 27


def head_elements(device: torch.device) -> int:
    """Most logits that one chunk of the head holds on a device."""
    return HEAD_ELEMENTS_ON_GPU if device.type == "cuda" else HEAD_ELEMENTS


def head_logits(head: nn.Module, hidden: Tensor) -> Tensor:
    """Logits `[N, V]` of hidden states `[N, d]`, float32.

    In bfloat16, logits rounded to 8 bits would cost 0.3 to 0.5 nats over 200 tokens, so where the device can, the
    product leaves the matrix unit in the float32 that it is summed in.
    """
    weight: Any = head.weight
    if hidden.dtype == torch.float32 or type(head) is not nn.Linear or not wide_products(hidden.device, hidden.dtype):
        return head(hidden).float()
    logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    if head.bias is not None:
        logits += head.bias
    return hide_unreadable(head, logits)


@cache
def wide_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device multiplies matrices of a half-precision `dtype` into float32."""
    one = torch.ones(8, 8, device=device, dtype=dtype)
    try:
        return torch.mm(one, one, out_dtype=torch.float32).dtype == torch.float32
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError; older versions know no such argument
        return False


class TokenStatistics(NamedTuple):
    """`logprob [N]` of the target tokens and `entropy [N]` of the next-token distributions, nats, float32."""

    logprob: Tensor
    entropy: Tensor


@torch.no_grad()
def token_statistics(
    hidden: Tensor, targets: Tensor, head: nn.Module, most_elements: int | None = None
) -> TokenStatistics:
    """Log-probability of `targets [N]` and entropy, from hidden states `[N, d]` through `head`, in chunks."""
    parts = []
    for h, t in zip(*_chunks(hidden, targets, head, most_elements), strict=True):
        logprobs = head_logits(head, h).log_softmax(dim=-1)
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
        parts.append((logprobs.gather(-1, t[:, None]).squeeze(-1), entropy))
    return TokenStatistics(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _chunks(hidden: Tensor, targets: Tensor, head: Any, most_elements: int | None) -> tuple[Any, Any]:
    size = max(1, (most_elements or head_elements(hidden.device)) // head.weight.shape[0])
    return hidden.split(size), targets.split(size)


class _TokenLogprob(torch.autograd.Function):
    """log softmax(W h / T)[target] for a frozen head W and a temperature T.

    Its gradient by h is Σ_v (1[v = target] − p_v) W[v] / T, which is computed with the logits at hand and scaled in the
    backward pass: logits are neither kept for it nor computed a second time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Module, temperature: float, most_elements: int | None
    ) -> Tensor:
        weight: Any = head.weight
        logprobs, slopes = [], []
        for h, t in zip(*_chunks(hidden, targets, head, most_elements), strict=True):
            logits, at = head_logits(head, h), t[:, None]
            if temperature != 1:
                logits /= temperature
            highest = logits.amax(dim=-1, keepdim=True)
            chosen = logits.gather(-1, at) - highest
            likelihood = logits.sub_(highest).exp_()  # in place: the one large tensor here
            # 1 − p of the target is the others' share. Taken as a difference of sums it would cancel as p goes to 1:
            # in bfloat16 by 29 % at p = 0.99, and to nothing at 0.999.
            others = likelihood.scatter_(-1, at, 0.0).sum(dim=-1, keepdim=True)
            total = others + chosen.exp()
            logprobs.append((chosen - total.log()).squeeze(-1))
            direction = likelihood.div_(-total * temperature).scatter_(-1, at, others / (total * temperature))
            slopes.append(direction.to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * grads[0][:, None]).to(slopes.dtype), None, None, None, None


def token_logprobs(
    hidden: Tensor, targets: Tensor, head: nn.Module, temperature: float = 1.0, most_elements: int | None = None
) -> Tensor:
    """Log-probability `[N]` of `targets [N]`, nats, float32, with gradient to `hidden [N, d]`; the head is frozen.

    At a `temperature` T other than 1 it is that of the policy whose logits are divided by T, from which responses are
    sampled then.
    """
    return _TokenLogprob.apply(hidden, targets, head, temperature, most_elements)  # type: ignore[return-value]


def _summed(values: Tensor, row: Tensor, column: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sums `[R]` of values `[N]` by row, each at a place of its own in a table of `shape [R, T]`. Adding into R numbers
    directly would happen in another order at every call on a GPU."""
    return values.new_zeros(shape).index_put((row, column), values).sum(dim=1)


def response_logprobs(model: nn.Module, batch: RightPadded, temperature: float = 1.0) -> Tensor:
    """Log-probability `[R]` of each row's response under the model as it stands (see `AdapterBank.use`), with
    gradient; `temperature` as in `token_logprobs`."""
    row, column, states = _predicting_states(model, batch)
    logprob = token_logprobs(states, batch.tokens[row, column + 1], lm_head(model), temperature)
    return _summed(logprob, row, column, (len(batch.tokens), batch.tokens.shape[1]))


def response_token_logprobs(model: nn.Module, batch: RightPadded, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token of each row's response, `[R, T]`, zero beyond its end; else as
    `response_logprobs`, which sums them."""
    row, column, states = _predicting_states(model, batch)
    logprob = token_logprobs(states, batch.tokens[row, column + 1], lm_head(model), temperature)
    place = batch.response[:, 1:].cumsum(dim=1)[row, column] - 1
    shape = (len(batch.tokens), int(batch.response.sum(dim=1).max()))
    return logprob.new_zeros(shape).index_put((row, place), logprob)


def _predicting_states(model: nn.Module, batch: RightPadded) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column `[N]` and final state `[N, d]` of each token that predicts one of a response."""
    row, column = batch.response[:, 1:].nonzero(as_tuple=True)  # the state at t predicts the token at t + 1
    return row, column, states_at(model, batch.tokens, row, column)


def states_at(model: nn.Module, tokens: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Final states `[N, d]` of `tokens [R, T]` at rows and columns `[N]`, which are in order and each once."""
    with reading(model, row * tokens.shape[1] + column):
        return backbone(model)(input_ids=tokens, use_cache=False).last_hidden_state[row, column]


def pair_states(model: nn.Module, batch: PairBatch, places: Tensor) -> Tensor:
    """Final states `[N, d]` of a batch of pairs at `places [N]` of the flattened batch, in any order."""
    with reading(model, places.unique()):
        output = backbone(model)(
            input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.position, use_cache=False
        )
    return output.last_hidden_state.flatten(0, 1)[places]


def pair_logprobs(model: nn.Module, batch: PairBatch) -> Tensor:
    """Log-probabilities `[R, 2]` of the chosen and the rejected response of each pair under the model as it stands,
    with gradient."""
    logprob = token_logprobs(pair_states(model, batch, batch.source), batch.target, lm_head(model))
    width = batch.tokens.shape[1]
    return _summed(logprob, batch.owner, batch.source % width, (len(batch.last), width)).view(-1, 2)


@torch.no_grad()
def grid_logprobs(
    bank: AdapterBank,
    adapters: Adapters | None,
    grid: Sequence[Sequence[Row]],
    pad: int,
    most_tokens: int,
    temperature: float = 1.0,
) -> Tensor:
    """Response log-probabilities `[C, B]` of a grid of rows, no gradients; `adapters=None` is the bare base;
    `temperature` as in `token_logprobs`."""
    device = bank.device
    result = torch.empty(len(grid), len(grid[0]), device=device)
    for part, index, rows in pieces(grid, most_tokens):
        with bank.use(adapters and adapters[part]):
            logprob = response_logprobs(bank.model, right_pad(rows, pad, device), temperature)
        result[part].scatter_(1, index.to(device), logprob.view(index.shape))
    return result


@torch.no_grad()
def grid_token_logprobs(
    bank: AdapterBank,
    adapters: Adapters | None,
    grid: Sequence[Sequence[Row]],
    pad: int,
    most_tokens: int,
    temperature: float = 1.0,
) -> Tensor:
    """Log-probabilities of single response tokens `[C, B, T]`, zero beyond the response; else as `grid_logprobs`."""
    device = bank.device
    result = torch.zeros(len(grid), len(grid[0]), max(len(r.response) for row in grid for r in row), device=device)
    for part, index, rows in pieces(grid, most_tokens):
        with bank.use(adapters and adapters[part]):
            logprob = response_token_logprobs(bank.model, right_pad(rows, pad, device), temperature)
        for c, places, mine in zip(
            range(part.start, part.stop), index.to(device), logprob.view(*index.shape, -1), strict=True
        ):
            result[c, places, : mine.shape[-1]] = mine
    return result


@torch.no_grad()
def grid_pair_logprobs(
    bank: AdapterBank,
    adapters: Adapters | None,
    grid: Sequence[Sequence[Pair]],
    pad: int,
    most_tokens: int,
    told: Told | None = None,
) -> Tensor:
    """Log-probabilities `[2, C, B]` of chosen and rejected responses of a grid of pairs, no gradients; `told` hears how
    many pairs are done."""
    device = bank.device
    result = torch.empty(2, len(grid), len(grid[0]), device=device)
    for part, index, pairs in pieces(grid, most_tokens, told):
        with bank.use(adapters and adapters[part]):
            both = pair_logprobs(bank.model, pair_pad(pairs, pad, device))
        for side in (0, 1):
            result[side, part].scatter_(1, index.to(device), both[:, side].view(index.shape))
    return result


@torch.no_grad()
def prompt_entropy(
    bank: AdapterBank, adapters: Adapters | None, prompts: Sequence[Sequence[int]], pad: int, most_tokens: int
) -> Tensor:
    """Policy entropy per condition `[C]`: mean over prompts of the mean over prompt positions of the next-token
    entropy, nats (arXiv:2606.30627 Eq. 11). Position t's distribution is that of the token after x_1..x_t."""
    conditions = 1 if adapters is None else len(adapters)
    device = bank.device
    result = torch.zeros(conditions, device=device)
    for part, index, rows in pieces([[Row((), prompt) for prompt in prompts]] * conditions, most_tokens):
        batch = right_pad(rows, pad, device)
        row, column = batch.response.nonzero(as_tuple=True)
        with bank.use(adapters and adapters[part]):
            states = states_at(bank.model, batch.tokens, row, column)
        stats = token_statistics(states, batch.tokens[row, column], lm_head(bank.model))
        shape = (len(batch.tokens), batch.tokens.shape[1])
        mean = _summed(stats.entropy, row, column, shape) / batch.response.sum(dim=1)
        result[part] += mean.view(index.shape).sum(dim=1)
    return result / len(prompts)


def backbone(model: nn.Module) -> nn.Module:
    """The part of a causal language model below its head."""
    return model.base_model  # type: ignore[return-value]


def lm_head(model: nn.Module) -> nn.Module:
    """The language-model head, hidden state → logits."""
    return model.get_output_embeddings()  # type: ignore[operator]
