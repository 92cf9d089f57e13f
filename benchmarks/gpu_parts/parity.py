"""The same numbers by other ways, at Qwen3-0.6B geometry: the bank against PEFT, sampling against reading and against
`transformers.generate`, the head's gradient against float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.devices import set_up
from betastar.models.generation import generate
from betastar.models.logprobs import grid_logprobs, token_logprobs, wide_products
from betastar.models.peft_io import export_adapter
from betastar.models.sequences import Row
from gpu_parts.check import Check
from gpu_parts.models import geometry, make_adapters, make_model

DELIVERS = ("slope of the head", "bank against PEFT", "bank against float32", "sampled against read", "greedy texts")
CONDITIONS, RANK = 3, 16
LIKELIHOODS = (0.9, 0.99, 0.999, 0.9999)
MOST_SLOPE_ERROR = 0.01
PEAKED = 5  # times the spread of random weights, on embedding and head: distributions as peaked as a trained model's
MOST_TOKENS = 8192
GREEDY_ROWS, GREEDY_TOKENS = 2, 24  # per condition: PEFT and `generate` take some 40 ms a token on a GPU


def run(check: Check) -> None:
    set_up()
    for dtype in (torch.float32, torch.bfloat16):
        for p in LIKELIHOODS:
            slope(check, p, dtype)
    rounded = make_model(check, geometry("Qwen3-0.6B", check.tiny))
    with torch.no_grad():
        rounded.get_input_embeddings().weight.mul_(PEAKED)
    exact = copy.deepcopy(rounded).float()  # the same weights, computed with in float32
    exact_logprobs: Tensor | None = None
    for name, model, limit in (("float32", exact, 1e-3), ("bfloat16", rounded, 0.0)):
        exact_logprobs = same(check, name, model, limit, exact_logprobs)


def slope(check: Check, p: float, dtype: torch.dtype) -> None:
    """The gradient of log p(target) by the hidden state, `W[target] - Σ_v p_v W[v]`, where the target has about
    likelihood p. It is a small difference of large vectors where p is near 1."""
    vocabulary, width, n = (512, 64, 4) if check.tiny else (151936, 1024, 16)
    draw = torch.Generator(check.device).manual_seed(0)
    weight = torch.empty(vocabulary, width, device=check.device, dtype=torch.float64).normal_(0, 0.1, generator=draw)
    hidden = torch.empty(n, width, device=check.device, dtype=torch.float64).normal_(0, 1, generator=draw).to(dtype)
    state = hidden.double()
    targets = torch.arange(n, device=check.device)
    # Move each target's own weights along its state until the target has the likelihood wanted, in two rounds since
    # the targets compete with one another.
    for _ in range(2):
        logits = state @ weight.T
        others = logits.scatter(1, targets[:, None], -torch.inf).logsumexp(dim=1)
        wanted = others + torch.logit(torch.tensor(p, dtype=torch.float64)).item()
        step = (wanted - logits[targets, targets]) / state.square().sum(dim=1)
        weight[targets] += step[:, None] * state
    head = nn.Linear(width, vocabulary, bias=False, device="meta")
    head.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    weight = head.weight.double()
    likelihood = (state @ weight.T).softmax(dim=1)
    likelihood_of_target = likelihood[targets, targets].mean().item()
    likelihood[targets, targets] -= 1
    expected = -likelihood @ weight
    mine = hidden.clone().requires_grad_(True)
    token_logprobs(mine, targets, head).sum().backward()
    assert mine.grad is not None
    error = ((mine.grad.double() - expected).norm() / expected.norm()).item()
    # The formula is exact to rounding of the result, 0.2 %; logits that leave the head in bfloat16, as they do on a
    # CPU, are off by 2^-9 of their size before it begins, which is 2 % of the slope here.
    wide = dtype == torch.float32 or wide_products(hidden.device, dtype)
    check.record(
        "slope of the head",
        100 * error,
        "%",
        case=f"{str(dtype).removeprefix('torch.')}, p = {p} ({likelihood_of_target:.5f} once rounded)",
        compared="relative error against float64" + ("" if wide else "; this device rounds logits to bfloat16"),
        limit=f"{MOST_SLOPE_ERROR:.0%}" if wide else "",
        ok=error <= MOST_SLOPE_ERROR if wide else None,
    )


def same(check: Check, name: str, model: Any, limit: float, exact: Tensor | None) -> Tensor:
    """Everything for one precision; returns the bank's log-probabilities `[C, B]`. `limit`, nats per token, is for
    float32; bfloat16 is held against PEFT's own distance from float32 (`exact`)."""
    draw = torch.Generator().manual_seed(2)
    rows, longest, new = (3, 12, 4) if check.tiny else (8, 180, 40)

    def ids(n: int) -> list[int]:
        return torch.randint(1, model.config.vocab_size, (n,), generator=draw).tolist()

    bank = AdapterBank(copy.deepcopy(model), "attention", RANK, 2 * RANK)
    adapters = make_adapters(bank, CONDITIONS)
    half = longest // 2
    lengths = [(half - half * i // (2 * rows), half - half * i // (3 * rows)) for i in range(rows)]  # ragged
    grid = [[Row(ids(prompt), ids(response)) for prompt, response in lengths] for _ in range(CONDITIONS)]
    tokens = torch.tensor([[len(row.response) for row in group] for group in grid])
    ours = grid_logprobs(bank, adapters, grid, 0, MOST_TOKENS).cpu()
    prompts = [[row.prompt for row in group] for group in grid]
    sampled_against_read(check, name, bank, adapters, prompts, new, limit)

    if check.lacks("peft", f"{name}: bank against PEFT, greedy texts"):
        return ours
    import peft

    few, short = min(rows, GREEDY_ROWS), min(new, GREEDY_TOKENS)
    greedy = generate(
        bank,
        adapters,
        [group[:few] for group in prompts],
        [[0] * few] * CONDITIONS,
        end_tokens=[-1],
        pad=0,
        max_new_tokens=short,
        temperature=0.0,
    )
    theirs, equal, answered = torch.empty(CONDITIONS, rows), 0, 0
    for c in range(CONDITIONS):
        folder = check.work / f"{name}-{c}"
        export_adapter(folder, adapters, c, "random")
        wrapped: Any = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()
        with torch.no_grad():
            theirs[c] = torch.tensor([read(wrapped, row, check.device) for row in grid[c]])
            for prompt, sample in zip(prompts[c][:few], greedy[c], strict=True):
                asked = torch.tensor([list(prompt)], device=check.device)
                settings = {"do_sample": False, "max_new_tokens": short, "pad_token_id": 0}
                whole = wrapped.generate(input_ids=asked, attention_mask=torch.ones_like(asked), **settings)
                text = whole[0, asked.shape[1] :].tolist()
                equal += sum(a == b for a, b in zip(text, sample.tokens, strict=True))
                answered += short
    difference = ((ours - theirs).abs() / tokens).max().item()
    check.record(
        "bank against PEFT",
        difference,
        "nats per token",
        case=f"{name}, {CONDITIONS} conditions × {rows} rows of up to {longest} tokens; the largest of all rows",
        limit=f"{limit:g}" if limit else "",
        ok=difference <= limit if limit else None,
    )
    reference = theirs if exact is None else exact
    mine, peft_own = (((found - reference).abs() / tokens).mean().item() for found in (ours, theirs))
    check.record(
        "bank against float32",
        mine,
        "nats per token",
        case=f"{name}, mean of all rows",
        compared=f"PEFT's {peft_own:.2g}",
        limit=f"{limit:g}" if limit else "2 × PEFT's",
        ok=mine <= (limit or 2 * peft_own),
    )
    check.record(
        "greedy texts",
        equal / answered,
        "of the tokens equal",
        case=f"{name}, {CONDITIONS} × {few} prompts, {short} tokens",
        compared="PEFT and transformers.generate, one prompt at a time",
        limit="at least 0.99" if limit else "",
        ok=equal >= 0.99 * answered if limit else None,
    )
    return ours


def sampled_against_read(
    check: Check, name: str, bank: AdapterBank, adapters: Adapters, prompts: Sequence[Any], new: int, limit: float
) -> None:
    """The log-probability that sampling reports, token by token with a cache, against reading the whole row."""
    keys = [[100 * c + i for i in range(len(group))] for c, group in enumerate(prompts)]
    samples = generate(bank, adapters, prompts, keys, end_tokens=[-1], pad=0, max_new_tokens=new)
    grid = [[Row(p, s.tokens) for p, s in zip(*both, strict=True)] for both in zip(prompts, samples, strict=True)]
    read_again = grid_logprobs(bank, adapters, grid, 0, MOST_TOKENS).cpu()
    sampled = torch.tensor([[sample.logprob for sample in group] for group in samples])
    difference = (sampled - read_again).abs()
    check.record(
        "sampled against read",
        difference.max().item() / new,
        "nats per token",
        case=f"{name}, the largest of {difference.numel()} rows of {new} tokens",
        compared=f"mean {difference.mean().item() / new:.2g}, of {-read_again.mean().item() / new:.3g} nats per token",
        limit=f"{limit:g}" if limit else "",
        ok=difference.max().item() / new <= limit if limit else None,
    )


def read(model: Any, row: Row, device: str) -> float:
    """Log-probability of a response by a whole pass over one row, in float32."""
    tokens = torch.tensor([[*row.prompt, *row.response]], device=device)
    logits = model(input_ids=tokens).logits[0, len(row.prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, tokens[0, len(row.prompt) :, None]).sum().item()
