"""Files that are damaged or of another version: one sentence that names file and field, never a traceback."""

from __future__ import annotations

import copy
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.records import record, run_folder

import betastar
from betastar.errors import BetastarError
from betastar.record.files import read_results, read_rows, read_run, to_json, to_json_lines
from betastar.report.folders import write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = run_folder(tmp_path / "run", {"plain": "no hack"})
    (folder / "metrics.jsonl").write_text('{"step": 0, "proxy": 1.0, "true_strict": 0.5}\n')
    return folder


def rewritten(folder: Path, change: Any) -> Path:
    found = copy.deepcopy(record())
    change(found)
    (folder / "results.json").write_text(json.dumps(found))
    return folder


def test_what_is_read_is_what_is_in_the_file(folder: Path) -> None:
    assert read_results(folder) == json.loads((folder / "results.json").read_text())
    assert json.loads(to_json(read_results(folder))) == read_results(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "results.json is damaged (Expecting value"),
        ("{", "results.json is damaged ("),
        ("[]", "results.json is damaged (it is not an object)"),
        ("3", "results.json is damaged (it is not an object)"),
        ("[" * 100_000, "results.json is damaged ("),
        ('{"schema_version": NaN}', "results.json is damaged (NaN is not JSON)"),
        ('{"schema_version": "2"}', "results.json is damaged (it has no schema version)"),
        ('{"schema_version": true}', "results.json is damaged (it has no schema version)"),
        (
            '{"schema_version": 1, "betastar": "0.0.9"}',
            "schema version 1, written by betastar 0.0.9, and this betastar",
        ),
        ('{"schema_version": 99}', "has schema version 99, and this betastar reads 4; update betastar"),
        ('{"schema_version": 4}', "betastar is missing"),
        ("\x00\xff", "results.json is damaged ("),
    ],
)
def test_a_file_that_is_no_record_is_one_sentence(folder: Path, text: str, words: str) -> None:
    (folder / "results.json").write_bytes(text.encode("latin-1"))
    for read in (read_results, betastar.load, write_report, betastar.analyze):
        with pytest.raises(BetastarError) as error:
            read(folder)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["conditions"][2].update(augc_paper="4"), "conditions[2].augc_paper is damaged ("),
        (lambda r: r["conditions"][2].update(augc_paper=-1), "conditions[2].augc_paper is damaged ("),
        (lambda r: r["conditions"][2].pop("beta"), "conditions[2].beta is missing"),
        (lambda r: r["conditions"][0]["series"]["kl"].__setitem__(1, []), "conditions[0].series.kl[1] is damaged ("),
        (lambda r: r.update(conditions=[]), "conditions is damaged ("),
        (lambda r: r["summary"].update(paper=None), "summary.paper is damaged ("),
        (lambda r: r.update(more=1), "more is not a field of this version"),
        (lambda r: r["threshold"].update(percentile=90), "threshold.percentile is damaged ("),
        (lambda r: r["chain"]["paper"][0].update(n="many"), "chain.paper[0].n is damaged ("),
    ],
)
def test_the_sentence_names_the_field(folder: Path, change: Any, words: str) -> None:
    with pytest.raises(BetastarError) as error:
        read_results(rewritten(folder, change))
    assert f"results.json: {words}" in str(error.value)
    assert str(error.value).endswith("repeat the run or the analysis (finished work is reused).")


def places(value: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value of a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield *above, key
        yield from places(part, *above, key)


@pytest.mark.thorough
def test_damage_anywhere_is_one_sentence_or_harmless(folder: Path) -> None:
    """Forty times one value, drawn from all of a record, becomes something else or goes."""
    draw = random.Random(3)
    wrong: list[Any] = [None, "x", -1, 1.5, [], {}, True, [[[]]], float("nan"), "inf"]
    text, everywhere = json.dumps(record()), list(places(record()))
    refused = 0
    for *above, key in draw.choices(everywhere, k=40):
        parent = found = json.loads(text)
        for step in above:
            parent = parent[step]
        if draw.random() < 0.3:
            del parent[key]
        else:
            parent[key] = draw.choice(wrong)
        (folder / "results.json").write_text(json.dumps(found))
        try:
            results = betastar.load(folder)
        except BetastarError as error:
            refused += len(str(error).splitlines())
            continue
        assert min(map(len, (results.points, results.summary, results.conditions))) > 0
    assert 24 < refused < 40  # one line each


def test_a_row_that_is_damaged_is_named_by_line_and_field(folder: Path) -> None:
    path = folder / "samples.jsonl"
    rows = path.read_text().splitlines()
    for text, words in (
        ('{"step": "four"}', "line 2: step is damaged ("),
        ("[]", "line 2: the line is damaged ("),
        ('{"proxy": NaN}', "line 2: damaged (NaN is not JSON)"),
        ("{", "line 2: damaged ("),
    ):
        path.write_text("\n".join([rows[0], text, *rows[1:]]))
        with pytest.raises(BetastarError) as error:
            read_run(folder)
        assert f"{path}, {words}" in str(error.value)
    path.write_text('{"response": "half \\ud83d"}\n')
    assert read_rows(path, "response")[0]["response"] == "half \ud83d"


def test_settings_that_are_damaged_are_named(folder: Path) -> None:
    for text in ("[1, 2]", "a: [", "a: b: c"):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(BetastarError, match=r"config\.yaml is damaged \("):
            read_run(folder)


def test_undefined_numbers_are_null_in_lines_too() -> None:
    assert to_json_lines([{"a": float("nan")}, {"b": [1, float("inf")]}]) == '{"a": null}\n{"b": [1, "inf"]}\n'


def test_a_big_record_is_read_fast(tmp_path: Path) -> None:
    """100 times the conditions: 10 MB and more are parsed and checked in seconds."""
    found = copy.deepcopy(record())
    found["conditions"] *= 100
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(found))
    assert (folder / "results.json").stat().st_size > 5e6
    start = time.process_time()
    read_results(folder)
    assert time.process_time() - start < 3
    shutil.rmtree(folder)
