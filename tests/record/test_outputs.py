"""What no command writes over: a run's own files, a record by any name, and what a person had there before."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from report.records import record, run_folder

from betastar.cli import main
from betastar.errors import BetastarError
from betastar.experiment.store import Store
from betastar.record.outputs import KEPT, check_analysis_folder, check_file, check_run_folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, with a file of every name that it keeps, and an artefact."""
    folder = run_folder(tmp_path / "run", {"plain": "text"})
    for name in KEPT:
        (folder / name).touch()
    (folder / "adapters").mkdir()
    (folder / "store" / "base" / "0" / "weights").write_text("1 2 3")
    return folder


def refused(*arguments: str | Path) -> None:
    """A command in this process ends as a user's mistake does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["betastar", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2


NAMES = [*KEPT, "store/base/0/weights", "store/new.txt", "adapters/new.txt"]
COMMANDS: list[Callable[[Path, Path], list[str | Path]]] = [
    lambda run, file: ["report", run, "--out", file],
    lambda run, file: ["export", run, "--out", file],
    lambda run, file: ["plan", "micro", "--json", file],
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", COMMANDS, ids=["report", "export", "plan"])
def test_no_command_writes_over_a_runs_own_files(run: Path, name: str, command, capsys) -> None:
    before = contents(run)
    refused(*command(run, run / name))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "would overwrite what a run keeps" in said or "which belongs to a run; choose another file" in said
    assert contents(run) == before


@pytest.mark.parametrize("command", COMMANDS, ids=["report", "export", "plan"])
@pytest.mark.parametrize("way", ["copy", "comparison", "link", "folder", "pipe", "device", "loop", "long", "empty"])
def test_a_record_by_any_name_and_what_is_no_file_are_refused(
    run: Path, tmp_path: Path, way: str, command, capsys
) -> None:
    target = tmp_path / "out.json"
    {
        "copy": lambda: target.write_bytes((run / "results.json").read_bytes()),
        "comparison": lambda: target.write_text(json.dumps({"comparison_version": 1})),
        "link": lambda: target.symlink_to(run / "results.json"),
        "folder": target.mkdir,
        "pipe": lambda: os.mkfifo(target),
        "device": lambda: target.symlink_to("/dev/null"),
        "loop": lambda: target.symlink_to(target),
        "long": lambda: None,
        "empty": lambda: None,
    }[way]()
    given = {"long": tmp_path / ("x" * 300), "empty": ""}.get(way, target)
    before = contents(run)
    refused(*command(run, given))
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("betastar: ")
    assert contents(run) == before


def test_a_comparison_replaces_a_comparison_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"comparison_version": 1}')
    assert check_file(file, "out", replaces="comparison") == file
    file.write_text('{ "schema_version": 4}')
    with pytest.raises(BetastarError, match="would overwrite the record of a run or an analysis"):
        check_file(file, "out", replaces="comparison")
    file.write_text("[1, 2]")
    assert check_file(file, "out") == file  # named by the user, and no record


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "samples.jsonl", "report.html"])
def test_an_analysis_writes_over_no_logs(tmp_path: Path, name: str) -> None:
    """`betastar analyze logs --out logs`, where the log is called as the analysis would be."""
    (tmp_path / name).write_text('{"step": 0, "reward": 1}\n')
    with pytest.raises(BetastarError, match=rf"{name} was there before and would be overwritten; name another folder"):
        check_analysis_folder(tmp_path)


def test_an_analysis_writes_over_an_analysis_but_no_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "results.json").write_text(json.dumps({**record(), "source": {}}))
    check_analysis_folder(tmp_path)
    with pytest.raises(BetastarError, match="holds an analysis; name another folder"):
        check_run_folder(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(record()))
    with pytest.raises(BetastarError, match="holds the results of a run; name another folder"):
        check_analysis_folder(tmp_path)
    (tmp_path / "results.json").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    with Store(tmp_path):  # a run that has just begun
        with pytest.raises(BetastarError, match="holds the results of a run"):
            check_analysis_folder(tmp_path)
        check_run_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "report.html", "figures/mine.png", "adapters/mine/x"])
def test_a_run_begins_in_no_folder_where_it_would_overwrite(tmp_path: Path, name: str) -> None:
    """As with `betastar run exp/config.yaml --out exp`, which would replace the settings, comments and all."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(BetastarError, match=rf"{name.split('/')[0]} was there before and would be overwritten"):
        check_run_folder(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(record()))  # a run whose store was deleted to save space
    check_run_folder(tmp_path)


FOLDERS, FILES = ("figures", "adapters", "store"), ("results.json", "status.json")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in FOLDERS for kind in ("file", "pipe", "link to nowhere")),
        *((name, kind) for name in FILES for kind in ("folder", "pipe", "link to nowhere")),
    ],
)
def test_what_is_of_another_kind_than_a_run_needs_is_refused_before_training(
    tmp_path: Path, name: str, kind: str
) -> None:
    run_folder(tmp_path, {"plain": "text"})
    place = tmp_path / name
    if place.is_dir():
        place.rename(tmp_path / "away")
    place.unlink(missing_ok=True)
    {
        "file": place.touch,
        "folder": place.mkdir,
        "pipe": lambda: os.mkfifo(place),
        "link to nowhere": lambda: place.symlink_to("nowhere"),
    }[kind]()
    with pytest.raises(BetastarError, match=rf"{name}: not a (folder|regular file); remove it, or name another folder"):
        check_run_folder(tmp_path)
