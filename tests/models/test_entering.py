"""Rows that wait and enter a batch as others end: the responses of sampling everything at once, in fewer steps than
batch after batch. On a CPU every part runs but the recording of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.sampled import ENDS, LIMIT, assert_same, model_of, sampled
from transformers import GPT2Config, Qwen3Config

from betastar.models import batch, repeated
from betastar.models.bank import AdapterBank, Adapters

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*gradient_checkpointing:FutureWarning"
)

PROBLEMS = 11


@pytest.fixture
def grid() -> list[list[list[int]]]:
    """`[3][11]`: prompts of 2 to 24 tokens, different for every condition."""
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 25, (3, PROBLEMS), generator=draw).tolist()
    return [[torch.randint(1, 40, (n,), generator=draw).tolist() for n in mine] for mine in lengths]


@pytest.mark.parametrize("at_once", [1, 6, 15, 32])
@pytest.mark.parametrize(("enter_below", "look_every"), [(0.0, 3), (0.6, 1), (1.0, 3)])
def test_the_responses_are_those_of_sampling_all_at_once(
    bank: AdapterBank,
    adapters: Adapters,
    grid: list[list[list[int]]],
    narrow: None,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    enter_below: float,
    look_every: int,
) -> None:
    for name in ("LOOK_EVERY", "LOOK_EVERY_ON_GPU"):
        monkeypatch.setattr(batch, name, look_every)
    monkeypatch.setattr(batch, "ENTER_BELOW", enter_below)
    whole = sampled(bank, adapters, grid, fixed=False)
    assert len({len(r.tokens) for group in whole for r in group}) > 4
    assert_same(sampled(bank, adapters, grid, fixed=True, at_once=at_once), whole)
    assert_same(sampled(bank, adapters, grid, fixed=False, at_once=at_once), whole)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_lengths_and_limits(bank: AdapterBank, adapters: Adapters, narrow: None, seed: int) -> None:
    """Prompts repeated and of one token, limits of a few tokens, and one condition, whose rows are few or never end."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    conditions, problems, limit = number(1, 3), number(2, 9), number(1, 12)
    prompts = [
        [torch.randint(1, 40, (number(1, 30),), generator=draw).tolist() for _ in range(problems)]
        for _ in range(conditions)
    ]
    prompts[0][1] = prompts[0][0]
    ends = [] if seed % 3 == 2 else ENDS
    options: dict[str, Any] = {"max_new_tokens": limit, "end_tokens": ends, "temperature": [1.0, 0.7, 0.0][seed % 3]}
    whole = sampled(bank, adapters[:conditions], prompts, fixed=False, **options)
    for at_once in (conditions, 2 * conditions, 3 * conditions + 1):
        assert_same(sampled(bank, adapters[:conditions], prompts, fixed=True, at_once=at_once, **options), whole)


def test_fewer_steps_than_batch_after_batch(
    bank: AdapterBank, adapters: Adapters, grid: list[list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more rows than asked for; all steps together less than the batches' longest responses."""
    sizes: list[int] = []
    own = repeated.FixedShape.read
    monkeypatch.setattr(repeated, "FIXED_SHAPES", True)
    repeated.shapes_may_be_fixed(bank, 60)  # tried now, so that its passes are not counted
    monkeypatch.setattr(
        repeated.FixedShape, "read", lambda self, tokens: (sizes.append(len(tokens)), own(self, tokens))[1]
    )
    for name in ("LOOK_EVERY", "LOOK_EVERY_ON_GPU"):
        monkeypatch.setattr(batch, name, 1)
    responses = sampled(bank, adapters, grid, fixed=True, at_once=9)
    lengths = [[len(r.tokens) for r in group] for group in responses]
    one_after_another = sum(
        max(n for mine in lengths for n in mine[start : start + 3]) - 1 for start in range(0, PROBLEMS, 3)
    )
    assert max(sizes) == 9
    assert len(sizes) < 0.9 * one_after_another
    assert sum(sizes) >= sum(n - 1 for mine in lengths for n in mine)


def test_no_row_is_given_a_position_beyond_the_context(device: torch.device) -> None:
    """Positions learnt for just as many tokens as a response may have with its prompt: rows that have ended, and are
    computed on until others enter, do not ask for another."""
    config = GPT2Config(
        vocab_size=64, n_positions=26 + LIMIT, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=1
    )
    bank = AdapterBank(model_of(config, device), "attention", rank=4, alpha=6)
    draw = torch.Generator().manual_seed(1)
    prompts = [[torch.randint(1, 40, (n,), generator=draw).tolist() for n in [26, 3] * 8]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "ENTER_BELOW", 0.7)
        patch.setattr(batch, "COMPACT_BELOW_FIXED", 0.0)  # rows go on for as long as another is live
        whole = sampled(bank, None, prompts, fixed=False, end_tokens=[40, 41])
        assert_same(sampled(bank, None, prompts, fixed=True, at_once=3, end_tokens=[40, 41]), whole)
    assert repeated.REPEATABLE[bank.model]
    assert any(r.hit_limit for r in whole[0])


def test_layers_are_the_models_own_again_after_an_error(
    grid: list[list[list[int]]], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stops sampling on the way, such as memory that runs out: the steps' lean layers go."""
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
    )  # fmt: skip
    model = model_of(config, device)
    bank = AdapterBank(model, "attention", rank=4, alpha=6)
    entered: Callable[..., Any] = batch.Batch._read_entering

    def full(self: Any, counts: Any) -> Any:
        assert model.config._attn_implementation == "sdpa"  # prompts are read by the model's own layers
        entered(self, counts)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(batch.Batch, "_read_entering", full)
    with pytest.raises(torch.OutOfMemoryError):
        sampled(bank, None, grid[:1], fixed=True, at_once=3)
    assert model.config._attn_implementation == "sdpa"
    assert all("forward" not in vars(module) for module in model.modules() if type(module).__name__ == "Qwen3RMSNorm")
