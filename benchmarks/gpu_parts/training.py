"""One piece of DPO at Qwen3-14B geometry: 8 pairs of 1 024 tokens of two conditions, forward, backward and an optimiser
step, with and without LoRA dropout and activation checkpointing; speed against this card's matrix rate, memory against
what `betastar plan` predicts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from betastar.maths.objectives import dpo_loss
from betastar.models.bank import AdapterBank, Dropout, checkpoint_layers
from betastar.models.devices import is_out_of_memory, set_up
from betastar.models.logprobs import pair_logprobs
from betastar.models.optimise import StackedOptimiser
from betastar.models.sequences import Pair, pair_pad
from betastar.models.support import ModelFacts, model_facts
from betastar.planning import memory
from gpu_parts.check import Check
from gpu_parts.device import Rates, rates, seconds, seconds_and_peak
from gpu_parts.models import (
    geometry,
    layer_parameters,
    layers_that_fit,
    make_adapters,
    make_model,
    parameters,
)

DELIVERS = ("trained tokens", "matrix rate reached", "peak memory")
CONDITIONS, RANK = 2, 64
OFF = (0.8, 1.25)  # times the prediction that the peak may be
GB = 1e9


class Shape(NamedTuple):
    """Pairs per condition, tokens of a prompt and of each response."""

    pairs: int = 4
    prompt: int = 384
    response: int = 320

    @property
    def tokens(self) -> int:
        return CONDITIONS * self.pairs * (self.prompt + 2 * self.response)


class Variant(NamedTuple):
    dropout: float
    checkpointing: bool

    def __str__(self) -> str:
        return f"{'checkpointing' if self.checkpointing else 'no checkpointing'}, dropout {self.dropout:g}"


def run(check: Check) -> None:
    set_up()
    found = rates(check)
    config = geometry("Qwen3-14B", check.tiny)
    embeddings = 4 * config.vocab_size * config.hidden_size
    layers = layers_that_fit(check, config, 2 * layer_parameters(config), embeddings + 25e9, "bf16 weights")
    config = geometry("Qwen3-14B", check.tiny, layers)
    model = make_model(check, config)
    bank = AdapterBank(model, "attention", RANK, 2 * RANK)
    facts = model_facts(config, "attention")
    whole = Shape(2, 16, 12) if check.tiny else Shape()
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_layers(bank)  # for good: hence last
        for dropout in (0.0, 0.05):
            variant = Variant(dropout, checkpointing)
            measure(check, bank, facts, variant, that_fits(check, facts, variant, whole), found)


def that_fits(check: Check, facts: ModelFacts, variant: Variant, shape: Shape) -> Shape:
    """As many pairs as the memory should hold by the plan's estimate, at least one of each condition."""
    if check.device == "cuda":
        total = 0.92 * torch.cuda.get_device_properties(0).total_memory
        while shape.pairs > 1 and sum(predicted(facts, variant, shape).values()) > total:
            shape = shape._replace(pairs=shape.pairs - 1)
    return shape


def predicted(facts: ModelFacts, variant: Variant, shape: Shape) -> dict[str, float]:
    """Bytes by part, as `betastar plan` adds them up for the offline stage."""
    adapter = RANK * sum(d_in + d_out for d_in, d_out in facts.adapted) * CONDITIONS
    piece = memory.Piece(shape.tokens, variant.checkpointing)
    return {
        **memory.weights(facts, memory.Precision(2)),
        "adapters": adapter * (4 + 2),
        "gradients": adapter * 4,
        "optimiser": adapter * 8,
        "activations": memory.activations(facts, 2, piece, variant.dropout > 0),
        "logits": memory.logits(shape.tokens, facts.vocabulary, gpu=True),
        "libraries": memory.RUNTIME,
    }


def measure(check: Check, bank: AdapterBank, facts: ModelFacts, variant: Variant, shape: Shape, found: Rates) -> None:
    case = f"{variant}, {shape.tokens} tokens"
    parts = predicted(facts, variant, shape)
    expected = sum(parts.values())
    if not check.room_for(12, case):
        return
    adapters = make_adapters(bank, CONDITIONS).trainable()
    optimiser = StackedOptimiser(adapters.parameters(), 1e-5, 0.0, 1.0)
    draw = torch.Generator().manual_seed(3)

    def ids(n: int) -> list[int]:
        return torch.randint(1, facts.vocabulary, (n,), generator=draw).tolist()

    lengths = (shape.prompt, shape.response, shape.response)
    pairs = [Pair(*(ids(n) for n in lengths)) for _ in range(CONDITIONS * shape.pairs)]
    batch = pair_pad(pairs, 0, check.device)
    norms: list[Any] = []

    def step() -> None:
        dropout = None
        if variant.dropout:
            dropout = Dropout(variant.dropout, list(range(len(pairs))), [pair.length for pair in pairs])
        with bank.use(adapters, dropout):
            logprobs = pair_logprobs(bank.model, batch).view(CONDITIONS, shape.pairs, 2)
        dpo_loss(0.1 * (logprobs[..., 0] - logprobs[..., 1])).mean(dim=1).sum().backward()
        norms.append(optimiser.step(1.0))

    try:
        first = seconds(check.device, step)
        time, peak = seconds_and_peak(check.device, step)
        time = min(time, seconds(check.device, step))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        del optimiser, adapters
        torch.cuda.empty_cache()
        check.record("peak memory", "out of memory", case=case, compared=f"{expected / GB:.1f} GB predicted", ok=False)
        return
    finite = bool(torch.stack(norms).isfinite().all())
    check.record("gradient norms", "finite" if finite else "not finite", case=case, limit="finite", ok=finite)
    check.record(
        "trained tokens",
        shape.tokens / time,
        "tokens/s",
        case=case,
        compared=f"{time:.2f} s a piece; {first:.2f} s the first time",
    )
    # Nothing flows into the frozen weights: 4 FLOP per weight and token, those of the head per response token. What
    # checkpointing computes again is not counted, attention's own products neither.
    table = facts.vocabulary * facts.hidden_size
    body = parameters(bank.model) - (1 if bank.model.config.tie_word_embeddings else 2) * table
    answered = CONDITIONS * shape.pairs * 2 * shape.response
    share = 4 * (body * shape.tokens + table * answered) / time / found.bf16
    check.record(
        "matrix rate reached",
        100 * share,
        "%",
        case=case,
        compared=f"of {found.bf16 / 1e12:.0f} TFLOP/s, measured here",
    )
    planned = expected - parts["libraries"]
    largest = ", ".join(f"{name} {size / GB:.1f}" for name, size in sorted(parts.items(), key=lambda p: -p[1])[:3])
    check.record(
        "peak memory",
        None if peak is None else peak / GB,
        "GB",
        case=case,
        compared=f"{planned / GB:.1f} GB by betastar plan, without libraries ({largest})",
        limit=f"{OFF[0]:g} to {OFF[1]:g} × the prediction",
        ok=None if peak is None else OFF[0] * planned <= peak <= OFF[1] * planned,
    )
    if check.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        check.record(
            "memory of the device in use",
            (total - free) / GB,
            "GB",
            case=case,
            compared=f"{expected / GB:.1f} GB by betastar plan",
        )
        torch.cuda.empty_cache()
