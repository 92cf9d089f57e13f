"""Settings that say `auto` become the numbers of Appendix C, and no other setting changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from experiment.test_files import SMALL, write_files
from hypothesis import given
from hypothesis import strategies as st

from betastar.errors import BetastarError, InternalError
from betastar.experiment import pipeline
from betastar.experiment.training import batches
from betastar.models.support import ModelFacts
from betastar.planning.derive import Facts, derive, hyperparameters, trainable, training_steps
from betastar.progress import Reporter
from betastar.settings.config import Resolved, load_config, needs_deriving
from betastar.settings.sections import Training


def qwen(hidden: int, layers: int, heads: int, parameters: int, embedding: int) -> ModelFacts:
    """A Qwen3 whose attention projections are adapted: 8 key-value heads of 128."""
    queries, keys = heads * 128, 8 * 128
    layer = ((hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden))
    return ModelFacts(hidden, layers, heads, 8, 128, 151_936, parameters, embedding, layer * layers, 40_960)


POLICY = qwen(5120, 40, 40, 14_768_307_200, 2 * 151_936 * 5120)
REWARD = qwen(2048, 28, 16, 1_720_574_976, 151_936 * 2048)
FACTS = Facts(POLICY, REWARD, 48_908, 256, 512, 512, 80.0)

# Worked by hand for Qwen3-14B with Qwen3-1.7B, 48 908 pairs (√ = 221.15), ℓ = 768 (s = 0.75), V = 80 GiB:
PAPER = {
    "adapter.rank": 64,  # log2 √5120 = 6.16
    "adapter.alpha": 128,
    "adapter.dropout": 0.10,  # 32 / 221.15 = 0.145
    "reward_adapter.rank": 64,  # log2 √2048 = 5.5
    "reward_adapter.alpha": 128,
    "reward_adapter.dropout": 0.10,
    "rewards.batch_size": 32,  # 80 / 1.7206 / 0.75 = 61.99
    # N: 28 layers of 64 · (4096 + 3072 + 3072 + 4096) = 917 504, and 2048 for the head
    "rewards.learning_rate": 2e-4 / (25_692_160 / 1e7) ** 0.5,
    "rewards.weight_decay": 48_908**-0.5,
    "rewards.clip": 1.058541,  # log10 25 692 160 = 7.409801, / 7 = 1.058543
    "rewards.warmup_steps": 39,  # T = ⌈48 908 / 32⌉ = 1529
    "offline.batch_size": 4,  # 80 / 14.768 / 0.75 = 7.22
    # N: 40 layers of 64 · (10 240 + 6144 + 6144 + 10 240) = 2 097 152
    "offline.learning_rate": 2e-4 / (83_886_080 / 1e7) ** 0.5,
    "offline.weight_decay": 48_908**-0.5,
    "offline.clip": 1.131956,
    "offline.warmup_steps": 110,  # T = 48 908 / 4 = 12 227
    "online.batch_size": 4,
    "online.learning_rate": 2e-4 / (83_886_080 / 1e7) ** 0.5,
    "online.weight_decay": 48_908**-0.5,
    "online.clip": 1.131956,
    "online.warmup_steps": 14,  # T = 200
}


def test_the_papers_numbers() -> None:
    _, values = derive(load_config("paper"), FACTS)
    assert [v.setting for v in values] == list(PAPER)
    assert {v.setting: v.value for v in values} == pytest.approx(PAPER, rel=5e-6)
    assert {v.setting for v in values if v.clipped} == {"adapter.dropout", "reward_adapter.dropout"}
    assert all(v.given is None for v in values)


def test_trainable_weights_are_counted_over_the_adapted_layers() -> None:
    assert trainable(POLICY, 64) == 83_886_080
    assert trainable(REWARD, 64) == 25_690_112
    assert trainable(POLICY, 8) == 83_886_080 // 8


def test_only_auto_is_replaced() -> None:
    config = load_config("paper", ["offline.clip=0.7", "adapter.rank=16", "rewards.epochs=2"])
    resolved, values = derive(config, FACTS)
    by_name = {v.setting: v for v in values}
    assert (by_name["offline.clip"].given, by_name["offline.clip"].value) == (0.7, pytest.approx(1.045947, rel=1e-6))
    assert (resolved.adapter.rank, resolved.adapter.alpha) == (16, 32)  # alpha follows the rank in use,
    assert by_name["offline.learning_rate"].inputs == {"N": 20_971_520}  # and so does N: a quarter of that of rank 64
    assert not needs_deriving(resolved)
    before, after = config.model_dump(), resolved.model_dump()
    changed = {"adapter", "reward_adapter", "rewards", "offline", "online"}
    assert {name for name in before if before[name] != after[name]} == changed
    for name in changed - {"reward_adapter"}:
        for key, value in before[name].items():
            assert after[name][key] == value or value == "auto", f"{name}.{key}"
    assert resolved.online.warmup_steps == "auto"  # it is ⌊√T⌋ of each variant's own steps


def test_reward_models_get_adapters_of_their_own() -> None:
    small = qwen(1024, 28, 16, 596_049_920, 151_936 * 1024)
    facts = Facts(POLICY, small, 48_908, 256, 512, 512, 80.0)
    resolved, _ = derive(load_config("paper"), facts)
    assert resolved.reward_adapter is not None
    assert (resolved.adapter.rank, resolved.reward_adapter.rank) == (64, 32)
    given, _ = derive(load_config("paper", ["reward_adapter={rank: 4, alpha: auto}"]), facts)
    assert given.reward_adapter is not None
    assert (given.reward_adapter.rank, given.reward_adapter.alpha) == (4, 8)
    shared, values = derive(load_config("micro", ["offline.clip=auto"]), facts)
    assert shared.reward_adapter is None  # nothing of the shared adapter is derived
    assert not [v for v in values if v.setting.startswith("reward_adapter")]


def test_variants_are_resolved_too() -> None:
    config = load_config("paper", ["online.learning_rate=1e-5", "variants.own={learning_rate: auto, steps: 400}"])
    assert needs_deriving(config)
    resolved, _ = derive(config, FACTS)
    assert resolved.variant("paper").learning_rate == 1e-5
    own = resolved.variant("own")
    assert own.learning_rate == pytest.approx(PAPER["online.learning_rate"], rel=1e-5)
    assert own.numbers(own.steps).warmup_steps == 20  # √400


def test_a_single_response_is_no_batch_online() -> None:
    tight = Facts(POLICY, REWARD, 48_908, 256, 512, 512, 12.0)  # 12 / 14.77 / 0.75 = 1.08: B = 1
    with pytest.raises(BetastarError) as error:
        derive(load_config("paper"), tight)
    assert str(error.value) == (
        "online.batch_size: Appendix C gives 1 (12 GiB, 14.8 billion parameters, 768 tokens), but the advantage "
        "compares the responses of a batch; set online.batch_size to at least 2."
    )
    resolved, _ = derive(load_config("paper", ["online.batch_size=2"]), tight)
    assert (resolved.online.batch_size, resolved.offline.batch_size) == (2, 1)


@pytest.mark.parametrize(
    ("override", "needed"),
    [
        ("name=micro", False),  # only warm-ups are auto, and they need no facts
        ("adapter.dropout=auto", True),
        ("reward_adapter={rank: auto}", True),
        ("rewards.weight_decay=auto", True),
        ("variants.fixed.batch_size=auto", True),
    ],
)
def test_what_needs_deriving(override: str, needed: bool) -> None:
    assert needs_deriving(load_config("micro", [override])) == needed


def test_a_resolved_configuration_has_the_same_settings_and_numbers_for_all() -> None:
    config = load_config("micro", ["reward_adapter={rank: 4, alpha: 8, dropout: 0.1}"])
    resolved = Resolved.of(config)
    assert resolved.model_dump() == config.model_dump()
    assert resolved.model_dump_json() == config.model_dump_json()
    adapter = config.adapter
    assert resolved.policy_adapter == (adapter.rank, adapter.alpha, adapter.dropout, adapter.target_modules)
    assert resolved.reward_model_adapter == (4, 8, 0.1, "attention")
    assert Resolved.of(load_config("micro")).reward_model_adapter == resolved.policy_adapter  # they share one


@pytest.mark.parametrize("override", ["adapter.dropout=auto", "variants.fixed.batch_size=auto"])
def test_what_says_auto_is_not_resolved(override: str) -> None:
    config = load_config("micro", [override])
    with pytest.raises(InternalError, match="before it was derived"):
        Resolved.of(config)
    with pytest.raises(InternalError, match="before it was derived"):
        Resolved.model_validate(config.model_dump())


@given(st.integers(1, 3000), st.integers(1, 64), st.floats(0.01, 3))
def test_steps_are_those_of_the_training_loop(pairs: int, batch: int, epochs: float) -> None:
    settings = Training(batch_size=batch, epochs=epochs)
    order = batches(np.random.default_rng(0), pairs, settings)
    assert training_steps(settings, pairs, batch) == len(order)


def test_the_record_says_what_was_used_and_why() -> None:
    config = load_config("paper", ["offline.clip=0.7"])
    resolved, values = derive(config, FACTS)
    record = hyperparameters(resolved, values)
    assert record["offline.clip"]["value"] == 0.7
    assert record["offline.clip"]["given"]
    assert record["adapter.dropout"] == {
        "value": 0.1,
        "appendix_c": 0.1,
        "formula": "B.2: 32/√n in 0.01…0.1",
        "inputs": {"n": 48_908},
        "raw": pytest.approx(0.14470, abs=5e-6),
        "clipped": "high",
        "given": False,
    }
    plain = hyperparameters(load_config("micro"), [])
    assert plain["offline.batch_size"] == {"value": 32}
    assert "reward_adapter.rank" not in plain


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.usefixtures("undrawn")
def test_the_configuration_left_by_a_run_repeats_it(tmp_path: Path) -> None:
    auto = "{batch_size: auto, learning_rate: auto, weight_decay: auto, clip: auto, epochs: 0.3}"
    settings = [
        *SMALL, *write_files(tmp_path), "adapter={rank: auto, alpha: auto, dropout: auto}", "seeds=[0]",
        f"rewards={auto}", f"offline={auto}", "online={learning_rate: auto, steps: 1}", "compute.memory_gb=0.005",
        "grid={method: list, values: [1]}", "variants.fixed=", "evaluation.problems=2", "lengths.generated=4",
    ]  # fmt: skip
    listener = Listener()
    first = pipeline.run(load_config("files", settings), tmp_path / "first", listener)
    assert "Appendix C: adapter: rank 8, alpha 16, dropout 0.1 (highest allowed)" in listener.said
    written = tmp_path / "first" / "config.yaml"
    left = yaml.safe_load(written.read_text())
    assert left["adapter"]["rank"] == left["reward_adapter"]["rank"] == 8  # √64 = 2^3
    assert not needs_deriving(load_config(str(written)))
    again = pipeline.run(load_config(str(written)), tmp_path / "again")
    derived = first.pop("hyperparameters")
    assert {name: row["value"] for name, row in again.pop("hyperparameters").items() if "warmup" not in name} == {
        name: row["value"] for name, row in derived.items() if "warmup" not in name
    }
    assert json.dumps(again) == json.dumps(first)
