"""Datasets of the hub, asked for over HTTP from a small hub on this machine: rows, commits, the cache, and every error.

The libraries read the hub's address and whether to use it when they are first imported, so each case of those has its
own process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data.fake_hub import COMMIT, serving

from betastar.data.sources import may_be_kept

SCRIPT = """
import json, sys
from betastar.data.sources import open_rows
from betastar.errors import BetastarError
from betastar.settings.sections import DatasetSource

for settings in json.load(sys.stdin):
    try:
        rows = open_rows(DatasetSource(**settings), "task.train")
        result = {"name": rows.name, "digest": rows.digest, "rows": list(rows.read())}
    except BetastarError as error:
        result = str(error)
    print(json.dumps(result))
"""
SUMS = {"dataset": "someone/sums", "name": "main"}


def opened(settings: list[dict[str, Any]], home: Path, **environment: str) -> tuple[list[Any], str]:
    """What a process of its own says of each source, and what it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(settings),
        env=os.environ | {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def sums(configuration: str, split: str) -> list[dict[str, Any]]:
    return [{"question": f"{configuration} {split} {i}", "choices": {"text": ["a"], "label": ["A"]}} for i in range(3)]


def made_datasets(root: Path) -> None:
    repository = root / "someone" / "sums"
    settings = []
    for configuration in ("main", "socratic"):
        (repository / configuration).mkdir(parents=True)
        parts = [f"  - {{split: {split}, path: {configuration}/{split}.jsonl}}\n" for split in ("train", "test")]
        settings.append(f"- config_name: {configuration}\n  data_files:\n{''.join(parts)}")
        for split in ("train", "test"):
            rows = "".join(json.dumps(row) + "\n" for row in sums(configuration, split))
            (repository / configuration / f"{split}.jsonl").write_text(rows)
    (repository / "README.md").write_text(f"---\nconfigs:\n{''.join(settings)}---\n")
    for name, file, text in (("script", "script.py", "1 / 0"), ("empty", "notes.md", "x"), ("broken", "a.jsonl", "{")):
        (root / "someone" / name).mkdir()
        (root / "someone" / name / "README.md").write_text("---\nlicense: mit\n---\n")
        (root / "someone" / name / file).write_text(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Every case asked of the hub in one process, by a name."""
    root = tmp_path_factory.mktemp("hub")
    made_datasets(root)
    cases: dict[str, dict[str, Any]] = {
        "train": SUMS,
        "test": SUMS | {"split": "test"},
        "commit": SUMS | {"revision": COMMIT},
        "slice": SUMS | {"split": "train[:1]"},
        "no name": {"dataset": "someone/sums"},
        "other name": SUMS | {"name": "x"},
        "other split": SUMS | {"split": "dev"},
        "other revision": SUMS | {"revision": "v2"},
        "gated": {"dataset": "someone/gated"},
        "nobody's": {"dataset": "someone/none"},
        "script": {"dataset": "someone/script"},
        "empty": {"dataset": "someone/empty"},
        "broken": {"dataset": "someone/broken"},
    }
    with serving(root) as address:
        results, error = opened(list(cases.values()), home, HF_ENDPOINT=address)
    return dict(zip(cases, results, strict=True)), error


def test_rows_come_with_the_commit_as_digest(online: tuple[dict[str, Any], str]) -> None:
    found, error = online
    train = {"name": "someone/sums (main, train)", "digest": COMMIT}
    assert found["train"] == train | {"rows": [[i + 1, row] for i, row in enumerate(sums("main", "train"))]}
    assert [row for _, row in found["test"]["rows"]] == sums("main", "test")
    assert found["commit"] == found["train"]
    assert [row for _, row in found["slice"]["rows"]] == sums("main", "train")[:1]
    assert error == ""


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (
            "no name",
            "task.train: someone/sums has several configurations; set task.train.name to one of main, socratic.",
        ),
        (
            "other name",
            "task.train: someone/sums has no configuration x; set task.train.name to one of main, socratic.",
        ),
        ("other split", "task.train: someone/sums has no split dev; set task.train.split to one of train, test."),
        (
            "other revision",
            "task.train: someone/sums has no revision v2; correct or remove task.train.revision.",
        ),
        (
            "gated",
            "task.train: someone/gated is gated; ask for access at https://huggingface.co/datasets/someone/gated, then "
            "log in with `hf auth login`.",
        ),
        (
            "nobody's",
            "task.train: someone/none is neither a local file or folder nor a public dataset on the Hugging Face "
            "hub; correct the name, or log in with `hf auth login` if it is private.",
        ),
        (
            "script",
            "task.train: someone/script uses a loading script, which betastar does not run; set task.train.revis",
        ),
        ("empty", "task.train: someone/empty has no readable data files ("),
        ("broken", "task.train: someone/broken cannot be loaded (DatasetGenerationError: "),
    ],
)
def test_every_error_is_one_sentence_with_its_remedy(
    online: tuple[dict[str, Any], str], case: str, sentence: str
) -> None:
    assert online[0][case].startswith(sentence)
    assert "\n" not in online[0][case]


def test_without_the_hub_what_was_loaded_before_is_found_again(online: tuple[dict[str, Any], str], home: Path) -> None:
    cases = [
        SUMS,
        SUMS | {"revision": COMMIT},
        SUMS | {"revision": "v2"},
        SUMS | {"name": "socratic"},
        {"dataset": "someone/new"},
    ]
    found, error = opened(cases, home, HF_HUB_OFFLINE="1")
    assert found[:2] == [online[0]["train"]] * 2
    assert found[2:] == [
        "task.train: the hub cannot be reached, and revision v2 of someone/sums is not the one cached here "
        f"({COMMIT}); connect, or set revision to that.",
        "task.train: someone/sums: configuration socratic is not cached (cached: main); connect to download it.",
        "task.train: someone/new: the Hugging Face hub cannot be reached; connect, or give a local file in task.train.",
    ]
    assert error == ""


@pytest.mark.slow
def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    """Port 9 of this machine refuses; the libraries try again for some 25 s."""
    found, error = opened([SUMS], tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert found == [
        "task.train: someone/sums: the Hugging Face hub cannot be reached; connect, or give a local file in task.train."
    ]
    assert error == ""


def test_a_dataset_that_was_loaded_may_be_kept(
    online: tuple[dict[str, Any], str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the library itself has left it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(home / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "none"))
    assert may_be_kept("someone/sums")
    assert not may_be_kept("nobody/sums")


def test_a_dataset_that_was_never_loaded_is_known_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    assert not may_be_kept("openai/gsm8k")
    (tmp_path / "hub" / "datasets--openai--gsm8k").mkdir(parents=True)
    assert may_be_kept("openai/gsm8k")
    assert not may_be_kept("openai/other")
    (tmp_path / "datasets" / "rajpurkar___squad_v2").mkdir(parents=True)
    assert may_be_kept("rajpurkar/SquadV2")  # the library writes names in its own way
    assert may_be_kept("squad")
    assert not may_be_kept("openai/other")
