"""Log-probabilities and entropies against plain loops over single, unpadded rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from betastar.models import logprobs
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.logprobs import (
    grid_logprobs,
    grid_pair_logprobs,
    head_logits,
    hide_padding,
    pair_logprobs,
    prompt_entropy,
    response_logprobs,
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
    logprob = token_logprobs(mine, targets, head, most_elements=size * 30)
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


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_response_logprobs_are_a_plain_loop(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]], temperature: float
) -> None:
    rows = [*make_rows(11), Row([3, 4], [])]  # an empty response has log-probability 0
    with torch.no_grad(), bank.use(adapters):
        logprob = response_logprobs(bank.model, right_pad(rows, 0, bank.device), temperature)
    for i, row in enumerate(rows[:11]):
        tokens = torch.tensor([[*row.prompt, *row.response]], device=bank.device)
        with torch.no_grad(), bank.use(adapters[i // 4 : i // 4 + 1]):
            logits = bank.model(tokens).logits[0, len(row.prompt) - 1 : -1].cpu() / temperature
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(row.response)[:, None]).sum()
        assert logprob[i].item() == pytest.approx(float(expected), rel=1e-4)
    assert logprob[11] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.9, 0.99, 0.999, 0.9999, 0.999999])
def test_the_slope_of_the_head_holds_where_a_policy_collapses(
    device: torch.device, p: float, dtype: torch.dtype
) -> None:
    """d log p / d h against float64. The state is a unit vector, so that logits are exact in bfloat16, and the target's
    logit gives it the probability p: what is compared is the gradient's arithmetic alone. Taken as W[target] − Σ p W,
    the slope was wrong by 2.6 % at p = 0.9 in bfloat16, and by 100 % from 0.999 on."""
    vocabulary, width, generator = 1000, 64, torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype)
    weight[0, 0] = weight[1:, 0].double().logsumexp(0) + math.log(p / (1 - p))
    head = nn.Linear(width, vocabulary, bias=False, dtype=dtype).requires_grad_(False)
    head.weight.copy_(weight)
    hidden = torch.zeros(1, width, dtype=dtype)
    hidden[0, 0] = 1
    ours = hidden.to(device, copy=True).requires_grad_(True)
    token_logprobs(ours, torch.tensor([0], device=device), head.to(device))[0].backward()
    exact = hidden.double().requires_grad_(True)
    logprob = (exact @ weight.double().T).log_softmax(-1)[0, 0]
    logprob.backward()
    assert float(logprob.detach().exp()) == pytest.approx(p, abs=0.3 * (1 - p))
    assert ours.grad is not None
    assert exact.grad is not None
    error = (ours.grad.cpu().double() - exact.grad).norm() / exact.grad.norm()
    assert float(error) < (0.01 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_slope_at_a_temperature_is_autograds(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    head = nn.Linear(8, 30).requires_grad_(False)
    hidden, targets = torch.randn(17, 8, generator=generator), torch.randint(30, (17,), generator=generator)
    mine, plain_one = (hidden.clone().requires_grad_(True) for _ in range(2))
    logprob = token_logprobs(mine, targets, head, temperature, 100)
    logprob.sum().backward()
    expected = (head(plain_one) / temperature).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    expected.sum().backward()
    torch.testing.assert_close(logprob, expected)
    torch.testing.assert_close(mine.grad, plain_one.grad)


def test_wide_products_give_what_the_head_itself_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a device multiplies bfloat16 into float32, bias and hidden places are added by hand: against a head that
    is called. The product is stood in for, as a CPU has none."""
    bank_head = nn.Linear(8, 64, dtype=torch.bfloat16).requires_grad_(False)

    class Model:
        def get_output_embeddings(self) -> nn.Module:
            return bank_head

    hide_padding(Model(), 50)
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    called = head_logits(bank_head, hidden)
    monkeypatch.setattr(logprobs, "wide_products", lambda device, dtype: True)
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype: a.to(out_dtype) @ b.to(out_dtype))
    wide = head_logits(bank_head, hidden)
    assert wide.dtype == called.dtype == torch.float32
    torch.testing.assert_close(wide[:, :50], called[:, :50], rtol=0.01, atol=0.01)
    assert (wide[:, 50:].softmax(-1) > 0).all()
    for logits in (wide, called):
        assert float(logits.softmax(-1)[:, 50:].sum()) == 0
    exact = hidden.float() @ bank_head.weight.float().T + bank_head.bias.float()
    torch.testing.assert_close(wide[:, :50], exact[:, :50], rtol=1e-6, atol=1e-6)


def test_sums_take_no_atomic_additions(
    bank: AdapterBank, adapters: Adapters, make_rows: Callable[..., list[Row]]
) -> None:
    """On a GPU, index_add adds in another order at every call, so that a run resumed would differ from one unbroken."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: set[str] = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(str(func))
            return func(*args, **(kwargs or {}))

    mine = adapters.trainable()
    with Names(), bank.use(mine):
        response_logprobs(bank.model, right_pad(make_rows(6), 0, bank.device)).sum().backward()
    with Names(), torch.no_grad():
        prompt_entropy(bank, adapters, [[1, 2, 3], [4, 5]], 0, 1000)
    assert any("index_put" in name for name in seen)
    assert not [name for name in seen if "index_add" in name or "scatter_add" in name]


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
