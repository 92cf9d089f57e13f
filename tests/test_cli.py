"""The command line as a user meets it: in its own process, by exit code and text."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_files import SMALL, write_files

from betastar.experiment.store import Store


def betastar(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "betastar", *arguments], capture_output=True, text=True, cwd=folder, timeout=120
    )


def files_run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    settings = [part for text in (*SMALL, *write_files(folder), *overrides) for part in ("--set", text)]
    return betastar("run", "files", "--out", str(folder / "run"), *settings)


def test_help_answers_in_half_a_second() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = betastar("--help")
        times.append(time.perf_counter() - started)
        assert done.returncode == 0
        assert "reward hacking" in done.stdout
    assert min(times) < 0.5


def test_the_version_is_printed() -> None:
    import betastar as package

    assert betastar("--version").stdout == f"betastar {package.__version__}\n"


def test_presets_are_listed_with_what_they_are() -> None:
    listed = betastar("presets").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [
        "files",
        "micro",
        "micro-quick",
        "paper",
        "paper-strict",
        "qwen3-0.6b",
    ]
    assert all(len(line) > 30 for line in listed)


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
        (["seeds=[]"], "--set seeds=[]: should hold"),
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
    settings = [part for text in (*SMALL, *write_files(tmp_path)) for part in ("--set", text)]
    for broken, message in (('{"prompt": ', "not valid JSON"), ('{"prompt": "x", "chosen": "y"}', "rejected")):
        (tmp_path / "pairs.jsonl").write_text("\n".join([*lines[:4], broken, *lines[5:]]))
        done = betastar("run", "files", "--out", str(tmp_path / "run"), *settings)
        assert done.returncode == 2
        assert "pairs.jsonl, line 5" in done.stderr.splitlines()[-1]
        assert message in done.stderr
        assert "or raise data.max_bad_share, now 0" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    done = files_run(tmp_path, "task={preset: arc_challenge}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "betastar: task.train: allenai/ai2_arc: the Hugging Face hub cannot be reached; connect, or give a local file "
        "in task.train."
    )
    assert "Traceback" not in done.stderr


def test_a_locked_run_directory_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "run"):
        done = files_run(tmp_path)
    assert done.returncode == 2
    assert "another betastar is writing to this run directory" in done.stderr


def test_a_run_prints_tables_conclusions_warnings_and_where_the_files_are(tmp_path: Path) -> None:
    done = files_run(tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("variant paper: κ ∝ β", "variant fixed: κ = 0.003", "AUGC standardised", "No β★: ", "Warning: "):
        assert text in done.stdout
    assert f"Files in {tmp_path}/run" in done.stdout
    assert f"Open {tmp_path}/run/report.html" in done.stdout
    assert "[9/11] online: 2/2 steps" in done.stderr


def test_interrupting_says_how_to_go_on(tmp_path: Path) -> None:
    import signal

    settings = [part for text in (*SMALL, "online.steps=500", *write_files(tmp_path)) for part in ("--set", text)]
    command = [sys.executable, "-m", "betastar", "run", "files", "--out", str(tmp_path / "run"), *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if "] rewards:" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (seen, out, err)
    assert "Stopped. Finished work is kept; continue with: betastar run files --out" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error", ["MemoryError()", "RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "KeyError('x')"]
)
def test_running_out_of_memory_anywhere_is_one_sentence(error: str) -> None:
    """Any other error of ours stays a traceback."""
    code = (
        "import sys, torch, betastar.settings.config, betastar.cli as cli\n"
        f"def fail(*_): raise {error}\n"
        "betastar.settings.config.load_config = fail\n"
        "sys.argv = ['betastar', 'config']\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if error.startswith("KeyError"):
        assert "Traceback" in done.stderr
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("betastar: out of memory; lower online.conditions_at_once")
        assert done.stderr.count("\n") == 1
