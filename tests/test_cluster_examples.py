"""The examples for clusters: files that parse, commands that are accepted, SLURM jobs in the right order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from betastar.cli import app

CLUSTER = Path(__file__).resolve().parents[1] / "examples" / "cluster"


def accepted(command: str) -> dict[str, Any]:
    """What the command line makes of a betastar command; it refuses unknown options."""
    program: Any = typer.main.get_command(app)
    tool, name, *rest = shlex.split(command)
    assert tool == "betastar"
    return program.commands[name].make_context(name, rest).params


@pytest.mark.parametrize("name", ["aws.yaml", "kuberay.yaml"])
def test_yaml_starts_a_run_on_its_own_cluster(name: str) -> None:
    text = (CLUSTER / name).read_text(encoding="utf-8")
    assert yaml.safe_load(text)
    (command,) = re.findall(r"betastar run [^\"\n]*", text)
    given = accepted(command)
    assert (given["engine"], given["address"]) == ("ray", "auto")
    assert given["store"].startswith("s3://")


def test_workers_of_the_yaml_have_a_gpu_each_and_heads_none() -> None:
    aws = yaml.safe_load((CLUSTER / "aws.yaml").read_text(encoding="utf-8"))
    kinds = aws["available_node_types"]
    assert kinds[aws["head_node_type"]]["resources"]["GPU"] == 0
    assert kinds["gpu"]["resources"]["GPU"] == 1
    ray = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text(encoding="utf-8"))["spec"]["rayClusterSpec"]
    (group,) = ray["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


FAKE = """#!/usr/bin/env bash
n=$(($(wc -l < "$LOG") + 1))
printf '%s\\n' "$*" >> "$LOG"
echo $n
"""


@pytest.fixture
def jobs(tmp_path: Path) -> list[str]:
    """The jobs that slurm.sh submits; each has its line number as its id."""
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(FAKE)
    fake.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}", "LOG": str(log)}
    subprocess.run(
        [CLUSTER / "slurm.sh", "paper-strict", "runs/x", "16", "--partition=gpu"], env=environment, check=True
    )
    return log.read_text().splitlines()


def test_slurm_submits_each_stage_after_what_it_needs(jobs: list[str]) -> None:
    names = [re.search(r"--job-name=betastar (\w+)", job) for job in jobs]
    place = {name[1]: i + 1 for i, name in enumerate(names) if name}
    needs = {
        name: set(re.findall(r"\d+", found[1])) if (found := re.search(r"afterok:([\d:]+)", jobs[i - 1])) else set()
        for name, i in place.items()
    }
    assert needs["opening"] == set()
    for stage, before in {
        "reference": ["opening"],
        "rewards": ["reference"],
        "offline": ["reference"],
        "probe": ["rewards", "offline"],
        "online": ["probe"],
        "plasticity": ["online"],
    }.items():
        assert needs[stage] == {str(place[name]) for name in before}
    assert {str(place[name]) for name in ("online", "best_of_n", "plasticity")} <= needs["analysis"]
    assert all("--partition=gpu" in job and "--gpus=1" in job for job in jobs)
    for job in jobs:
        for command in job.split("--wrap=")[1].split(" && "):
            accepted(command.replace("$SLURM_ARRAY_TASK_ID", "3"))
    assert sum("--array=0-15" in job for job in jobs) == 7


@pytest.mark.parametrize("name", ["one_host.sh", "slurm.sh"])
def test_scripts_are_valid(name: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)
    assert os.access(CLUSTER / name, os.X_OK)
