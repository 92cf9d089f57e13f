"""β, seed and variant of runs: from names, from columns, or unknown."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.analysis.logs.columns import Identity, conditions, from_name, short_names, split
from betastar.analysis.logs.log import Log
from betastar.errors import BetastarError


@pytest.mark.parametrize(
    ("name", "beta", "seed"),
    [
        ("runs/beta-0.5-seed-1", 0.5, 1),
        ("runs/beta0.1_seed2/train.csv", 0.1, 2),
        ("BETA=1e-3,Seed=04", 0.001, 4),
        ("dpo_b=0.1", 0.1, None),
        ("dpo_b=.25_s=7", 0.25, 7),
        ("β=2/seed_3.jsonl", 2.0, 3),
        ("beta_0p05-lr_1e-4", 0.05, None),
        ("beta-1.csv", 1.0, None),
        ("beta-9/beta-0.3", 0.3, None),  # the inner folder
        ("qwen-7b-1-seeds", None, None),
        ("alphabeta3/s=1", None, 1),
        ("checkpoint-40", None, None),
    ],
)
def test_usual_names(name: str, beta: float | None, seed: int | None) -> None:
    assert from_name(name, []) == Identity(None, beta, seed)


@given(st.floats(1e-6, 1e6), st.integers(0, 10**6))
def test_a_name_that_python_formats_is_read_back(beta: float, seed: int) -> None:
    for name in (f"beta-{beta:g}-seed-{seed}", f"beta{beta!r}_seed{seed}", f"paper-beta={beta} seed={seed}"):
        found = from_name(name, [])
        assert found.beta == pytest.approx(beta, rel=1e-5)
        assert found.seed == seed


def test_patterns_of_the_user_come_first() -> None:
    patterns = [r"/(?P<variant>\w+)/kl(?P<beta>[\d.]+)_run(?P<seed>\d+)"]
    assert from_name("x/fixed/kl0.2_run5_beta-9", patterns) == Identity("fixed", 0.2, 5)
    assert from_name("x/beta-9", patterns) == Identity(None, 9.0, None)
    with pytest.raises(BetastarError, match="not a regular expression"):
        from_name("x", ["(?P<beta>"])
    with pytest.raises(BetastarError, match="name the group"):
        from_name("x", [r"beta(\d)"])
    with pytest.raises(BetastarError, match="beta is 'high', which is not a number"):
        from_name("beta_high", [r"beta_(?P<beta>\w+)"])


def test_columns_tell_runs_apart() -> None:
    table = pd.DataFrame(
        {"beta": [0.1, 0.1, 2.0, 2.0, None], "seed": [0, 0, 1, 1, None], "reward": [1.0, 2.0, 3.0, 4.0, 5.0]}
    )
    parts = list(split(Log("t", table, "CSV"), {}))
    assert [identity for _, identity in parts] == [Identity(None, 0.1, 0), Identity(None, 2.0, 1)]
    assert [log.rows["reward"].tolist() for log, _ in parts] == [[1, 2], [3, 4]]
    assert [log.note for log, _ in parts] == ["1 rows have no value in beta or seed and are skipped", None]
    # Told: another column for β, and one number for all seeds, so that the column seed tells nothing.
    parts = list(split(Log("t", table.assign(x=[5, 5, 5, 6, 6]), "CSV"), {"beta": "x", "seed": 3}))
    assert [identity for _, identity in parts] == [Identity(None, 5.0, None), Identity(None, 6.0, None)]
    with pytest.raises(BetastarError, match="t: there is no column 'y' for beta"):
        list(split(Log("t", table, "CSV"), {"beta": "y"}))


def test_a_run_may_lack_a_part_that_others_have() -> None:
    """As in the metrics.jsonl of an analysis in which some β are unknown."""
    table = pd.DataFrame({"variant": ["a", "a", "b", "b"], "beta": [0.5, 0.5, None, None], "reward": [1, 2, 3, 4]})
    assert [identity for _, identity in split(Log("t", table, "CSV"), {})] == [Identity("a", 0.5), Identity("b")]


def test_a_value_in_one_row_holds_for_all_and_a_changing_coefficient_is_no_run() -> None:
    once = pd.DataFrame({"seed": [None, 3, None], "reward": [1.0, 2.0, 3.0]})
    ((log, identity),) = split(Log("t", once, "JSON Lines"), {})
    assert identity.seed == 3
    assert len(log.rows) == 3
    adaptive = pd.DataFrame({"beta": [0.1, 0.11, 0.12], "reward": [1.0, 2.0, 3.0]})
    ((log, identity),) = split(Log("t", adaptive, "JSON Lines"), {})
    assert identity == Identity()
    assert "beta" in log.rows


def test_runs_by_name_in_a_column() -> None:
    table = pd.DataFrame({"run": ["beta-1", "beta-1", "b", "b"], "reward": [1, 2, 3, 4]})
    names = [log.name for log, _ in split(Log("t.csv", table, "CSV"), {})]
    assert names == ["t.csv, run beta-1", "t.csv, run b"]
    assert from_name(names[0], []).beta == 1.0


def test_what_is_unknown_is_not_averaged() -> None:
    # No β, no seed: each run is its own variant, by the part of the path in which they differ.
    assert conditions(["a/x/log", "a/y/log"], [Identity(), Identity()]) == [
        Identity("x/log", None, 0),
        Identity("y/log", None, 0),
    ]
    # Seeds known: one condition. β known: its seeds are numbered around those that are known.
    seeds = [Identity(None, None, 1), Identity(None, None, 2)]
    assert conditions(["a", "b"], seeds) == [Identity("β unknown", None, 1), Identity("β unknown", None, 2)]
    # The same seed twice: not one kind of run, and neither is called unknown.
    twice = [Identity(None, None, 1), Identity(None, None, 1)]
    assert conditions(["grpo", "ppo"], twice) == [Identity("grpo", None, 1), Identity("ppo", None, 1)]
    betas = [Identity(None, 0.5, 0), Identity(None, 0.5, None), Identity(None, 2.0, None), Identity(None, 0.5, None)]
    assert [i.seed for i in conditions(["a", "b", "c", "d"], betas)] == [0, 1, 0, 2]
    # A variant in which some β is known does not take in runs without.
    mixed = [Identity("v", 0.5, 0), Identity("v", None, 0), Identity("w", None, 0)]
    assert [i.variant for i in conditions(["a", "b", "c"], mixed)] == ["v", "v, β unknown", "w"]


def test_two_runs_of_one_condition_are_refused() -> None:
    said = re.escape("b and a are both variant logged, β 0.5, seed 1; tell them apart with patterns=…")
    with pytest.raises(BetastarError, match=said):
        conditions(["a", "b"], [Identity(None, 0.5, 1), Identity(None, 0.5, 1)])


@pytest.mark.parametrize(
    ("names", "short"),
    [(["a/b/c", "a/d"], ["b/c", "d"]), (["a/b"], ["b"]), (["a", "b"], ["a", "b"]), (["a/b", "a/b"], ["b", "b"])],
)
def test_short_names(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short
