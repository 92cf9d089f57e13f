"""Online algorithms in the bank: the paper's loss either way, several answers and epochs, and couplings of the KL."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from experiment.test_pipeline import TINY

from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.settings.config import load_config
from betastar.settings.phases import Kl, Online

pytestmark = pytest.mark.usefixtures("undrawn")

FEW = (
    "seeds=[0]",
    "grid={method: list, values: [0.3]}",
    "offline.evaluate_every=null",
    "evaluation.best_of=0",
    "evaluation.plasticity=0",
    "evaluation.answers=1",
    "online.learning_rate=0.01",
    "variants={paper: null, fixed: null, eq8: {kl: {coupling: fixed, kappa: 0.05}}, OTHERS}",
)
GROUPED = "batch_size: 2, answers_per_prompt: 3, "
VARIANTS = {
    # The same batches as eq8's, so that they share its bank and put it on the general path.
    "target": "{kl: {coupling: target, kappa: 0.1, target: 0.001, horizon: 10, place: loss_k3}}",
    "more": "{kl: {coupling: uncertainty, kappa: 0.1, power: -1}}",
    "less": "{kl: {coupling: uncertainty, kappa: 0.1, power: 1}}",
    "warm": "{proxy: {members: standardised, aggregate: merged}, kl: {coupling: fixed, kappa: 0.05}}",
    "par": "{proxy: {shape: par, references: 2, length_penalty: 0.01}, kl: {coupling: fixed, kappa: 0.05}}",
    "stop": "{act: {method: stop}, kl: {coupling: fixed, kappa: 0.05}}",
    "grpo": f"{{{GROUPED}advantage: grpo, length_normalisation: response_mean, epochs_per_batch: 2, clip_low: 0.2, "
    "clip_high: 0.28, kl: {coupling: fixed, place: loss_k3, kappa: 0.02}}",
    "rloo": f"{{{GROUPED}advantage: rloo, kl: {{coupling: fixed, place: reward, kappa: 0.02}}}}",
}


def run(folder: Path, variants: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The training log of each variant's only condition."""
    others = ", ".join(f"{name}: {text}" for name, text in variants.items())
    pipeline.run(
        load_config("micro", [*TINY, *(o.replace(", OTHERS", f", {others}" if others else "") for o in FEW)]), folder
    )
    logs = (folder / "store" / "online").glob("*/*/training.jsonl")
    return {p.parent.name.split("-")[0]: [json.loads(line) for line in p.read_text().splitlines()] for p in logs}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "run", lambda ctx, results: None)
        return run(tmp_path_factory.mktemp("run"), VARIANTS)


@pytest.mark.thorough
def test_the_papers_loss_is_the_same_on_either_path(logs: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Alone eq8 takes the loss of whole responses; beside GRPO's penalty, sums over single tokens."""
    alone = run(tmp_path, {})["eq8"]
    assert len(alone) == 4
    for ours, theirs in zip(logs["eq8"], alone, strict=True):
        for name in ("proxy", "gradient_norm", "mean_abs_log_ratio", "response_tokens"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), (name, ours["step"])


@pytest.mark.thorough
def test_kappa_is_adapted_towards_the_target(logs: dict[str, list[dict[str, Any]]]) -> None:
    """By at most a fifth times 4 responses of a horizon of 10 at a step; KL is 0 at first, so it falls then."""
    kappas = [row["kappa"] for row in logs["target"]]
    assert kappas[0] == pytest.approx(0.1)
    assert kappas[1] == pytest.approx(0.1 * (1 - 0.2 * 4 / 10), rel=1e-3)
    for before, after in pairwise(kappas):
        assert abs(after / before - 1) <= 0.2 * 4 / 10 + 1e-5


def test_the_two_signs_of_uncertainty_are_each_others_inverse(logs: dict[str, list[dict[str, Any]]]) -> None:
    start = logs["more"][0]["disagreement"]
    for name, power in (("more", -1), ("less", 1)):
        for row in logs[name]:
            assert row["kappa"] == pytest.approx(0.1 * (start / row["disagreement"]) ** power, rel=1e-4)
    assert logs["more"][0]["kappa"] == pytest.approx(0.1)


def test_several_answers_and_epochs_train(logs: dict[str, list[dict[str, Any]]]) -> None:
    """Two updates on each batch move the policy before the second step, as one does; the penalties are as set."""
    for name in ("grpo", "rloo"):
        assert [row["kappa"] for row in logs[name]] == pytest.approx([0.02] * 4)
        assert logs[name][0]["mean_abs_log_ratio"] == pytest.approx(0, abs=1e-3)
        assert logs[name][-1]["mean_abs_log_ratio"] > 1e-3
        assert all(row["gradient_norm"] > 0 for row in logs[name])


def test_what_is_maximised_is_logged_beside_the_mean(logs: dict[str, list[dict[str, Any]]]) -> None:
    """PAR is a probability less 0.01 per token inside; before the first update its responses are as good as the
    checkpoint's own, so it is about a half."""
    for row in logs["par"]:
        assert 0 < row["reward"] < 1
    assert logs["par"][0]["reward"] == pytest.approx(0.5, abs=0.25)
    assert logs["par"][0]["proxy"] == pytest.approx(logs["eq8"][0]["proxy"], rel=1e-4)
    assert logs["eq8"][0]["reward"] == pytest.approx(logs["eq8"][0]["proxy"], rel=1e-5)
    assert logs["warm"][0]["reward"] != pytest.approx(logs["warm"][0]["proxy"], rel=1e-3)


def test_without_an_alarm_nothing_is_done(logs: dict[str, list[dict[str, Any]]]) -> None:
    """Two evaluations of eight problems cannot tell anything from noise; the condition trains as eq8 does."""
    assert [row["stopped"] for row in logs["stop"]] == [False] * 4
    for ours, theirs in zip(logs["stop"], logs["eq8"], strict=True):
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)


def test_settings_of_the_paper_keep_their_content_key() -> None:
    numbers = {"batch_size", "learning_rate", "weight_decay", "clip", "warmup_steps"}
    assert set(Online().model_dump()) == numbers | {"steps", "temperature", "prompt_split", "kl", "conditions_at_once"}
    assert set(Online().model_dump()["kl"]) == {"coupling", "percentile", "kappa"}
    assert set(Kl(place="none").model_dump()) == {"coupling", "percentile", "kappa", "place"}


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        (
            "{advantage: rloo}",
            "advantage rloo compares the answers to a prompt; set answers_per_prompt to at least 2, or",
        ),
        (
            "{advantage: grpo}",
            "advantage grpo compares the answers to a prompt; set answers_per_prompt to at least 2, or",
        ),
        ("{batch_size: 1}", "batch_size must be at least 2, because the advantage compares the responses in a batch"),
        (
            "{kl: {place: reward}}",
            ".kl: coupling paper (Eq. 10) is for place loss_square, not reward; choose fixed, tar",
        ),
        ("{kl: {coupling: target}}", ".kl: coupling target needs target, for example target: 1.0"),
        ("{kl: {coupling: fixed, target: 1}}", ".kl: coupling fixed does not use target; set coupling: target or rem"),
        ("{kl: {coupling: uncertainty, kappa: 0}}", ".kl: coupling uncertainty multiplies kappa, which must be above"),
        ("{clip_low: 1.5}", ".clip_low: input should be less than 1"),
    ],
)
def test_faults_are_one_sentence(variant: str, sentence: str) -> None:
    with pytest.raises(BetastarError) as error:
        load_config("micro", [f"variants.v={variant}"])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
