"""The measurement: what it measures, and how it is carried over to the whole model and to the stages."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config

from betastar.errors import BetastarError
from betastar.planning import probe as probing
from betastar.planning.memory import Precision
from betastar.planning.plan import make_plan
from betastar.planning.probe import Seconds, Shape, measure, probe
from betastar.settings.config import load_config

CPU = torch.device("cpu")


def shape(layers: int = 2, **changes) -> Shape:
    config = Qwen3Config(
        hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        vocab_size=128, num_hidden_layers=layers,
    )  # fmt: skip
    return Shape(config, Precision(4), "attention", 4, 3, 16, 16, 512, 12, False)._replace(**changes)


def test_a_deep_model_costs_what_its_layers_cost_and_the_rest_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(_shape: Shape, _device: torch.device, layers: int) -> Seconds:
        return Seconds(1 + 0.5 * layers, 2 + 3 * layers, 4 - 0.1 * layers, 0.0)

    monkeypatch.setattr(probing, "_measured", pretend)
    whole, method = measure(shape(layers=40), CPU)
    # 1 + 0.5 · 40 and 2 + 3 · 40; more layers cannot cost less, so the third stays what one layer took.
    assert whole == pytest.approx((21, 122, 3.9, 0))
    assert method == "1 and 3 of 40 layers, scaled linearly"
    assert measure(shape(layers=3), CPU) == (pytest.approx((2.5, 11, 3.7, 0)), "all 3 layers")


def test_every_kind_of_pass_takes_time() -> None:
    policy, _ = measure(shape(learn=True), CPU)
    assert min(policy) > 0
    assert policy.trained > policy.read  # a backward pass on top
    reward, _ = measure(shape(score=True), CPU)
    assert min(reward.read, reward.trained) > 0
    assert reward.sampled == reward.learnt == 0


def test_pieces_are_those_of_a_run() -> None:
    bench = probing._Bench(shape(tokens_per_forward=200, conditions=3), CPU, 1)
    bench.flop = float("inf")  # as on a GPU
    assert bench._piece(4, 16, 16, 16) == (3, 1, [16, 16, 16])  # 3 pairs of 48 tokens, one of each condition
    assert bench._piece(2, 16, 16) == (3, 2, [16, 16])
    bench.flop = 4 * bench.parameters * 24  # a CPU that affords 24 tokens: one shortened pair
    assert bench._piece(4, 16, 16, 16) == (1, 1, [8, 8, 8])


@pytest.mark.parametrize(("limit", "message"), [("CPU_LARGEST", "too large"), ("CPU_SECONDS", "too slow in float32")])
def test_what_a_cpu_cannot_measure_is_said(monkeypatch: pytest.MonkeyPatch, limit: str, message: str) -> None:
    monkeypatch.setattr(probing, limit, 1e-9)
    with pytest.raises(BetastarError, match=message):
        measure(shape(), CPU)


def test_stages_take_their_tokens_at_the_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(shape: Shape, _device: torch.device) -> tuple[Seconds, str]:
        return (Seconds(1, 10, 0, 0) if shape.score else Seconds(2, 20, 200, 7)), "some layers"

    monkeypatch.setattr("betastar.planning.probe.measure", pretend)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    made = make_plan(load_config("micro", ["rewards.engine=trl", "compute.device=cpu"]))
    timing = probe(made)
    work = {stage.name: stage for stage in made.stages}
    assert timing.seconds["base"] == 7 * work["base"].policy.trained
    online = work["online"]
    assert timing.seconds["online"] == pytest.approx(
        2 * online.policy.read + 20 * online.policy.trained + 200 * online.policy.sampled + online.reward.read
    )
    assert timing.seconds["rewards"] is None  # by TRL, which is not measured
