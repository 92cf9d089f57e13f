"""Log-probabilities and entropies against plain loops over single, unpadded rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.logprobs import (
    grid_logprobs,
    grid_pair_logprobs,
    pair_logprobs,
    prompt_entropy,
    response_logprobs,
    response_statistics,
    token_logprobs,
    token_statistics,
)
from betastar.models.sequences import Pair, Row, pair_pad, right_pad


def plain(bank: AdapterBank, adapters: Adapters | None, tokens: list[int]) -> Tensor:
    """Log-probabilities `[T, V]` of the next token from full logits of one row."""
    with torch.no_grad(), bank.use(adapters):
        return bank.model(torch.tensor([tokens], device=bank.device)).logits[0].log_softmax(dim=-1)


def plain_logprob(bank: AdapterBank, adapters: Adapters | None, row: Row) -> float:
    logprobs = plain(bank, adapters, [*row.prompt, *row.response])
    first = len(row.prompt) - 1
    return sum(logprobs[first + i, token].item() for i, token in enumerate(row.response))


def plain_entropy(logprobs: Tensor) -> list[float]:
    return torch.distributions.Categorical(logits=logprobs).entropy().tolist()


@pytest.mark.parametrize("size", [1, 3, 10, 17])
@pytest.mark.parametrize("bias", [False, True])
def test_a_chunked_head_is_the_plain_head(device: torch.device, size: int, bias: bool) -> None:
    """17 positions in chunks of `size`: values, and the gradient of the hidden states that autograd finds."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(17, 8, generator=generator).to(device)
    targets = torch.randint(30, (17,), generator=generator).to(device)
    head = nn.Linear(8, 30, bias=bias).requires_grad_(False).to(device)
    weights = torch.randn(17, generator=generator).to(device)
    stats = token_statistics(values, targets, head, size * 30)
    mine, plain_one = (values.clone().requires_grad_(True) for _ in range(2))
    logprob = token_logprobs(mine, targets, head, size * 30)
    (logprob * weights).sum().backward()
    logits = head(plain_one).log_softmax(-1)
    (logits[torch.arange(17), targets] * weights).sum().backward()
    torch.testing.assert_close(mine.grad, plain_one.grad)
    for ours in (logprob, stats.logprob):
        torch.testing.assert_close(ours, logits[torch.arange(17), targets])
    torch.testing.assert_close(stats.entropy.cpu(), torch.tensor(plain_entropy(logits.detach())))


def make_pairs(make_rows: Callable[..., list[Row]], n: int, seed: int = 0) -> list[Pair]:
    """Pairs of random prompts and responses; one prompt is a single token."""
    first, second = make_rows(n, seed), make_rows(n, seed + 100)
    pairs = [Pair(a.prompt, a.response, b.response) for a, b in zip(first, second, strict=True)]
    return [pairs[0]._replace(prompt=[5]), *pairs[1:]]


def test_a_pair_in_one_sequence_is_two_rows(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    """Reading the prompt once gives the log-probabilities and the gradients of reading it twice."""
    pairs, results = make_pairs(make_rows, 6), []
    weights = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).to(bank.device)
    for once in (True, False):
        mine = adapters.trainable()
        with bank.use(mine):
            if once:
                logprob = pair_logprobs(bank.model, pair_pad(pairs, 0, bank.device))
            else:  # rows of a condition stay together: 2 pairs, 4 rows
                rows = right_pad([row for pair in pairs for row in pair.rows()], 0, bank.device)
                logprob = response_logprobs(bank.model, rows).view(6, 2)
        (logprob * weights).sum().backward()
        results.append([logprob.detach(), *(w.grad for w in mine.parameters())])
    for shared, separate in zip(*results, strict=True):
        torch.testing.assert_close(shared, separate, rtol=1e-3, atol=1e-4)
    assert float(results[0][0][0, 0]) == pytest.approx(plain_logprob(bank, adapters[:1], pairs[0].rows()[0]), rel=1e-4)


def test_grids_of_pairs_do_not_depend_on_pieces(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    grid = [make_pairs(make_rows, 5, seed) for seed in range(3)]
    whole = grid_pair_logprobs(bank, adapters, grid, 0, 10**6)
    for most_tokens in (1, 40, 130):
        torch.testing.assert_close(
            grid_pair_logprobs(bank, adapters, grid, 0, most_tokens), whole, rtol=1e-4, atol=1e-4
        )
    for side in (0, 1):
        rows = [[pair.rows()[side] for pair in part] for part in grid]
        torch.testing.assert_close(grid_logprobs(bank, adapters, rows, 0, 200), whole[side], rtol=1e-4, atol=1e-4)


def test_response_statistics_are_a_plain_loop(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    rows = [*make_rows(11), Row([3, 4], [])]  # an empty response has log-probability 0
    with torch.no_grad(), bank.use(adapters):
        stats = response_statistics(bank.model, right_pad(rows, 0, bank.device))
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
