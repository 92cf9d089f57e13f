"""What is read inside a policy on a fixed batch of texts: its last hidden states, how active its units are, and the
gradients that single texts ask for. And how fast a copy of it learns a fresh task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.loading import hidden_size
from betastar.models.logprobs import backbone, response_logprobs
from betastar.models.sequences import Row, pieces, right_pad

Units = Literal["feed-forward", "last hidden state"]


class Features(NamedTuple):
    """Of C conditions on the same texts: last hidden `states [C, N, d]` at response tokens, and of each layer the mean
    |activation| of its units over all response tokens, `activity` a list of `[C, U]`. `units`: which units those are.
    """

    states: Tensor
    activity: list[Tensor]
    units: Units


def inner_units(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """The linear layers that lead from the inner units of feed-forward blocks back to the hidden width, in the model's
    order, with the number of those units, which are their inputs. None where a model has no such layers, as with
    experts."""
    found: list[tuple[nn.Module, int]] = []
    for name, module in backbone(model).named_modules():
        sizes = _in_and_out(module)
        # An expert sees some tokens only, and no longer row by row.
        elsewhere = any(word in name for word in ("attn", "attention", "expert"))
        if sizes is not None and not elsewhere and sizes[1] == hidden_size(model) != sizes[0]:
            found.append((module, sizes[0]))
    return found


def _in_and_out(module: Any) -> tuple[int, int] | None:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # GPT-2's, whose weight is [in, out]
        return tuple(module.weight.shape)
    return None


@torch.no_grad()
def features(
    bank: AdapterBank, adapters: Adapters, rows: Sequence[Row], pad: int, most_tokens: int, most_states: int
) -> Features:
    """Read `rows` with every condition. Where they have more than `most_states` response tokens, states are kept at
    that many of them, evenly spread."""
    device, conditions, width = bank.device, len(adapters), hidden_size(bank.model)
    lengths = torch.tensor([len(row.response) for row in rows])
    total = int(lengths.sum())
    kept = torch.linspace(0, total - 1, min(total, most_states), dtype=torch.float64).round().long()
    slot = torch.full((total,), -1).index_put((kept,), torch.arange(len(kept))).to(device)
    first = (lengths.cumsum(0) - lengths).to(device)
    layers = inner_units(bank.model)
    states = torch.empty(conditions, len(kept), width, device=device)
    active = [torch.zeros(conditions, units, device=device) for units in [n for _, n in layers] or [width]]

    for part, places, items in pieces([rows] * conditions, most_tokens):
        batch = right_pad(items, pad, device)
        row, column = batch.response.nonzero(as_tuple=True)
        condition = part.start + row // places.shape[1]

        with ExitStack() as hooks, bank.use(adapters[part]):
            for (module, _), sums in zip(layers, active, strict=False):
                hook = module.register_forward_pre_hook(_adding_to(sums, row, column, condition))
                hooks.callback(hook.remove)
            hidden = backbone(bank.model)(input_ids=batch.tokens, use_cache=False).last_hidden_state
        if not layers:
            _adding_to(active[0], row, column, condition)(None, (hidden,))
        text = places.to(device).flatten()[row]
        start = torch.tensor([len(item.prompt) for item in items], device=device)[row]
        at = slot[first[text] + column - start]
        states[condition[at >= 0], at[at >= 0]] = hidden[row, column][at >= 0].float()
    return Features(states, [sums / total for sums in active], "feed-forward" if layers else "last hidden state")


def _adding_to(sums: Tensor, row: Tensor, column: Tensor, condition: Tensor) -> Callable[..., None]:
    """A hook that adds |values| `[R, T, U]` at (row, column) [N] to the sums `[C, U]` of their condition [N]."""

    def add(_module: Any, args: tuple[Tensor, ...]) -> None:
        sums.index_add_(0, condition, args[0][row, column].abs().float())

    return add


def gradient_products(bank: AdapterBank, adapters: Adapters, rows: Sequence[Row], pad: int, most_tokens: int) -> Tensor:
    """Inner products `[E, E]`, float64, of the gradients by one adapter's weights (`adapters`, a stack of one) of each
    row's loss, −log π(response | prompt) per token.

    A bank gives per-example gradients in one backward pass: every example gets a copy of the adapter.
    """
    copies = adapters[[0] * len(rows)].trainable()
    for part, _, items in pieces([[row] for row in rows], most_tokens):
        with bank.use(copies[part]):
            logprob = response_logprobs(bank.model, right_pad(items, pad, bank.device))
        lengths = torch.tensor([len(item.response) for item in items], device=bank.device)
        (-logprob / lengths).sum().backward()
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=bank.device)
    for weight in copies.parameters():
        assert weight.grad is not None  # every adapted layer takes part
        gradient = weight.grad.flatten(1).double()
        products += gradient @ gradient.T
    return products


def fresh_task(rows: Sequence[Row]) -> list[Row]:
    """A task that no policy has seen, made of texts that every policy knows: each prompt with the response of the next
    row, the last one with that of the first. Nothing in a prompt tells its response, as with the random labels of Lyle
    et al. (2023); it can only be memorised. Of fewer than two rows no such task can be made: the list is empty."""
    if len(rows) < 2:
        return []
    return [Row(row.prompt, after.response) for row, after in zip(rows, [*rows[1:], rows[0]], strict=True)]


class Fitted(Protocol):
    """Calls `attempt(most_tokens)` with fewer tokens until it fits the memory, and returns its result."""

    def __call__(self, attempt: Callable[[int], Tensor]) -> Tensor: ...


def learning_curve(
    bank: AdapterBank,
    adapters: Adapters,
    rows: Sequence[Row],
    pad: int,
    steps: int,
    learning_rate: float,
    fitted: Fitted,
    after: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Mean −log π per response token of `rows`, nats, float32, after 0, 1, …, `steps` steps of full-batch AdamW on it,
    `[steps + 1, C]`. Copies are trained; `adapters` stay as they are. `after(done)` is called after every step.

    The rate is constant, and nothing decays or is clipped: a policy whose loss is not finite gets NaN from there on and
    disturbs no other.
    """
    copies = adapters.trainable()
    adam = torch.optim.AdamW(copies.parameters(), lr=learning_rate, weight_decay=0.0)
    curve = []
    for done in range(steps):
        curve.append(fitted(lambda most: _loss(bank, copies, rows, pad, most, backward=True)))
        adam.step()
        after(done + 1)
    curve.append(fitted(lambda most: _loss(bank, copies, rows, pad, most, backward=False)))
    return torch.stack(curve)


def _loss(
    bank: AdapterBank, adapters: Adapters, rows: Sequence[Row], pad: int, most_tokens: int, backward: bool
) -> Tensor:
    """Mean −log π per response token `[C]`; `backward`: its gradients replace those of the adapters."""
    tokens = sum(len(row.response) for row in rows)
    total = torch.zeros(len(adapters), device=bank.device)
    for weight in adapters.parameters():  # also what an attempt that did not fit has left
        weight.grad = None
    for part, places, items in pieces([rows] * len(adapters), most_tokens):
        with torch.set_grad_enabled(backward), bank.use(adapters[part]):
            logprob = response_logprobs(bank.model, right_pad(items, pad, bank.device))
        loss = -logprob.view(places.shape).sum(dim=1) / tokens
        if backward:
            loss.sum().backward()  # the sum keeps the gradients of conditions apart
        total[part] += loss.detach()
    return total
