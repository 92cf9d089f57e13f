"""Logs that are broken or made to hurt: one sentence each, in no time and without filling the memory."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import betastar
from betastar.analysis.logs.assemble import assemble
from betastar.analysis.logs.collect import collect, read_file
from betastar.analysis.logs.events import masked_crc
from betastar.analysis.logs.log import Log, Options
from betastar.analysis.logs.states import read_trainer_state, trainer_state_of
from betastar.analysis.logs.truth import read_truth
from betastar.errors import BetastarError

FRAME = pd.DataFrame({"step": [0, 1, 2], "proxy": [1.0, 2.0, 3.0], "true": [0.5, 0.4, 0.3]})


@pytest.mark.parametrize("source", [None, 3, FRAME["proxy"], FRAME.to_numpy(), [FRAME, FRAME], {"a": [1]}, b"x"])
def test_what_is_no_log_is_one_sentence(source: Any) -> None:
    with pytest.raises(BetastarError, match="cannot be analysed; give one data frame"):
        betastar.analyze(source)


@pytest.mark.parametrize(
    "given",
    [
        {"n": -1},
        {"n": 2.5},
        {"n": "5"},
        {"until": "5"},
        {"truth_distance": -1},
        {"max_runs": 1.5},
        {"true_unit": "points"},
        {"kl_per": "word"},
        {"columns": ["kl"]},
        {"out": 3},
    ],
    ids=str,
)
def test_an_argument_of_another_kind_is_one_sentence(given: Any) -> None:
    with pytest.raises(BetastarError, match=next(iter(given))) as error:
        betastar.analyze(FRAME, **given)
    assert "\n" not in str(error.value)


def test_columns_that_are_no_texts_have_the_names_that_are_shown() -> None:
    levels = FRAME.set_axis(pd.MultiIndex.from_product([["run"], FRAME.columns]), axis=1)
    names: Any = (0, 1, 2)
    for frame, (step, proxy, true) in (
        (FRAME.set_axis(list(names), axis=1), names),
        (levels, ("run/step", "run/proxy", "run/true")),
    ):
        assert betastar.analyze(frame, step=step, proxy=proxy, true=true).points["step"].tolist() == [0, 1, 2]


def test_a_file_given_twice_is_one_run(tmp_path: Path) -> None:
    path = tmp_path / "run-beta-0.1.csv"
    SOUND.to_csv(path, index=False)
    (tmp_path / "again.csv").symlink_to(path)
    for places in ([path, path], [tmp_path, path], [path, tmp_path / ".." / tmp_path.name / path.name]):
        found = collect(places)
        assert len(found.logs) == 1
        assert any("given twice" in note for note in found.notes)


def test_a_path_that_leads_nowhere_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name, words in (("loop.csv", "leads nowhere"), ("x" * 300, "does not exist"), ("none", "does not exist")):
        with pytest.raises(BetastarError, match=words):
            betastar.analyze(tmp_path / name)


SOUND = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4]})


@pytest.fixture(autouse=True)
def quick() -> object:
    """No case takes more than ten seconds of a processor (alone: well under one)."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 10


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.symlink("/dev/zero", tmp_path / "zero.csv")
    os.symlink(tmp_path / "nowhere", tmp_path / "lost.csv")
    os.symlink(tmp_path / "loop.csv", tmp_path / "loop.csv")
    for name in ("pipe.jsonl", "zero.csv"):
        with pytest.raises(BetastarError, match="not a regular file; give a file or a folder of logs"):
            collect([tmp_path / name])
    for name in ("lost.csv", "loop.csv"):
        with pytest.raises(BetastarError, match="is a link that leads nowhere; check the path"):
            collect([tmp_path / name])
    SOUND.to_csv(tmp_path / "a.csv", index=False)
    found = collect([tmp_path])
    assert [Path(log.name).name for log in found.logs] == ["a.csv"]
    assert sum("not a regular file" in note for note in found.notes) == 4


