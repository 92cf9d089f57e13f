"""The command line as a user meets it: in its own process, by exit code and text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from experiment.test_files import SMALL, write_files
from forked import Command, betastar

from betastar import api
from betastar.cli import main
from betastar.errors import BetastarError
from betastar.experiment.store import Store


def cold(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a Python that has loaded nothing yet."""
    command = [sys.executable, "-m", "betastar", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def files_run(folder: Path, *overrides: str) -> list[str]:
    settings = [part for text in (*SMALL, *write_files(folder), *overrides) for part in ("--set", text)]
    return ["run", "files", "--out", str(folder / "run"), *settings]


def test_help_answers_in_half_a_second() -> None:
    """Of CPU time: that is what it takes by the clock on a machine with nothing else to do."""
    times = []
    for _ in range(3):
        started = os.times()
        done = cold("--help")
        ended = os.times()
        times.append(ended.children_user + ended.children_system - started.children_user - started.children_system)
        assert done.returncode == 0
        assert "reward hacking" in done.stdout
    assert 0 < min(times) < 0.5


def test_the_version_is_printed() -> None:
    import betastar as package

    assert betastar("--version").stdout == f"betastar {package.__version__}\n"


def test_presets_are_listed_with_what_they_are() -> None:
    listed = betastar("presets").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [
        "algorithms",
        "files",
        "micro",
        "micro-quick",
        "mitigations",
        "objectives",
        "paper",
        "paper-strict",
        "qwen3-0.6b",
        "study-lists",
        "study-micro",
        "study-objectives",
        "study-style",
    ]
    assert all(len(line) > 30 for line in listed)
    columns = {len(line) - len(line.split(maxsplit=1)[1]) for line in listed}
    assert len(columns) == 1  # in which the descriptions begin


def test_config_prints_yaml_that_run_reads(tmp_path: Path) -> None:
    printed = betastar("config", "micro", "--set", "online.steps=7").stdout
    assert "steps: 7  # optimiser steps T" in printed
    (tmp_path / "mine.yaml").write_text(printed)
    assert betastar("config", str(tmp_path / "mine.yaml")).stdout == printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["online.stepz=4"], "--set online.stepz=4: unknown key; did you mean steps?"),
        (["grid={method: list, values: [0.1, 0]}"], "grid.values.1: input should be greater than 0 (given: 0)"),
        (["seeds=[]"], "--set seeds=[]: should have at least 1"),
    ],
)
def test_wrong_settings_are_one_sentence_and_exit_code_2(tmp_path: Path, overrides: list[str], message: str) -> None:
    done = betastar("run", "micro", "--out", str(tmp_path), *[p for o in overrides for p in ("--set", o)])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_broken_data_names_file_and_line(tmp_path: Path) -> None:
    write_files(tmp_path)
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines()
    command = files_run(tmp_path)
    for broken, message in (('{"prompt": ', "not valid JSON"), ('{"prompt": "x", "chosen": "y"}', "rejected")):
        (tmp_path / "pairs.jsonl").write_text("\n".join([*lines[:4], broken, *lines[5:]]))
        done = betastar(*command)
        assert done.returncode == 2
        assert "pairs.jsonl, line 5" in done.stderr.splitlines()[-1]
        assert message in done.stderr
        assert "or raise data.max_bad_share from 0" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for switch in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(switch, True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["betastar", *files_run(tmp_path, "task={preset: arc_challenge}")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1] == (
        "betastar: task.train: allenai/ai2_arc: the Hugging Face hub cannot be reached; connect to the internet, or "
        "give a local file in task.train."
    )
    assert "Traceback" not in printed


def test_a_locked_run_directory_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "run"):
        done = betastar(*files_run(tmp_path))
    assert done.returncode == 2
    assert "another betastar is writing to this run directory" in done.stderr


def test_a_run_prints_tables_conclusions_warnings_and_where_the_files_are(tmp_path: Path) -> None:
    done = betastar(*files_run(tmp_path))
    assert done.returncode == 0, done.stderr
    for text in ("variant paper: κ ∝ β", "variant fixed: κ = 0.003", "How sure? ", "regret, points", "Warning: "):
        assert text in done.stdout
    assert f"Files in {tmp_path}/run" in done.stdout
    assert f"Open {tmp_path}/run/report.html" in done.stdout
    assert "[11/14] online: 2/2 steps" in done.stderr


def test_clean_lists_first_and_deletes_when_told(tmp_path: Path) -> None:
    """Sizes by hand: 1 500 bytes are 1.5 kB, and 700 more are 2.2 kB."""
    damaged = tmp_path / "store" / "online" / ".damaged-0123456789abcdef-1"
    for name, size in (("online", 1500), ("offline", 700)):
        place = tmp_path / "store" / name / damaged.name
        place.mkdir(parents=True)
        (place / "weights").write_bytes(bytes(size))
    listed = betastar("clean", tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout == (
        f"    700 B  store/offline/{damaged.name}  (damaged, set aside)\n"
        f"   1.5 kB  store/online/{damaged.name}  (damaged, set aside)\n"
        "Results and checkpoints are kept: the run has not ended, or was made by an earlier version. Run it to its "
        "end, then clean again.\n"
        f"2.2 kB in 2 items. Nothing was deleted; `betastar clean {tmp_path} --yes` deletes it.\n"
    )
    assert (damaged / "weights").exists()
    assert betastar("clean", tmp_path, "--yes").stdout.endswith("Deleted 2.2 kB in 2 items.\n")
    assert not damaged.exists()
    assert betastar("clean", tmp_path).stdout.endswith("Nothing to delete.\n")


def test_interrupting_says_how_to_go_on(tmp_path: Path) -> None:
    running = Command(*files_run(tmp_path, "online.steps=500"))
    running.interrupt("] rewards:")
    done = running.done()
    assert done.returncode == 130, done
    assert "Stopped. Finished work is kept; continue with: betastar run files --out" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), KeyError("x")]
)
def test_running_out_of_memory_anywhere_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any other error of ours stays a traceback."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("betastar.api.load_config", fail)
    monkeypatch.setattr(sys, "argv", ["betastar", "plan"])
    if isinstance(error, KeyError):
        with pytest.raises(KeyError):
            main()
        return
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert printed == (
        "betastar: out of memory; lower compute.tokens_per_forward or compute.rows_per_decode, or leave out --probe\n"
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "micro", "--out", ""], "--out"),
        (["run", "micro", "--out="], "--out"),
        (["run", ""], "an argument"),
        (["report", ""], "an argument"),
        (["report", "runs/micro", "--out", ""], "--out"),
        (["analyze", "logs", "--out", ""], "--out"),
        (["analyze", "logs", "--proxy", ""], "--proxy"),
        (["compare", "a", "b", "--out="], "--out"),
        (["export", "runs/micro", "--out", ""], "--out"),
        (["plan", "micro", "--json", ""], "--json"),
        (["watch", ""], "an argument"),
        (["work", ""], "an argument"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    """As `--out "$UNSET"` leaves it."""
    monkeypatch.setattr("sys.argv", ["betastar", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"betastar: {named} is empty; give a value, or leave it out.\n"


def test_an_empty_path_is_not_the_current_folder_in_python_either() -> None:
    for call in (
        lambda: api.run("micro", out=""),
        lambda: api.analyze("logs", out=""),
        lambda: api.compare("a", "b", out=""),
    ):
        with pytest.raises(BetastarError, match=r"^out=… is empty; give a path, or leave it out\.$"):
            call()
