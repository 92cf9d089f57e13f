"""`betastar.analyze` and the analysis of paths, from a log to the record."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from altair.utils.schemapi import debug_mode
from analysis.records import analyzed, check
from analysis.test_results import BETAS, SEEDS, point
from forked import betastar as command

import betastar
from betastar.analysis.analyze import analyze_paths
from betastar.analysis.logs.columns import choose, field_name
from betastar.analysis.logs.log import Options
from betastar.analysis.results import build_results
from betastar.errors import BetastarError, command_line
from betastar.record.files import to_json
from betastar.report import folders
from betastar.report.drawing import drawn
from betastar.report.figures import all_figures
from betastar.report.folders import write_analysis
from betastar.report.words import conclusions


def grid(**columns: Any) -> pd.DataFrame:
    """Three β, two seeds, three points: the proxy rises from 4 by β at every point, the truth stays."""
    rows = [
        {"beta": beta, "seed": seed, "step": 10 * i, "reward": 4.0 + beta * i, "reward_std": 2.0, "acc": 0.5, **columns}
        for beta in (0.5, 1.0, 2.0)
        for seed in (0, 1)
        for i in range(3)
    ]
    return pd.DataFrame(rows)


def our_run(folder: Path, rise: float = 1.0, name: str = "ours") -> dict[str, Any]:
    """What a run leaves of its numbers: points, results and settings; β by the proxy's rise."""
    rows = [
        point(variant, beta, seed, step, 4.0 + rise * beta * step / 2, 5)
        for variant in ("paper", "fixed")
        for beta in BETAS
        for seed in SEEDS
        for step in (0, 2, 4)
    ]
    extras = {
        (b, s): {
            "alignment": {"pair_accuracy": 0.6, "test_pairs": 40, "win_rate": 0.5 + s / 10, "judge": "annotator"},
            "base": {"true_strict": 0.1, "true_lenient": 0.1},
        }
        for b in BETAS
        for s in SEEDS
    }
    context = {"name": name, "root_seed": 3, "problems": {"train": 9, "test": 9, "evaluated": 9, "probe": 3}}
    results = build_results(rows, extras, context, root_seed=3, trade_off=2.0)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**row, "members": [1.0, 2.0]}) + "\n" for row in rows))
    (folder / "results.json").write_text(to_json(results))
    (folder / "config.yaml").write_text(yaml.safe_dump({"law": {"trade_off": 2.0}}))
    return json.loads(to_json(results))


def test_a_frame_by_hand() -> None:
    results = analyzed(grid())
    found = {(r["beta"], r["seed"]): r for r in results["conditions"]}
    assert len(found) == 6
    # β = 2: z_proxy = 0, 1, 2 and z_true = 0; trapezoid over 0, 10, 20: 5 + 15 = 20.
    assert found[2.0, 1]["series"]["gap_standardised"] == [0, 1, 2]
    assert found[2.0, 1]["augc_standardised"] == 20
    summary = results["summary"]["logged"]
    assert summary["betas"] == [0.5, 1, 2]
    assert [row["augc_standardised"]["mean"] for row in summary["by_beta"]] == [5, 10, 20]
    assert summary["standardised"]["spearman"]["rho"] == 1
    # Gaps 0.25, 0.5 / 0.5, 1 / 1, 2, each twice: the 75th percentile of the twelve is at place 8.25, among the 1s.
    assert results["threshold"]["standardised"] == 1
    assert results["source"]["runs"][0]["columns"]["proxy"] == "reward"
    assert any(note.startswith("proxy = reward (guessed") for note in results["source"]["notes"])


def test_arguments_name_columns_and_numbers() -> None:
    odd = grid().rename(columns={"reward": "r_hat", "acc": "solved", "step": "t", "reward_std": "s", "beta": "lam"})
    odd["spread"] = 1.0 + odd["t"] / 10
    told = {"proxy": "r_hat", "true": "solved", "step": "t", "uncertainty": "spread", "beta": "lam"}
    results = analyzed(odd, **told, columns={"proxy_std": "s"}, n=64, name="mine")
    plain = analyzed(grid(), n=64)
    mine = [r["augc_standardised"] for r in results["conditions"]]
    assert mine == [r["augc_standardised"] for r in plain["conditions"]]
    assert results["conditions"][-1]["disagreement"]["mean"] == 2.0
    assert (results["name"], results["conditions"][0]["n"]) == ("mine", 64)
    short = analyzed(grid(), until=10)
    assert {r["series"]["step"][-1] for r in short["conditions"]} == {10}
    with pytest.raises(
        BetastarError,
        match=r"frame, beta 0.5, seed 0: no column is recognised as the proxy reward; name it with proxy=",
    ):
        analyzed(grid().drop(columns="reward"))
    blind = analyzed(grid().drop(columns="acc"))
    assert {r["true_strict"]["end"] for r in blind["conditions"]} == {None}
    with pytest.raises(BetastarError, match="frame: the column 'acc' appears twice"):
        analyzed(pd.concat([grid(), grid()[["acc"]]], axis=1))
    with pytest.raises(BetastarError, match=r"Numeric columns: none\."):
        analyzed(pd.DataFrame())


