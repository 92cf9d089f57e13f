"""What a run left, torn, edited or foreign: a reader says one sentence that names the file, or reads what is sound."""

from __future__ import annotations

import copy
import io
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report.records import record, run_folder
from rich.console import Console

from betastar.api import load, look, picture
from betastar.errors import BetastarError
from betastar.live.status import Status
from betastar.record.files import read_comparison, read_results, read_rows, read_run, read_settings
from betastar.report.card import card

WRONG: list[Any] = [
    None,
    "x",
    "",
    -1,
    0,
    1.5,
    [],
    {},
    True,
    [[]],
    float("nan"),
    float("inf"),
    "inf",
    "\ud83d",
    10**400,
    {"a": 1},
    "\x1b[31m",
    -1e308,
]
TEXTS = {
    "list": "[]",
    "number": "3",
    "null": "null",
    "text": '"x"',
    "deep list": "[" * 10_000 + "]" * 10_000,
    "deep object": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "torn": '{"schema_version": 4, "na',
    "empty": "",
    "1e400": '{"schema_version": 4, "step": 0, "proxy": 1e400}',
    "5000 digits": f'{{"schema_version": 4, "step": {"9" * 5000}}}',
    "400 digits": f'{{"schema_version": 4, "step": {"9" * 400}}}',
    "NUL": "\0",
    "two": "{} {}",
}


def points() -> list[dict[str, Any]]:
    return [
        {"variant": "paper", "beta": beta, "seed": 0, "step": step, "proxy": 1.0 + step, "true_strict": 0.5}
        | {"proxy_std": 1.0, "n": 10, "correct_strict": 5}
        for beta in (0.1, 1.0)
        for step in (0, 2, 4)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = run_folder(tmp_path / "run", {"plain": "text"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in points()))
    status = Status(name="hand", state="finished", began=1.0, updated=5.0)
    for name, ended in (("base", 2.0), ("online", None)):
        status.stage(name).began, status.stage(name).ended = 1.0, ended
    status.stage("online").folders = {"paper-beta-1-seed-0": "store/online/0/paper-beta-1-seed-0"}
    (folder / "status.json").write_text(status.model_dump_json())
    return folder


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items):
        yield value, key
        yield from places(part)


def damaged(found: Any, draw: random.Random) -> Any:
    """A copy in which one value, anywhere, is another or gone."""
    found = copy.deepcopy(found)
    parent, key = draw.choice(list(places(found)))
    if draw.random() < 0.1:
        del parent[key]
    else:
        parent[key] = draw.choice(WRONG)
    return found


def watched(folder: Path) -> None:
    Console(file=io.StringIO(), width=100).print(picture(look(folder), 100))


def sentence_or_nothing(call: Callable[[], object], file: str) -> bool:
    """Whether it was refused, in one sentence that names the file."""
    said = ""
    try:
        call()
    except BetastarError as error:
        said = str(error)
    assert not said or file in said
    assert "\n" not in said
    return bool(said)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl"])
@pytest.mark.thorough
def test_a_run_is_watched_whatever_its_files_hold(run: Path, name: str, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(50):
        if name == "status.json":
            found = damaged(json.loads((run / name).read_text()), draw)
            (run / "status.json.new").write_text(json.dumps(found))
        else:
            rows = damaged(points(), draw)
            (run / "status.json.new").write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept = (run / name).read_bytes()
        (run / "status.json.new").replace(run / name)
        watched(run)
        (run / name).write_bytes(kept)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "store/base/0/manifest.json"])
def test_a_run_is_watched_whatever_text_a_file_is(run: Path, name: str, text: str) -> None:
    (run / name).write_text(TEXTS[text])
    watched(run)


@pytest.mark.parametrize("seed", range(4))
def test_manifests_of_any_shape_do_not_end_a_report(run: Path, seed: int) -> None:
    path, draw = run / "store/base/0/manifest.json", random.Random(seed)
    whole = json.loads(path.read_text())
    for _ in range(10):
        path.write_text(json.dumps(damaged(whole, draw)))
        assert card(read_run(run))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("results.json", lambda run: read_results(run)),
        ("results.json", lambda run: read_comparison(run / "results.json")),
        ("samples.jsonl", lambda run: read_run(run)),
        ("metrics.jsonl", lambda run: read_rows(run / "metrics.jsonl", "point")),
    ],
)
def test_a_text_that_is_no_record_is_one_sentence(run: Path, name: str, read, text: str) -> None:
    (run / name).write_text(TEXTS[text])
    refused = sentence_or_nothing(lambda: read(run), name)
    assert refused or (text == "empty" and name.endswith(".jsonl"))  # no rows is a file of rows


