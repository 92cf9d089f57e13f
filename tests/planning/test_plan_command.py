"""`betastar plan` as a user reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from experiment.test_files import SMALL, write_files
from typer.testing import CliRunner

from betastar.cli import app
from betastar.errors import BetastarError


def plan(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "200"})
    if done.exception is not None:
        raise done.exception
    return done.stdout


def local(folder: Path, *overrides: str) -> list[str]:
    return ["files", *(part for text in (*SMALL, *write_files(folder), *overrides) for part in ("--set", text))]


def test_a_preset_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    text = plan("paper", "--memory", "40", "--tokens", "256,512", "--json", str(tmp_path / "plan.json"))
    assert "V = 80 GiB: compute.memory_gb" in text  # the paper's batch sizes, whatever the machine
    assert "available: 40.0 GiB (a GPU): IT DOES NOT FIT" in text
    dropout = next(line for line in text.splitlines() if line.split()[:1] == ["adapter.dropout"])
    assert dropout.split()[1] == "0.1"
    assert "upper bound; unclipped 0.145" in dropout  # 32 / √48908
    for part in ("policy: NF4 layers", "adapters", "optimiser", "activations", "KV cache"):
        assert part in text
    assert "Time: not measured; run `betastar plan paper --probe` to measure it here." in text
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["memory"]["fits"] is False
    assert record["time"] is None


def test_a_probe_gives_every_stage_a_time(tmp_path: Path) -> None:
    lines = plan(*local(tmp_path), "--probe").splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split()[:1] == ["stage"])
    stages = [line for line in lines[heading + 2 :] if line.split()[:1] and line.split()[-1] in ("s", "min")]
    assert [line.split()[0] for line in stages] == [
        "rewards", "reference", "offline", "probe", "best_of_n", "online", "plasticity", "total"
    ]  # fmt: skip
    assert "Time: measured here (CPU, 1 threads)" in "\n".join(lines)


def test_what_no_context_holds_is_said_before_it_is_computed(tmp_path: Path) -> None:
    short = "base={source: random, geometry: {hidden_size: 64, heads: 2, key_value_heads: 1, context: 160}}"
    done = CliRunner().invoke(app, ["plan", *local(tmp_path, short)], env={"COLUMNS": "200"})
    words = "prompt and response take 176 tokens, but a model's context is 160; lower lengths.prompt"
    assert f"TOO LONG: {words}" in done.stdout
    assert isinstance(done.exception, BetastarError)  # printed by `main`, with exit code 2
    assert str(done.exception).startswith(f"files: {words}")
    assert "TOO LONG" not in plan(*local(tmp_path, short, "lengths.prompt=100"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper", "--tokens", "300"], "--tokens 300: write two whole numbers from 1"),
        (["paper", "--memory", "-1"], "--memory -1: must be a number above 0"),
        (["paper", "--memory", "80", "--probe"], "remove one of them"),
        (["paper", "--set", "compute.memory_gb=12"], "online.batch_size: Appendix C gives 1"),
        (["paper", "--json", "/no/such/folder/plan.json"], "not a file in an existing folder"),
    ],
)
def test_wrong_options_are_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(BetastarError, match=message) as error:
        plan(*arguments)
    assert "\n" not in str(error.value)