def test_the_frame_is_left_as_it_was_and_its_index_plays_no_part() -> None:
    frame = grid()
    shuffled = frame.sample(frac=1, random_state=0)
    before = shuffled.copy()
    results = analyzed(shuffled)
    pd.testing.assert_frame_equal(shuffled, before)
    expected = {(r["beta"], r["seed"]): r["augc_standardised"] for r in analyzed(frame)["conditions"]}
    assert {(r["beta"], r["seed"]): r["augc_standardised"] for r in results["conditions"]} == expected


def test_an_unknown_beta_is_null_everywhere_and_breaks_nothing() -> None:
    frame = grid()[lambda f: f["beta"] == 2.0].drop(columns="beta")
    results = json.loads(to_json(analyzed(frame)))
    assert list(results["summary"]) == ["β unknown"]
    assert [(r["beta"], r["seed"], r["augc_standardised"]) for r in results["conditions"]] == [
        (None, 0, 20),
        (None, 1, 20),
    ]
    summary = results["summary"]["β unknown"]
    assert summary["betas"] == [None]
    assert summary["by_beta"][0]["beta"] is None
    assert summary["by_beta"][0]["augc_standardised"]["mean"] == 20
    assert summary["standardised"]["spearman"]["rho"] is None
    assert summary["standardised"]["beta_star"]["value"] is None


