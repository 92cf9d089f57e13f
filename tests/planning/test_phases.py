"""What is in memory together: the parts that each phase has, and how settings change them."""

from __future__ import annotations

import pytest

from betastar.models.support import ModelFacts
from betastar.planning.derive import Facts, derive
from betastar.planning.memory import Phase, phases, precision, rows_at_once
from betastar.settings.config import Config, Resolved, load_config

MODEL = ModelFacts(64, 2, 2, 1, 32, 128, 10**6, 10**4, ((64, 64),) * 8, None)
FACTS = Facts(MODEL, MODEL, 80, 10, 20, 30, 16.0)
ONE = 8 * 8 * (64 + 64) * 4  # bytes of a rank-8 adapter on 8 layers, float32


def by_name(config: Config, gpu: bool = False) -> dict[str, Phase]:
    return {phase.name: phase for phase in phases(Resolved.of(config), FACTS, 6, gpu)}


def test_a_condition_is_an_adapter_its_gradient_and_two_moments() -> None:
    found = by_name(load_config("micro"))
    assert found["rewards"].parts["adapters"] == 5 * 3 * ONE
    assert found["offline"].parts["adapters"] == found["offline"].parts["gradients"] == 25 * ONE
    assert found["offline"].parts["optimiser"] == 2 * 25 * ONE
    assert found["online"].parts["references"] == 50 * ONE
    assert found["sampling"].parts["gradients"] == 0  # they are dropped after each step
    assert found["offline"].total == sum(found["offline"].parts.values())


def test_fewer_seeds_at_once_take_less_for_their_reward_models() -> None:
    every, few = (by_name(load_config("micro", [f"rewards.seeds_at_once={n}"])) for n in ("null", 2))
    assert few["rewards"].parts["optimiser"] == every["rewards"].parts["optimiser"] * 2 / 5
    assert few["online"] == every["online"]  # where all seeds' reward models are at hand
    one = by_name(load_config("micro", ["rewards.per=run"]))
    assert one["rewards"].parts["adapters"] == one["online"].parts["reward adapters"] == 3 * ONE


def test_a_fresh_task_trains_copies_of_policies_at_both_ends() -> None:
    assert "plasticity" not in by_name(load_config("micro"))
    found = by_name(load_config("micro", ["evaluation.fresh_steps=5"]))
    assert found["plasticity"].parts["policies"] == found["plasticity"].parts["gradients"] == (25 + 50) * ONE
    assert found["plasticity"].parts["activations"] == found["online"].parts["activations"]
    few = by_name(load_config("micro", ["evaluation.fresh_steps=5", "online.conditions_at_once=10"]))
    assert few["plasticity"].parts["optimiser"] == 2 * 10 * ONE


def test_fewer_conditions_at_once_take_less_online_and_as_much_offline() -> None:
    every, few = (by_name(load_config("micro", [f"online.conditions_at_once={n}"])) for n in (50, 10))
    assert few["online"].parts["optimiser"] == every["online"].parts["optimiser"] / 5
    assert few["offline"] == every["offline"]


def test_trl_trains_one_adapter_on_its_own_base_with_whole_logits() -> None:
    bank, trl = (by_name(load_config("micro", [f"offline.engine={engine}"]))["offline"] for engine in ("bank", "trl"))
    assert trl.parts["adapters"] == bank.parts["adapters"] / 25
    assert trl.parts["TRL's copy of the base"] == 4 * 10**6
    assert trl.parts["logits"] == 2048 * 128 * 12  # tokens_per_forward · vocabulary · bytes


@pytest.mark.parametrize(
    ("base", "gpu", "width", "nf4"),
    [
        ("{source: pretrained, model: m}", True, 2, False),
        ("{source: pretrained, model: m}", False, 4, False),
        ("{source: pretrained, model: m, dtype: bfloat16, quantization: nf4}", False, 2, True),
        ("{source: pretrained, model: m, dtype: float32}", True, 4, False),
        ("{source: random}", True, 4, False),
    ],
)
def test_how_a_base_is_kept(base: str, gpu: bool, width: int, nf4: bool) -> None:
    kept = precision(load_config("files", [f"base={base}"]).base, gpu)
    assert (kept.width, kept.nf4) == (width, nf4)


def test_a_lower_precision_multiplies_with_a_copy_of_the_adapters() -> None:
    config = load_config("files", ["base={source: pretrained, model: m, dtype: bfloat16}", "adapter={rank: 8}"])
    assert by_name(config)["offline"].parts["adapters"] == 15 * ONE * 1.5  # 5 β × 3 seeds; bfloat16 is half the size


def test_responses_sampled_together_are_limited() -> None:
    few = load_config("micro", ["seeds=[0]"])
    assert rows_at_once(Resolved.of(few), 64) == 10 * 64 * 2  # an evaluation point of all conditions, 2 answers each
    assert rows_at_once(Resolved.of(load_config("micro")), 8) == 50 * 32  # a batch is more than that
    assert rows_at_once(Resolved.of(load_config("micro", ["compute.rows_per_decode=100"])), 64) == 100


def test_rows_that_wait_take_a_block_of_columns_more_on_a_gpu() -> None:
    """50 conditions × 6 problems × 2 answers are 600 rows of 10 + 30 tokens, and online batches 1 600, of which 1 000
    are sampled at once. Two layers, one key-value head of 32 float32 numbers: 512 bytes a token."""
    for gpu, rows, columns in ((True, 1000, 40 + 64), (False, 1000, 40), (True, 2048, 40)):
        found = by_name(load_config("micro", [f"compute.rows_per_decode={rows}"]), gpu)["sampling"]
        assert found.parts["KV cache"] == min(rows, 1600) * columns * 512


@pytest.mark.parametrize(("preset", "gpu_gib"), [("paper", 79), ("paper-strict", 79), ("qwen3-0.6b", 11.5)])
def test_presets_fit_the_gpu_they_name(preset: str, gpu_gib: float) -> None:
    """A card sold with 80 GB (H100) or 12 GB has a little less than that in GiB."""
    from betastar.planning.plan import make_plan

    made = make_plan(load_config(preset), memory_gb=gpu_gib)
    assert made.fits
    assert derive(load_config(preset), made.facts)[0] == made.config
