"""Log-probabilities and entropies against plain loops over single, unpadded rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.logprobs import grid_logprobs, prompt_entropy, response_statistics, token_statistics
from betastar.models.sequences import Row, right_pad


def plain(bank: AdapterBank, adapters: Adapters | None, tokens: list[int]) -> Tensor:
    """Log-probabilities `[T, V]` of the next token from full logits of one row."""
    with torch.no_grad(), bank.use(adapters):
        return bank.model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)


def plain_logprob(bank: AdapterBank, adapters: Adapters | None, row: Row) -> float:
    logprobs = plain(bank, adapters, [*row.prompt, *row.response])
    first = len(row.prompt) - 1
    return sum(logprobs[first + i, token].item() for i, token in enumerate(row.response))


def plain_entropy(logprobs: Tensor) -> list[float]:
    return torch.distributions.Categorical(logits=logprobs).entropy().tolist()


@pytest.mark.parametrize("size", [1, 3, 10, 17])
def test_a_chunked_head_is_the_plain_head(size: int) -> None:
    """17 positions in chunks of `size`, values and gradients of hidden states and head."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(17, 8, generator=generator)
    targets = torch.randint(30, (17,), generator=generator)
    head = nn.Linear(8, 30, bias=False)
    weights = torch.randn(17, generator=generator)
    results = []
    for most in (size * 30, 10**6):
        hidden = values.clone().requires_grad_(True)
        head.zero_grad()
        stats = token_statistics(hidden, targets, head, most)
        (stats.logprob * weights).sum().backward()
        assert hidden.grad is not None
        assert head.weight.grad is not None
        results.append((stats.logprob.detach(), stats.entropy, hidden.grad, head.weight.grad.clone()))
        assert not stats.entropy.requires_grad
    for chunked, whole in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)
    logits = (values @ head.weight.T).log_softmax(-1).detach()
    torch.testing.assert_close(results[0][0], logits[torch.arange(17), targets])
    torch.testing.assert_close(results[0][1], torch.tensor(plain_entropy(logits)))


def test_response_statistics_are_a_plain_loop(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    rows = [*make_rows(11), Row([3, 4], [])]  # an empty response has log-probability 0
    with torch.no_grad(), bank.use(adapters):
        stats = response_statistics(bank.model, right_pad(rows, 0, "cpu"))
    for i, row in enumerate(rows[:11]):
        condition = adapters[i // 4 : i // 4 + 1]
        assert stats.logprob[i].item() == pytest.approx(plain_logprob(bank, condition, row), rel=1e-4)
        logprobs = plain(bank, condition, [*row.prompt, *row.response])[len(row.prompt) - 1 : -1]
        assert stats.entropy[i].item() == pytest.approx(sum(plain_entropy(logprobs)) / len(row.response), rel=1e-4)
    assert stats.logprob[11] == stats.entropy[11] == 0


def test_grid_logprobs_do_not_depend_on_pieces(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    grid = [make_rows(7, seed) for seed in range(3)]
    whole = grid_logprobs(bank, adapters, grid, 0, 10**6)
    for most_tokens in (1, 40, 130):
        torch.testing.assert_close(grid_logprobs(bank, adapters, grid, 0, most_tokens), whole, rtol=1e-5, atol=1e-4)
    for c in range(3):
        for i, row in enumerate(grid[c]):
            assert whole[c, i].item() == pytest.approx(plain_logprob(bank, adapters[c : c + 1], row), rel=1e-4)
    bare = grid_logprobs(bank, None, grid[:1], 0, 50)
    assert bare[0, 0].item() == pytest.approx(plain_logprob(bank, None, grid[0][0]), rel=1e-4)


@pytest.mark.parametrize("most_tokens", [1, 45, 10**6])
def test_prompt_entropy_is_a_plain_loop(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]], most_tokens: int
) -> None:
    """Mean over prompts of the mean over positions, so that a long prompt counts as much as a short one."""
    prompts = [list(row.prompt) for row in make_rows(6)]
    assert len({len(prompt) for prompt in prompts}) > 3

    def loop(condition: Adapters | None) -> float:
        means = [plain_entropy(plain(bank, condition, prompt)) for prompt in prompts]
        return sum(sum(m) / len(m) for m in means) / len(means)

    result = prompt_entropy(bank, adapters, prompts, 0, most_tokens)
    assert result.tolist() == pytest.approx([loop(adapters[c : c + 1]) for c in range(3)], rel=1e-4)
    assert prompt_entropy(bank, None, prompts, 0, most_tokens).tolist() == pytest.approx([loop(None)], rel=1e-4)