def test_a_beta_of_zero_is_a_beta_without_a_law() -> None:
    """Runs without a penalty have β = 0. Ranks and differences know what to do with it, a law and a slope do not."""
    rows = [
        {"step": step, "reward": (1.0 + beta) * step, "reward_std": 1.0, "acc": 0.5, "beta": beta, "seed": seed}
        for beta in (0.0, 0.1, 1.0, 10.0)
        for seed in (0, 1)
        for step in (0, 1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = check(analyzed(pd.DataFrame(rows), n=10))
    part = record["summary"]["logged"]["standardised"]
    assert part["spearman"]["rho"] == pytest.approx(1)
    assert (part["law"]["refusal"], part["law"]["reason"]) == ("β not above 0", "the power law needs β > 0")
    assert part["law"]["leave_one_beta_out"]["reason"] == "the power law needs β > 0"
    assert part["beta_star"]["reason"] == "no β★: the power law needs β > 0"
    assert part["slope_per_tenfold_beta"]["mean"] is None
    assert part["slope_per_tenfold_beta"]["reason"] == "a change per tenfold β needs β > 0"
    assert "needs β > 0" in " ".join(conclusions(record["summary"]["logged"]))
    with debug_mode(False):
        assert all(drawn(figure) for figure in all_figures(record))


def test_one_seed_and_grids_that_differ_by_seed() -> None:
    one = analyzed(grid()[lambda f: f["seed"] == 0])
    row = one["summary"]["logged"]["by_beta"][0]["augc_standardised"]
    assert (row["mean"], row["n"]) == (5, 1)
    assert row["standard_error"] is None
    assert row["reason"] is not None
    # Seed 1 is evaluated at 0 and 20 alone: the same straight line, the same area.
    results = analyzed(grid()[lambda f: (f["seed"] == 0) | (f["step"] != 10)])
    assert {r["augc_standardised"] for r in results["conditions"] if r["beta"] == 2.0} == {20}
    assert not any("different steps" in text for text in results["warnings"])


def test_a_run_of_ours_gives_its_own_results_again(tmp_path: Path) -> None:
    expected = our_run(tmp_path / "run")
    analysis = analyze_paths([tmp_path / "run"], Options())
    again = json.loads(to_json(analysis.results))
    source = again.pop("source")
    assert again == expected
    assert source["notes"] == analysis.notes == []
    assert len(analysis.frame) == 2 * 3 * 2 * 3


def test_two_runs_of_ours_are_told_apart(tmp_path: Path) -> None:
    first, second = our_run(tmp_path / "a", 1.0), our_run(tmp_path / "b", 2.0)
    results = json.loads(to_json(analyze_paths([tmp_path / "a", tmp_path / "b"], Options()).results))
    assert list(results["summary"]) == ["a: paper", "a: fixed", "b: paper", "b: fixed"]
    for name, single in (("a", first), ("b", second)):
        mine = results["summary"][f"{name}: paper"]["by_beta"]
        for row, expected in zip(mine, single["summary"]["paper"]["by_beta"], strict=True):
            assert row["augc_standardised"]["mean"] == expected["augc_standardised"]["mean"]
            assert row["win_rate"]["mean"] == expected["win_rate"]["mean"] == pytest.approx(0.55)


def test_a_sweep_in_files_with_names_of_ones_own(tmp_path: Path) -> None:
    for variant in ("kl", "nokl"):
        for beta in (0.5, 2.0):
            rows = grid()[lambda f, beta=beta: (f["beta"] == beta) & (f["seed"] == 1)]
            (tmp_path / variant).mkdir(exist_ok=True)
            rows.drop(columns=["beta", "seed"]).to_csv(tmp_path / variant / f"dpo{beta}_r1.csv", index=False)
    patterns = [r"/(?P<variant>\w+)/dpo(?P<beta>[\d.]+)_r(?P<seed>\d+)\.csv"]
    results = analyze_paths([tmp_path], Options(patterns=patterns)).results
    assert list(results["summary"]) == ["kl", "nokl"]
    assert {(r["variant"], r["beta"], r["seed"], r["augc_standardised"]) for r in results["conditions"]} == {
        (variant, beta, 1, 10 * beta) for variant in ("kl", "nokl") for beta in (0.5, 2.0)
    }


@pytest.mark.thorough
def test_what_is_written_is_read_back_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid().to_csv(tmp_path / "sweep.csv", index=False)
    third = grid().assign(reward=lambda f: f["reward"] / 3)
    third[third["beta"] == 0.5].drop(columns="beta").to_csv(tmp_path / "more.csv", index=False)
    analysis = analyze_paths([tmp_path], Options())
    results = write_analysis(analysis, tmp_path / "out")
    assert (
        results == json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(to_json(analysis.results))
    )
    for name in ("rewards", "gap", "augc"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "How sure?" in (tmp_path / "out" / "report.html").read_text()
    again = json.loads(to_json(analyze_paths([tmp_path / "out"], Options()).results))
    for part in ("conditions", "summary", "threshold", "warnings"):
        assert again[part] == results[part], part
    # Again into the same folder: fine. Into a run's: its results would be lost.
    monkeypatch.setattr(folders, "write_report", lambda folder: folder)
    assert write_analysis(analyze_paths([tmp_path / "sweep.csv"], Options()), tmp_path / "out")["name"] == "sweep.csv"
    our_run(tmp_path / "run")
    with pytest.raises(BetastarError, match="run holds the results of a run; name another folder with out="):
        write_analysis(analysis, tmp_path / "run")


def test_a_verl_log_from_the_console_to_the_gap(tmp_path: Path) -> None:
    """Validation at 0 and 2, rewards at 1 and 2: the proxy at 0 is that of the first batch, at 2 the mean of both."""
    (tmp_path / "beta-0.5-seed-1.log").write_text(
        "(TaskRunner pid=1) step:0 - val-core/openai/gsm8k/acc/mean@1:0.5\n"
        "(TaskRunner pid=1) step:1 - critic/score/mean:np.float64(1.0) - actor/entropy:0.5\n"
        "(TaskRunner pid=1) step:2 - critic/score/mean:4.0 - val-core/openai/gsm8k/acc/mean@1:0.25\n"
        "(TaskRunner pid=1) step:3 - critic/score/mean:9.0 - actor/entropy:0.25\n"
        "(TaskRunner pid=1) step:4 - critic/score/mean:11.0\n"
    )
    results = analyze_paths([tmp_path], Options(columns={"proxy_std": "1.5"}, n=10)).results
    (condition,) = results["conditions"]
    assert (condition["beta"], condition["seed"]) == (0.5, 1)
    assert condition["series"]["proxy"] == [1, 2.5]
    # z_proxy = 1.5/1.5 = 1; 5 of 10: q = 6/12, s_true = 0.5, z_true = −0.25/0.5.
    assert condition["series"]["gap_standardised"] == [0, 1.5]


def test_import_betastar_loads_nothing_and_analyze_is_there() -> None:
    script = "import sys, betastar as b; m = sys.modules; print('betastar.api' in m, b.analyze.__module__ in m)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        betastar.analyse  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_numpy_types_do_not_leak_into_the_record() -> None:
    frame = grid().astype({"beta": np.float32, "seed": np.int8})
    text = to_json(analyzed(frame))
    assert json.loads(text)["conditions"][0]["seed"] == 0


PAGE = Path(__file__).resolve().parents[2] / "docs" / "analyze.md"


def block(language: str, containing: str) -> str:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return next(text for kind, text in blocks if kind == language and containing in text)


def test_the_page_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.csv").write_text(block("csv", "lam"))
    with command_line():
        analysis = analyze_paths([Path("sweep.csv")], Options(beta="lam", seed="rep", columns={"step": "it"}))
    assert [f"Note: {note}" for note in analysis.notes] == block("", "Note:").splitlines()
    # z_proxy = 0, 1, 2 and z_true = 0, −0.02/0.5, −0.1/0.5 for λ = 0.1: gap 0, 1.04, 2.2, area 52 + 162.
    assert analysis.results["conditions"][0]["augc_standardised"] == pytest.approx(214)
    found: dict[str, Any] = {}
    exec(block("python", "import betastar"), found)
    assert found["results"].record["summary"]["logged"]["by_beta"][0]["beta"] == 0.1


def test_every_column_on_the_page_is_guessed_as_it_says() -> None:
    section = PAGE.read_text().split("## What is guessed")[1].split("## ")[0]
    rows = re.findall(r"^\| (\w+)[^|]* \| (`.*`) \|$", section, re.MULTILINE)
    assert len(rows) == 7
    for label, names in rows:
        field = field_name(label)
        for name in re.findall(r"`([^`]+)`", names):
            others = [] if field in ("proxy", "true_strict") else ["proxy", "true"]
            told = {"true_strict": "T"} if field == "proxy" else {"proxy": "P"} if field == "true_strict" else {}
            assert choose([name, *others, *told.values()], told, "page").columns[field] == name


def test_every_flag_on_the_page_exists() -> None:
    from betastar.cli.commands import analyze as command

    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(command).parameters}
    assert set(re.findall(r"--[a-z][a-z-]*", PAGE.read_text())) <= known


@pytest.mark.parametrize("labels", [{}, {"beta": 0.5, "seed": 1}])
def test_a_second_evaluation_of_the_start_gives_the_noise_of_the_instrument(tmp_path: Path, labels: dict) -> None:
    """As `GoodhartMonitor` writes it. Proxy 4 and 5 at standard deviation 2: z = 0.5. Right answers 5 and 6 of 10, q =
    6/12: z = 0.1/0.5 = 0.2. The gap of the second against the first is 0.5 - 0.2 = 0.3."""
    rows = [
        {**labels, "step": 5 * i, "n": 10, "proxy": 4.0 + i, "proxy_std": 2.0, "correct_strict": 5, "true_strict": 0.5}
        for i in range(3)
    ]
    rows[0]["again"] = [{"proxy": 5.0, "true_strict": 0.6}, {"proxy": 4.0, "true_strict": 0.5}]
    (tmp_path / "goodhart.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = check(analyze_paths([tmp_path / "goodhart.jsonl"], Options()).results)
    (summary,) = results["summary"].values()
    noise = summary["instrument_noise"]["gap"]
    assert (noise["standard_deviation"], noise["n"]) == (pytest.approx(0.3), 1)


def test_one_column_is_not_both_rewards() -> None:
    with pytest.raises(BetastarError, match="reward is both the proxy and the true reward"):
        analyzed(grid(), proxy="reward", true="reward")


def test_a_pattern_that_finds_nothing_is_said(tmp_path: Path) -> None:
    for seed in (0, 1):
        grid().query(f"beta == 1 and seed == {seed}").drop(columns=["beta", "seed"]).to_csv(
            tmp_path / f"beta-1-seed-{seed}.csv", index=False
        )
    patterns = ["lam(?P<beta>.+)", "(?P<seed>.).csv"]
    for by_caller, said in (
        (nullcontext(), 'patterns=["lam(?P<beta>.+)"]: '),
        (command_line(), "--pattern lam(?P<beta>.+): "),
    ):
        with by_caller:
            notes = analyze_paths([tmp_path], Options(patterns=patterns)).notes
        assert [note.startswith(f"{said}matches no run's name or path, such as ") for note in notes].count(True) == 1
        assert not any("(?P<seed>" in note for note in notes)


def test_notes_and_errors_name_what_the_caller_can_write(tmp_path: Path) -> None:
    """Arguments in Python, options on the command line."""
    frame = grid().query("beta == 1 and seed == 0").drop(columns=["beta", "seed", "step"])
    python = " ".join(betastar.analyze(frame).notes)
    for text in ('proxy="COLUMN"', 'true="COLUMN"', 'step="COLUMN"', "n=…"):
        assert text in python
    assert "--" not in python
    frame.to_csv(tmp_path / "log.csv", index=False)
    done = command("analyze", "log.csv", folder=tmp_path, drawn=False)
    for text in ("--proxy COLUMN", "--true COLUMN", "--step COLUMN", "--n"):
        assert text in done.stdout
    assert "=…" not in done.stdout
    done = command("analyze", "log.csv", "--until", "1", folder=tmp_path)
    assert done.stderr.endswith("or choose other columns with --proxy and --true.\n")
