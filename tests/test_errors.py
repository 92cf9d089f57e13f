"""Errors: one sentence to print, and its parts as fields."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from planning.test_derive import POLICY, REWARD

from betastar.disk import write_atomically
from betastar.errors import BetastarError, InternalError
from betastar.experiment.memory import Room, named_divergence, one_sentence_without_memory
from betastar.experiment.store import Store
from betastar.models.optimise import NotFiniteError
from betastar.planning.derive import Facts, derive
from betastar.progress import Reporter
from betastar.settings.config import load_config


def test_the_parts_make_the_sentence() -> None:
    error = BetastarError("is too long", where="task.train", remedy="leave it out")
    assert str(error) == "task.train: is too long; leave it out."
    assert (error.where, error.what, error.remedy) == ("task.train", "is too long", "leave it out")
    assert error.found == "task.train: is too long"
    assert str(BetastarError("out of memory", remedy="buy more")) == "out of memory; buy more."
    assert str(BetastarError("is a folder", where="a.json")) == "a.json: is a folder."


@pytest.mark.parametrize(
    ("sentence", "found", "remedy"),
    [
        ("a.json: is a folder; give a file.", "a.json: is a folder", "give a file"),
        ("a; b (c; d); e", "a; b (c; d)", "e"),  # the last semicolon, and no full stop
        ("nothing to do about it.", "nothing to do about it", ""),
        ("a.yaml: x: y; do this\na.yaml: z", "a.yaml: x: y; do this\na.yaml: z", ""),  # two faults, no one remedy
        ("", "", ""),
    ],
)
def test_a_sentence_given_whole_stays_as_it_is(sentence: str, found: str, remedy: str) -> None:
    error = InternalError(sentence)
    assert str(error) == sentence
    assert (error.where, error.what, error.found, error.remedy) == ("", found, found, remedy)


def test_a_copy_has_the_same_parts() -> None:
    error = BetastarError("is too long", where="task.train", remedy="leave it out")
    again = copy.copy(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def small_batch(folder: Path) -> None:
    derive(load_config("paper"), Facts(POLICY, REWARD, 48_908, 256, 512, 512, 12.0))


def no_preset(folder: Path) -> None:
    load_config("micor")


def no_file(folder: Path) -> None:
    load_config(str(folder / "none.yaml"))


def two_faults(folder: Path) -> None:
    load_config("micro", ["seeds=[]", "online.steps=0"])


def two_writers(folder: Path) -> None:
    with Store(folder), Store(folder):
        pass


def a_folder_for_a_file(folder: Path) -> None:
    (folder / "page.html").mkdir()
    write_atomically(folder / "page.html", b"")


def does_not_fit(size: int) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def one_sequence(folder: Path) -> None:
    Room(64, 1, Reporter()).for_tokens(64, does_not_fit)


def one_response(folder: Path) -> None:
    Room(64, 3, Reporter()).for_rows(3, does_not_fit)


def whole_stage(folder: Path) -> None:
    with one_sentence_without_memory("offline", 7):
        does_not_fit(0)


def divergence(folder: Path) -> None:
    with named_divergence("offline", 3, 9, ["beta-1-seed-0"]):
        raise NotFiniteError([0], [float("inf")])


@pytest.mark.parametrize(
    ("mistake", "where", "what", "remedy"),
    [
        (small_batch, "online.batch_size", "Appendix C gives 1", "set online.batch_size to at least 2"),
        (no_preset, "", "micor: neither a preset", "did you mean micro?"),
        (no_file, "", "none.yaml: no such file", "`betastar presets` lists the built-in presets"),
        (two_writers, "", "another betastar is writing", "wait for it or give another folder with out=…"),
        (a_folder_for_a_file, "", "page.html: is a folder", "give a file with out=…"),
        (one_sequence, "", "Out of memory with one sequence of 64 tokens", "lower lengths.prompt and lengths.response"),
        (one_response, "", "Out of memory while sampling", "lower lengths.generated or online.conditions_at_once"),
        (whole_stage, "offline", "out of memory with 7 conditions at once", "lower offline.conditions_at_once, or"),
        (divergence, "offline, step 3 of 9", "the training of beta-1-seed-0 has diverged", "lower offline.learning"),
    ],
)
def test_real_errors(mistake: Callable[[Path], None], where: str, what: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(BetastarError) as caught:
        mistake(tmp_path)
    error = caught.value
    assert error.where == where
    assert what in error.what
    assert error.remedy.startswith(remedy)
    assert str(error).rstrip(".") == f"{error.found}; {error.remedy}"


def test_several_faults_have_no_one_remedy(tmp_path: Path) -> None:
    with pytest.raises(BetastarError) as caught:
        two_faults(tmp_path)
    assert (caught.value.what, caught.value.remedy) == (str(caught.value), "")
    assert str(caught.value).count("\n") == 1
