"""`betastar work`, `betastar run --engine ray` and `betastar plan --workers` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment.small import SMALL
from forked import betastar


def test_a_shell_begins_a_run_lists_what_is_ready_and_makes_it(tmp_path: Path) -> None:
    run, settings = tmp_path / "run", [part for override in SMALL for part in ("--set", override)]
    nothing = betastar("work", run)
    assert nothing.returncode == 2
    assert nothing.stderr == (
        f"betastar: {run}: no run has been begun here; begin one with `betastar work RUN --source PRESET`.\n"
    )
    assert betastar("work", run, "--source", "micro", *settings).stdout == "opening\n"
    assert betastar("work", run, "opening").returncode == 0
    listed = betastar("work", run, "--workers", "2").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["reference", "rewards", "rewards"]
    assert all(len(line.split()) == 2 for line in listed[1:])
    made = betastar("work", run, *listed[1].split())
    assert made.returncode == 0, made.stderr
    assert betastar("work", run, "--workers", "2").stdout.splitlines() == [listed[0], listed[2]]
    unknown = betastar("work", run, "rewards", "0123")
    assert unknown.returncode == 2
    assert "rewards: 0123 is not a part of it; `betastar work RUN` lists what is ready to be made." in unknown.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("work", "x", "--share", "16/16"), "--share 16/16: write I/N with I from 0 to N − 1, as in --share 0/16."),
        (("work", "x", "--share", "1"), "--share 1: write I/N with I from 0 to N − 1, as in --share 0/16."),
        (("work", "x", "--set", "seeds=[0]"), "--set needs --source: settings are given once, when the run is begun."),
        (("run", "--workers", "2"), "--address and --workers need --engine ray; add it, or leave them out."),
        (
            ("run", "--engine", "ray", "--store", "nofs://x"),
            "store: nofs://x is not an address of a store (Protocol not known: nofs); write s3://BUCKET/PATH.",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    done = betastar(*words, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"betastar: {sentence}"
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_plan_says_how_the_work_is_cut(tmp_path: Path) -> None:
    text = betastar("plan", "micro", "--workers", "4", folder=tmp_path).stdout
    assert "Pieces of work for 4 workers" in text
    assert "Schedule: not simulated; --probe measures what a stage costs." in text
