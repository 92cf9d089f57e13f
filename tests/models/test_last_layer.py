"""The last layer at some places only: what is read stays, and the rest is not computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.last_layer import know_last_layer, places_read, reading
from betastar.models.logprobs import backbone, pair_logprobs, response_logprobs
from betastar.models.sequences import Pair, Row, pair_pad, right_pad

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def random_rows(count: int) -> list[Row]:
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 7, (count, 2), generator=draw).tolist()
    return [Row(*(torch.randint(1, 64, (n,), generator=draw).tolist() for n in both)) for both in lengths]


class Counted:
    """Tokens that the last layer's feed-forward block was given, call by call."""

    def __init__(self, model: Any):
        self.tokens: list[int] = []
        model.model.layers[-1].mlp.down_proj.register_forward_pre_hook(self._count)

    def _count(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.tokens.append(args[0].shape[:-1].numel())


def results(bank: AdapterBank, start: Adapters, everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Log-probabilities of responses and pairs, and their gradients."""
    adapters = start.trainable()
    rows = random_rows(6)
    pairs = [Pair(a.prompt, a.response, b.response) for a, b in zip(rows, reversed(rows), strict=True)]
    with monkeypatch.context() as patch:
        if everywhere:
            patch.setattr("betastar.models.last_layer._KNOWN", {})
        with bank.use(adapters):
            responses = response_logprobs(bank.model, right_pad(rows, 0, bank.device))
            both = pair_logprobs(bank.model, pair_pad(pairs, 0, bank.device))
        (responses.square().sum() + both.square().sum()).backward()
    return [responses.detach(), both.detach(), *(w.grad for w in adapters.parameters() if w.grad is not None)]


@pytest.mark.parametrize("targets", [ATTENTION, "all-linear"])
def test_log_probabilities_and_gradients_are_those_of_whole_batches(
    targets: Any,
    make_model: Callable[[], Any],
    random_adapters: Callable[..., Adapters],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = AdapterBank(make_model(), targets, rank=4, alpha=6)
    start = random_adapters(bank, 3)
    for ours, whole in zip(*(results(bank, start, every, monkeypatch) for every in (False, True)), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)


def test_what_nobody_reads_is_not_computed(make_model: Callable[[], Any]) -> None:
    """Of a row of 3 + 4 tokens only the four states that predict the response are read."""
    model = make_model()
    bank = AdapterBank(model, ATTENTION, rank=4, alpha=6)
    given: list[int] = []
    down = model.model.layers[-1].mlp.down_proj
    own = down.forward
    down.forward = lambda x: given.append(x.shape[:-1].numel()) or own(x)  # no hook, which would ask for whole batches
    batch = right_pad([Row([1, 2, 3], [4, 5, 6, 7]), Row([1, 2, 3], [4, 5])], 0, bank.device)
    with bank.use(None):
        response_logprobs(model, batch)
    assert given == [6]
    assert places_read(model) is None


def test_whoever_watches_within_sees_whole_batches(make_model: Callable[[], Any]) -> None:
    model = make_model()
    bank = AdapterBank(model, ATTENTION, rank=4, alpha=6)
    watched = Counted(model)
    with bank.use(None):
        response_logprobs(model, right_pad([Row([1, 2, 3], [4, 5, 6, 7])], 0, bank.device))
    assert watched.tokens == [7]


class Mixing(nn.Module):
    """A feed-forward block that is none: each token also gets the mean over the tokens before it."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x.cumsum(dim=1)


def test_a_layer_that_mixes_tokens_is_left_alone(make_model: Callable[[], Any]) -> None:
    model = make_model()
    model.model.layers[-1].mlp = Mixing(model.model.layers[-1].mlp)
    tokens = torch.arange(1, 11, device=next(model.parameters()).device).view(2, 5)
    with torch.no_grad():
        before = backbone(model)(input_ids=tokens).last_hidden_state
        know_last_layer(model)
        with reading(model, torch.tensor([4, 9], device=tokens.device)):
            after = backbone(model)(input_ids=tokens).last_hidden_state
    assert torch.equal(before, after)
    assert "forward" not in vars(model.model.layers[-1].mlp)


def test_places_end_with_their_block(make_model: Callable[[], Any]) -> None:
    model = make_model()
    know_last_layer(model)
    one, other = torch.tensor([1]), torch.tensor([2])
    with reading(model, one):
        with pytest.raises(ZeroDivisionError), reading(model, other):
            raise ZeroDivisionError
        assert places_read(model) is one
        with reading(model, None):
            assert places_read(model) is None
    assert places_read(model) is None
