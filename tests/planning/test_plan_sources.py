"""Plans read configurations and local data, and say where each input comes from; the network is not needed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from experiment.test_files import SMALL, write_files

from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.models.support import model_facts
from betastar.planning import sources
from betastar.planning.plan import make_plan
from betastar.settings.config import load_config
from betastar.settings.sections import PretrainedBase


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a plan opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("model", "billions", "context"),
    [("Qwen/Qwen3-14B", 14.8, 40_960), ("Qwen/Qwen3-1.7B", 1.7, 40_960), ("Qwen/Qwen3-0.6B", 0.6, 40_960)],
)
def test_the_shipped_geometry_has_the_published_number_of_parameters(
    model: str, billions: float, context: int, no_network: None
) -> None:
    config = sources.model_config(PretrainedBase(source="pretrained", model=model), load_config("micro"))
    facts = model_facts(config, "attention")
    assert facts.parameters / 1e9 == pytest.approx(billions, abs=0.05)
    assert facts.context == context
    assert len(facts.adapted) == 4 * facts.layers  # query, key, value and output projections


@pytest.mark.parametrize("preset", ["paper", "paper-strict", "qwen3-0.6b", "micro"])
def test_presets_are_planned_without_a_network(preset: str, no_network: None, tmp_path: Path) -> None:
    made = make_plan(load_config(preset), folder=tmp_path)
    assert all(phase.total > 0 for phase in made.phases)
    assert [stage.name for stage in made.stages][-2:] == ["online", "plasticity"]


def test_published_sizes_and_assumed_lengths(tmp_path: Path) -> None:
    pairs, tokens = sources.data(load_config("paper"), None, None, tmp_path)
    assert pairs == (48_908, "80 % of 61135 rows of HuggingFaceH4/ultrafeedback_binarized")
    assert tokens == (256, 512, 512, "assumed; set them with --tokens PROMPT,RESPONSE")
    small, _ = sources.data(load_config("qwen3-0.6b"), None, None, tmp_path)
    assert small.train == 8_000
    unknown = load_config("files", ["preferences={kind: dataset, source: someone/else}"])
    with pytest.raises(BetastarError, match=r"preferences\.source: the number of pairs in someone/else is unknown"):
        sources.data(unknown, None, None, tmp_path)
    assert sources.data(unknown, (5, 6), 70, tmp_path)[0].train == 70


def test_what_the_user_says_and_what_is_configured(tmp_path: Path) -> None:
    config = load_config("paper", ["lengths.generated=300"])
    assert sources.data(config, (100, 200), 5, tmp_path) == ((5, "as given"), (100, 200, 300, "as given"))
    _, tokens = sources.data(load_config("micro"), (100, 200), None, tmp_path)
    assert tokens == (48, 40, 40, "as configured")  # a number in the settings is not overruled


@pytest.mark.thorough
def test_local_data_are_counted_as_the_run_counts_them(tmp_path: Path) -> None:
    settings = [
        *SMALL, *write_files(tmp_path), "lengths={prompt: auto, response: auto, generated: 4}", "seeds=[0]",
        "grid={method: list, values: [1]}", "variants.fixed=", "online.steps=1", "evaluation.problems=2",
        "rewards.epochs=0.1", "offline.epochs=0.1",
    ]  # fmt: skip
    config = load_config("files", settings)
    before = sources.data(config, None, None, tmp_path / "run")
    assert before[0].source == before[1].source == f"counted in {tmp_path}/pairs.jsonl"
    results = pipeline.run(config, tmp_path / "run")
    after = sources.data(config, None, None, tmp_path / "run")
    assert after[0].source == after[1].source == f"as in {tmp_path}/run"
    assert after[0].train == before[0].train == 79 - sum(results["rewards"][p]["pairs"] for p in ("validation", "test"))
    assert after[1][:3] == before[1][:3]
    assert after[1].prompt == results["data"]["lengths"]["prompt"]
    fewer = f"preferences={{kind: dataset, source: {{dataset: {tmp_path}/pairs.jsonl, limit: 60}}}}"
    other = sources.data(load_config("files", [*settings, fewer]), None, None, tmp_path / "run")
    assert other[0].source == f"counted in {tmp_path}/pairs.jsonl"  # the run in that folder had other data


def test_local_pairs_are_counted_also_for_a_model_that_is_not_here(tmp_path: Path, no_network: None) -> None:
    local = [*write_files(tmp_path), "base.model=Qwen/Qwen3-0.6B"]
    pairs, tokens = sources.data(load_config("files", local), None, None, tmp_path)
    assert pairs.source == f"counted in {tmp_path}/pairs.jsonl"
    assert 50 < pairs.train < 79  # of 80 pairs one prefers nothing, and a fifth is held out
    assert tokens.source.startswith("assumed")
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(BetastarError, match=r"pairs\.jsonl: no such file; correct preferences\.source"):
        sources.data(load_config("files", local), None, None, tmp_path)


def test_local_problems_are_counted_and_missing_ones_named(tmp_path: Path) -> None:
    local = [*write_files(tmp_path), "evaluation.problems=1000"]
    assert sources.problems(load_config("files", local)) == 30
    assert sources.problems(load_config("files", [*local, "task.test.limit=7"])) == 7
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(BetastarError, match=r"train\.jsonl: no such file; correct task\.train"):
        sources.problems(load_config("files", local))


def test_problems_are_not_more_than_there_are() -> None:
    assert sources.problems(load_config("micro", ["evaluation.problems=1000"])) == 400
    assert sources.problems(load_config("paper", ["evaluation.problems=5000"])) == 1_319
    assert sources.problems(load_config("paper")) == 200