def test_size_is_bounded_and_the_bound_can_be_raised(tmp_path: Path) -> None:
    SOUND.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(BetastarError, match=r"a\.csv: holds more than 1e-08 GB; give a part of it, or raise .*max_gb"):
        betastar.analyze(tmp_path / "a.csv", max_gb=1e-8)
    with pytest.raises(BetastarError, match="not a size"):
        betastar.analyze(tmp_path / "a.csv", max_gb=float("nan"))
    with gzip.open(tmp_path / "blank.jsonl.gz", "wb", compresslevel=9) as file:
        for _ in range(90):
            file.write(b" " * 1_000_000)
    with pytest.raises(BetastarError, match="unpacks to more than 250 times its size, as no log does"):
        read_file(tmp_path / "blank.jsonl.gz")
    SOUND.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(BetastarError, match="holds more than"):
        collect([tmp_path / "a.parquet"], most=200)


def test_a_damaged_gzip_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(SOUND.to_csv(index=False).encode()))
    packed[len(packed) // 2] ^= 16
    (tmp_path / "a.csv.gz").write_bytes(packed)
    with pytest.raises(BetastarError, match=r"a\.csv\.gz: cannot be read"):
        read_file(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("text", ["{" * 2_000_000, "{'a': " * 30_000, "| " * 60_000 + "1/2 [", "::" * 90_000 + "x"])
def test_a_console_log_of_one_long_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.log").write_text(f"{text}\n")
    with pytest.raises(BetastarError, match="no line is a verl step"):
        read_file(tmp_path / "a.log")


def test_names_that_are_not_utf_8_are_shown_and_saved(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff.csv"))
    SOUND.to_csv(path, index=False)
    found = betastar.analyze(path, out=tmp_path / "out")
    assert found.record["source"]["files"][0].endswith("r\ufffd.csv")  # pyright: ignore
    assert betastar.load(tmp_path / "out").record["source"]["runs"][0]["name"].endswith("r\ufffd.csv")  # pyright: ignore


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_a_column_named_twice_is_refused(tmp_path: Path, suffix: str) -> None:
    twice = '{"step": 0, "reward": 1, "reward": 2, "acc": 0.5}'
    text = {"csv": "step,reward,reward,acc\n0,1,2,0.5\n", "jsonl": f"{twice}\n{twice}\n", "json": f"[{twice}]"}[suffix]
    (tmp_path / f"a.{suffix}").write_text(text)
    with pytest.raises(BetastarError, match="'reward' appears twice"):
        read_file(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(("step", "said"), [(2**60, "too large to be counted exactly"), (0.5, "not a whole number")])
def test_steps_that_cannot_be_counted(step: float, said: str) -> None:
    rows = SOUND.assign(step=[0, step])
    with pytest.raises(BetastarError, match=said):
        assemble([Log("a", rows, "CSV table")], Options())


def test_a_seed_that_is_no_whole_number_is_not_rounded() -> None:
    for seed in (0.5, float("inf"), "one"):
        with pytest.raises(BetastarError, match=r"whole number|not a number"):
            assemble([Log("a", SOUND.assign(seed=seed), "CSV table")], Options())
    with pytest.raises(BetastarError, match="β is a finite number from 0"):
        assemble([Log("a", SOUND.assign(beta=-1.0), "CSV table")], Options())


@pytest.mark.parametrize("value", [float("inf"), 1e308, -1e300, 10**400])
@pytest.mark.thorough
def test_infinite_and_huge_values_give_a_record_or_a_sentence(tmp_path: Path, value: float) -> None:
    rows = [{"step": i, "reward": value if i == 1 else float(i), "acc": 0.5 - i / 10} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = betastar.analyze(tmp_path / "a.jsonl", out=tmp_path / "out")
    assert found.points["step"].tolist() == ([0, 2, 3] if value > 1e308 else [0, 1, 2, 3])
    assert betastar.load(tmp_path / "out").record["conditions"][0]["n_points"] == len(found.points)


def test_a_pattern_that_never_ends_is_stopped() -> None:
    with pytest.raises(BetastarError, match=r"takes more than 1 s on the name 'a+!'; avoid repetitions of repetitions"):
        assemble([Log("a" * 40 + "!", SOUND, "CSV table")], Options(patterns=["(?P<variant>(a|aa)+)+$"]))


def event(*records: bytes) -> bytes:
    framed = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        framed += length + struct.pack("<I", masked_crc(length)) + record + bytes(4)
    return framed


@pytest.mark.parametrize(
    "record",
    [
        b"\x10" + b"\xff" * 3_000_000 + b"\x01",  # a varint of 3 MB
        b"\x12\x01\x00",  # the step as bytes
        b"\x28\x05",  # the summary as a number
        b"\x2a\x04\x0a\x02\x0a\x7f",  # a tag that is longer than its field
        b"\x2a\x06\x0a\x04\x10\x01\x08\x01",  # value and tag as numbers
        b"\x2a\x09\x0a\x07\x0a\x01a\x42\x02\x08\x63",  # a tensor of an unknown type
        b"\x0b",  # a group, which is no longer used
    ],
)
def test_event_files_whose_wire_types_do_not_fit(tmp_path: Path, record: bytes) -> None:
    good = b"\x10\x03\x2a\x0c\x0a\x0a\x0a\x03acc\x15" + struct.pack("<f", 0.5)
    (tmp_path / "events.out.tfevents.1").write_bytes(event(good, record))
    (log,) = read_file(tmp_path / "events.out.tfevents.1")
    assert log.rows.to_dict("records") == [{"step": 3, "acc": 0.5}]


def test_a_trainer_state_with_steps_of_mixed_types(tmp_path: Path) -> None:
    for name, step in (("checkpoint-1", "one"), ("checkpoint-2", None)):
        (tmp_path / name).mkdir()
        history = [{"step": s, "reward": 1.0, "acc": 0.5} for s in (0, "1", 2.0, None, "x")]
        state = {"global_step": step, "log_history": history}
        (tmp_path / name / "trainer_state.json").write_text(json.dumps(state))
    path = trainer_state_of(tmp_path)
    assert path is not None
    found = assemble([read_trainer_state(path, "a")], Options())
    assert found.frame["step"].tolist() == [0, 1, 2]
    assert "2 rows without a step are skipped" in found.notes


def run_rows() -> list[dict[str, object]]:
    """Two conditions with the columns of a run's metrics.jsonl."""
    return [
        {"variant": "paper", "beta": beta, "seed": 0, "step": step, "n": 10, "answers": 1, "proxy": 1.0 + step}
        | {"proxy_std": 1.0, "true_strict": 0.5, "correct_strict": 5, "kl": 0.1 * step, "members": [1.0, 1.0]}
        for beta in (0.1, 1.0)
        for step in (0, 2, 4)
    ]


WRONG = [None, "x", "", -1, 0, 1.5, [], {}, True, [[]], float("nan"), float("inf"), "inf", "\ud83d", 10**400, 2**63]
WRONG += [{"a": 1}, "\x1b[31m", -1e308, "1e400", "\0", [1, 2], 1e-320]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("column", sorted(run_rows()[0]))
@pytest.mark.thorough
def test_a_column_of_a_run_that_is_damaged_is_a_sentence_or_harmless(
    tmp_path: Path, column: str, value: object
) -> None:
    """In one cell, in every second one, and in all: it is assembled into points, or one sentence names the file."""
    path = tmp_path / "metrics.jsonl"
    for every in (len(run_rows()) - 1, 2, 1):
        rows = run_rows()
        for row in rows[::every]:
            row[column] = value
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found, said = None, "metrics.jsonl"
        try:
            found = assemble(read_file(path), Options())
        except BetastarError as error:
            said = str(error)
        assert "metrics.jsonl" in said
        assert "\n" not in said
        if found is None:
            continue
        assert np.isfinite(found.frame["proxy"]).all()
        assert not found.frame.duplicated(["variant", "beta", "seed", "step"]).any()
        assert "n" not in found.frame or not (found.frame["n"].to_numpy() < 1).any()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("seed", [[]], "the column seed holds [[]] where one value is due; correct the file"),
        ("step", {"a": []}, "no column"),
        ("variant", [1], "the column variant holds [1] where one value is due"),
        ("n", -5, "n is -5, which counts no responses; correct it"),
        ("n", 0, "n is 0, which counts no responses"),
        ("correct_strict", -1, "correct_strict is -1, which counts no responses"),
    ],
)
def test_what_can_be_no_value_of_a_column_is_named(tmp_path: Path, column: str, value: object, words: str) -> None:
    rows = [{**row, column: value} for row in run_rows()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if words == "no column":  # an object is a group of columns, so that the step is gone
        assert "no column counts steps" in " ".join(assemble(read_file(tmp_path / "metrics.jsonl"), Options()).notes)
        return
    with pytest.raises(BetastarError, match=re.escape(words)):
        assemble(read_file(tmp_path / "metrics.jsonl"), Options())


TORN = {
    "torn": '{"step": 0, "proxy": 1.0, "tr\n{"step": 2}\n',
    "list": "[]\n",
    "number": "3\n",
    "null": "null\n",
    "text": '"x"\n',
    "empty": "",
    "blank": "\n\n",
    "NUL": "\0",
    "deep list": "[" * 10_000 + "]" * 10_000 + "\n",
    "deep object": '{"a":' * 10_000 + "1" + "}" * 10_000 + "\n",
    "5000 digits": '{"step": ' + "9" * 5000 + "}\n",
    "400 digits": '{"step": ' + "9" * 400 + "}\n",
    "1e400": '{"step": 0, "proxy": 1e400, "true_strict": 0.5}\n',
    "half a pair": '{"variant": "\\ud83d", "step": 0}\n',
    "twice": '{"step": 0, "step": 1, "proxy": 1.0, "true_strict": 0.5}\n',
    "not UTF-8": b'{"step": 0, "name": "\xff"}\n'.decode("latin-1"),
}


@pytest.mark.parametrize("name", TORN)
def test_a_file_of_points_that_is_none_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(TORN[name].encode("latin-1"))
    with pytest.raises(BetastarError) as error:
        betastar.analyze(tmp_path / "metrics.jsonl")
    assert "metrics.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"results": {"gsm8k": {"exact_match,strict-match": 10**400}}},
        {"results": {"gsm8k": {"exact_match,strict-match": 0.5}}, "n-samples": {"gsm8k": {"original": "many"}}},
        {"results": {"gsm8k": {"exact_match,strict-match": 0.5}}, "n-samples": [1]},
        {"results": {"gsm8k": {"exact_match,strict-match": 0.5}}, "config": 5},
        {"eval": {"model": 1}, "results": {"scores": [5]}},
        {"eval": {"model": 1}, "results": {"scores": 5}},
        {"eval": {}, "results": {"scores": [{"metrics": {"accuracy": {"value": 0.5}}}], "total_samples": [1]}},
    ],
    ids=str,
)
def test_a_result_of_a_harness_of_another_shape_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "checkpoint-2.json").write_text(json.dumps(change))
    with pytest.raises(BetastarError, match=r"checkpoint-2\.json is no result of a harness \(.*\); remove it") as error:
        read_truth(tmp_path, None)
    assert "\n" not in str(error.value)


def test_a_log_that_lost_its_truth_is_analysed_without_it(tmp_path: Path) -> None:
    """The start was evaluated twice, and the second evaluation still says what its truth was."""
    rows = [{key: value for key, value in row.items() if key != "true_strict"} for row in run_rows()]
    for row in rows:
        row["again"] = [{"proxy": 1.1, "true_strict": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = betastar.analyze(tmp_path / "metrics.jsonl")
    assert any("no column is recognised as a true reward" in note for note in found.notes)
    for condition in found.record["conditions"]:
        missing: Any = condition.get("missing", {})
        assert {missing[name] for name in ("verdict", "end_change", "augc_standardised")} == {"no true reward is known"}
    noise: Any = found.record["summary"]["paper"]
    assert noise["instrument_noise"]["conditions"][0]["reason"] == "the start has not both rewards"
