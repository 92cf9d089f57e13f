"""`betastar clean`: what nothing needs goes, what a record or an unfinished run needs stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from crashes import dies_at, live
from experiment.small import Listener, same_results, small

from betastar.disk import sealed, unsealed
from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.experiment.cleaning import DAMAGED, HALF, ORPHAN, OTHER, Cleaning, clean
from betastar.experiment.store import Store

KEY = "0123456789abcdef"
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def run(local: Path, tmp_path: Path) -> Path:
    """The small run, which has ended."""
    return Path(shutil.copytree(local, tmp_path / "run", symlinks=True))


def again(folder: Path, *overrides: str) -> list[str]:
    listener = Listener()
    pipeline.run(small(*overrides), folder, listener)
    return listener.said


def whats(found: Cleaning) -> dict[str, str]:
    return {str(item.path.name): item.what for item in found.removable}


@pytest.mark.thorough
def test_a_finished_run_needs_all_that_it_has_made(run: Path) -> None:
    assert clean(run, delete=True) == ([], "")


@pytest.mark.thorough
def test_results_of_other_settings_go_and_a_rerun_makes_nothing(run: Path, local: Path) -> None:
    before = live(run / "store")
    again(run, "online.learning_rate=0.003", "grid.values=[0.1, 1.0, 2.0]")
    again(run)  # the present record is of the first settings again
    found = clean(run)
    added = live(run / "store").keys() - before.keys()
    assert {item.what for item in found.removable} == {OTHER}
    assert {item.path.parent.name for item in found.removable} == {
        "offline", "online", "probe", "best_of_n", "offline_curve", "plasticity", "results",
    }  # fmt: skip
    files = [run / "store" / name for name in added if (run / "store" / name).is_file()]
    assert found.bytes == sum(path.stat().st_size for path in files)
    assert live(run / "store").keys() >= added  # nothing is deleted unless asked for
    assert clean(run, delete=True).removable == found.removable
    assert live(run / "store").keys() == before.keys()
    assert not [line for line in again(run) if line.split(":")[0] in pipeline.STAGES and "reused" not in line]
    assert same_results(run, local)


def test_what_died_or_was_damaged_goes(run: Path) -> None:
    store = run / "store"
    for folder in (store / "online" / f".damaged-{KEY}-1", store / "base" / f".{KEY}.elsewhere-1.tmp"):
        folder.mkdir()
        (folder / "half").write_text("x" * 100)
    old = store / "base" / f".{KEY}.elsewhere-1.tmp"
    os.utime(old, (0, 0))
    (store / "partial" / f"online-{KEY}").mkdir(parents=True)
    (store / "partial" / f"online-{KEY}" / "state-3.safetensors").write_text("x")
    (store / "partial" / f".online-{KEY}.parts.json").write_text("{}")
    own = [store / "mine", store / "online" / "mine", store / "partial" / "mine", run / ".mine.tmp", run / "notes.md"]
    for path in own:
        path.write_text("mine")
    (store / "online" / ("f" * 16)).symlink_to(run.parent)
    expected = {
        f".damaged-{KEY}-1": DAMAGED,
        f".{KEY}.elsewhere-1.tmp": HALF,
        f"online-{KEY}": ORPHAN,
        f".online-{KEY}.parts.json": ORPHAN,
    }
    assert whats(clean(run)) == expected
    assert whats(clean(run, delete=True)) == expected
    assert clean(run) == ([], "")
    assert all(path.read_text() == "mine" for path in own)
    assert run.parent.is_dir()


@pytest.mark.parametrize("begun", ["other settings", "the same"])
@pytest.mark.thorough
def test_an_unfinished_run_keeps_everything_that_it_may_go_on_from(run: Path, begun: str) -> None:
    config = small("online.steps=4") if begun == "other settings" else small()
    if begun == "the same":
        shutil.rmtree(run / "store" / "online")
    assert dies_at(lambda: pipeline.run(config, run), run, 120)
    before = live(run)
    assert list((run / "store" / "partial").iterdir())
    found = clean(run, delete=True)
    assert "has not ended" in found.unfinished
    assert {item.what for item in found.removable} <= {HALF}
    gone = before.keys() - live(run).keys()
    assert all(".tmp" in name for name in gone)
    again(run, *(["online.steps=4"] if begun == "other settings" else []))
    assert clean(run).unfinished == ""


def test_a_run_whose_artefact_is_gone_is_not_judged(run: Path) -> None:
    used = unsealed(run / "store" / "used.json")
    (run / "store" / "used.json").write_bytes(sealed({**used, "artefacts": [*used["artefacts"], f"base/{KEY}"]}))
    found = clean(run)
    assert found.removable == []
    assert found.unfinished == f"base/{KEY}, which the run has used, is missing"
    (run / "store" / "used.json").write_text("[]")
    assert clean(run).unfinished == "the run has not ended, or was made by an earlier version"


def test_a_run_under_way_and_a_folder_without_one_are_refused(run: Path, tmp_path: Path) -> None:
    with Store(run), pytest.raises(BetastarError, match="a betastar is writing to this run directory; wait for it"):
        clean(run, delete=True)
    with pytest.raises(BetastarError, match="nothing: no run directory; name a folder that `betastar run` wrote"):
        clean(tmp_path / "nothing")