SETTINGS = {
    "itself": "a: &a {b: *a}",
    "merge": "a: &a {b: 1}\nc: {<<: *a}",
    "bomb": "\n".join(
        ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    ),
    "list": "[1]",
    "deep": "[" * 5000,
    "tag": "a: !foo b",
    "python": "a: !!python/object/apply:os.system [ls]",
    "number as key": "1: 2",
    "null as key": "a: {null: 2}",
    "list as key": "? [1]\n: 2",
    "mapping as key": "? {a: 1}\n: 2",
    "5000 digits": "a: " + "9" * 5000,
    "NUL": "a: \0",
    "bytes": "a: \udcff",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_no_run_writes_are_one_sentence(run: Path, name: str) -> None:
    (run / "config.yaml").write_bytes(SETTINGS[name].encode("utf-8", "surrogateescape"))
    assert sentence_or_nothing(lambda: read_settings(run), "config.yaml")


@pytest.mark.parametrize("name", ["results.json", "samples.jsonl", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_a_pipe_or_device_in_a_files_place_neither_hangs_nor_fills_the_memory(run: Path, name: str, kind: str) -> None:
    path = run / name
    path.unlink()
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
    }[kind]()
    sentence_or_nothing(lambda: load(run), "run")
    if name == "metrics.jsonl":
        assert sentence_or_nothing(lambda: read_rows(path, "point"), name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(name=""), "name is empty"),
        (lambda r: r.update(name=None), "name is damaged"),
        (lambda r: r.update(conditions=[]), "conditions is damaged"),
        (lambda r: r.update(conditions=None), "conditions is damaged"),
        (lambda r: r["conditions"].insert(0, None), "conditions[0] is damaged"),
        (lambda r: r["conditions"][0].update(variant=""), "conditions[0].variant is ''"),
        (lambda r: r["conditions"][0].update(variant="other"), "conditions[0].variant is 'other', which summary"),
        (lambda r: r["conditions"][0].update(beta=-1.0), "conditions[0].beta is damaged"),
        (lambda r: r["conditions"][0].update(beta="1"), "conditions[0].beta is damaged"),
        (lambda r: (r.update(grid={"method": "list"}), r["conditions"][0].update(beta=0.0)), "conditions[0].beta is 0"),
        (lambda r: r["conditions"][0]["series"].update(step=["0", 2, 4]), "conditions[0].series.step[0] is damaged"),
        (lambda r: r["conditions"][0]["series"].update(step=[0, 2, 2]), "conditions[0].series.step does not increase"),
        (lambda r: r["conditions"][0]["series"].update(step=[4, 2, 0]), "conditions[0].series.step does not increase"),
        (lambda r: r["conditions"][0]["series"]["proxy"].pop(), "conditions[0].series.proxy has 2 values for 3 points"),
        (lambda r: r["conditions"][0].update(n_points=7), "has 3 values for 7 points"),
        (lambda r: r.update(summary={}), "summary is damaged"),
        (lambda r: r["summary"].update({"": r["summary"]["paper"]}), "summary has a variant without a name"),
        (lambda r: r["summary"].pop("paper"), "decision and summary have other variants"),
        (lambda r: r["decision"].pop("fixed"), "decision and summary have other variants"),
        (
            lambda r: [r[part].update(new=r[part]["paper"]) for part in ("summary", "decision")],
            "summary.new has no condition",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused_by_file_and_field(run: Path, change, words: str) -> None:
    found = copy.deepcopy(record())
    change(found)
    (run / "results.json").write_text(json.dumps(found))
    with pytest.raises(BetastarError) as error:
        read_results(run)
    assert f"results.json: {words}" in str(error.value) or words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"step": "4"}, "step is damaged"),
        ({"step": 2**60}, "step is damaged"),
        ({"variant": ""}, "variant is damaged"),
        ({"variant": None}, "variant is damaged"),
        ({"beta": -1.0}, "beta is damaged"),
        ({"n": -1}, "n is damaged"),
        ({"n": True}, "n is damaged"),
        ({"n": 1.5}, "n is damaged"),
        ({"proxy": "x"}, "proxy is damaged"),
        ({"seed": 0.5}, "seed is damaged"),
    ],
)
def test_a_row_that_no_run_writes_is_refused_by_line_and_field(run: Path, row: dict[str, Any], words: str) -> None:
    (run / "metrics.jsonl").write_text(json.dumps({**points()[0], **row}) + "\n")
    with pytest.raises(BetastarError) as error:
        read_rows(run / "metrics.jsonl", "point")
    assert f"metrics.jsonl, line 1: {words}" in str(error.value)
