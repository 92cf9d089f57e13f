"""QLoRA for real: a base in 4 bits under a bank of adapters that train, sample and become PEFT folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from betastar.models.bank import AdapterBank, Adapters, checkpoint_layers
from betastar.models.generation import generate
from betastar.models.loading import Base, load_base
from betastar.models.logprobs import response_logprobs
from betastar.models.optimise import StackedOptimiser
from betastar.models.peft_io import export_adapter
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.models.sequences import Row, right_pad
from betastar.settings.sections import Geometry, PretrainedBase

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*gradient_checkpointing:FutureWarning"
)

GEOMETRY = Geometry(
    hidden_size=64, intermediate_size=128, layers=2, heads=4, key_value_heads=2, context=64, initializer_range=0.15
)
TOKENIZER: Any = build_byte_tokenizer()
ROWS = [
    Row(TOKENIZER(question)["input_ids"], [*TOKENIZER(answer)["input_ids"], TOKENIZER.eos_token_id])
    for question, answer in [("2 + 2 = ", "4"), ("7 + 5 = ", "12"), ("Say hello. ", "Hello!"), ("9 - 3 = ", "6")]
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("base")
    build_model(GEOMETRY, len(TOKENIZER), root_seed=0).save_pretrained(where)
    TOKENIZER.save_pretrained(where)
    return where


def load(folder: Path, device: torch.device, dtype: Any = "float32", **settings: Any) -> Base:
    choice = PretrainedBase(source="pretrained", model=str(folder), quantization="nf4", dtype=dtype, **settings)
    return load_base(choice, device)


def bank_on(folder: Path, device: torch.device, **settings: Any) -> AdapterBank:
    return AdapterBank(load(folder, device, **settings).model, "all-linear", rank=4, alpha=8)


def logprobs(model: Any, repeat: int = 1) -> Tensor:
    return response_logprobs(model, right_pad(ROWS * repeat, 0, model.device))


@torch.no_grad()
def test_the_bank_computes_what_peft_does_on_the_same_quantised_base(
    folder: Path, device: torch.device, random_adapters: Callable[..., Adapters], tmp_path: Path
) -> None:
    bank = bank_on(folder, device)
    adapters = random_adapters(bank, 2)
    with bank.use(adapters):
        ours = logprobs(bank.model, 2).view(2, -1)
    bare = logprobs(bank.model)
    for c in range(2):
        export_adapter(tmp_path / str(c), adapters, c, str(folder))
        theirs: Any = peft.PeftModel.from_pretrained(load(folder, device).model, tmp_path / str(c)).eval()
        torch.testing.assert_close(ours[c], logprobs(theirs.get_base_model()), rtol=1e-4, atol=1e-3)
        assert (ours[c] - bare).abs().min() > 0.1


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_training_lowers_the_loss_of_every_condition(
    folder: Path, device: torch.device, compute_dtype: str, recomputed: bool
) -> None:
    """Both conditions start from the same adapter; the second's loss has no weight, so only the first learns."""
    bank = bank_on(folder, device, compute_dtype=compute_dtype)
    if recomputed:
        checkpoint_layers(bank)
    adapters = bank.create([0, 0]).trainable()
    optimiser = StackedOptimiser(adapters.parameters(), 0.02, weight_decay=0.0, clip=1.0)
    losses = []
    for _ in range(12):
        with bank.use(adapters):
            loss = -logprobs(bank.model, 2).view(2, -1).mean(dim=1)
        losses.append(loss.detach().cpu())
        (loss * torch.tensor([1.0, 0.0], device=device)).sum().backward()
        optimiser.step(1.0)
    first, last = losses[0], losses[-1]
    assert first[0] == pytest.approx(first[1].item(), rel=1e-5)
    assert last[0] < 0.6 * first[0]
    assert last[1] == pytest.approx(first[1].item(), rel=0.02 if compute_dtype == "bfloat16" else 1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.5)])
def test_sampled_log_probabilities_are_those_of_a_whole_pass(
    folder: Path, device: torch.device, random_adapters: Callable[..., Adapters], precision: str, tolerance: float
) -> None:
    """Token by token with a cache, and all at once: equal but for rounding (in bfloat16 0.05 of 84 nats were seen)."""
    bank = bank_on(folder, device, dtype=precision)
    adapters = random_adapters(bank, 2)
    prompts = [[list(row.prompt) for row in ROWS]] * 2
    samples = generate(
        bank, adapters, prompts, [[1, 2, 3, 4]] * 2, end_tokens=[TOKENIZER.eos_token_id], pad=0, max_new_tokens=16
    )
    rows = [
        Row(prompt, sample.tokens)
        for asked, answered in zip(prompts, samples, strict=True)
        for prompt, sample in zip(asked, answered, strict=True)
    ]
    assert max(token for row in rows for token in row.response) < len(TOKENIZER)
    with torch.no_grad(), bank.use(adapters):
        whole = response_logprobs(bank.model, right_pad(rows, 0, device))
    sampled = torch.tensor([sample.logprob for group in samples for sample in group])
    torch.testing.assert_close(sampled, whole.cpu(), rtol=0, atol=tolerance)
    assert (whole < -5).any()
