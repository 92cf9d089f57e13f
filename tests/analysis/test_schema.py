"""Records of every kind keep to the schema; records that were tampered with do not."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.records import analyzed, check, faults, uncounted, unexplained, walk
from analysis.test_analyze import grid
from analysis.test_results import BETAS, build, point
from jsonschema import Draft202012Validator

from betastar.analysis.analyze import analyze_paths
from betastar.analysis.logs.log import Options
from betastar.analysis.results import build_results
from betastar.analysis.signals import all_signals
from betastar.record.entries import REGISTRY
from betastar.record.schema import schema
from betastar.record.shapes.results import SCHEMA_VERSION


def law(n_beta: int, n_seeds: int) -> dict[str, Any]:
    """Damage that rises with β, a little different by seed; one evaluation repeated."""
    betas = np.geomspace(0.1, 10, n_beta)
    rows = [
        point("paper", float(beta), seed, step, 4.0 + step * (1 + seed / 10) * (1 + beta), 5 - step // 2)
        for beta in betas
        for seed in range(n_seeds)
        for step in (0, 2, 4)
    ]
    alignment = {"pair_accuracy": 0.6, "test_pairs": 40, "win_rate": 0.5, "judge": "annotator"}
    again = {"proxy": 4.1, "true_strict": 0.4, "true_lenient": 0.4, "disagreement": 0.6}
    base = {"true_strict": 0.1, "true_lenient": 0.2}
    extras = {
        (float(b), s): {"alignment": alignment, "base": base, "again": again} for b in betas for s in range(n_seeds)
    }
    return build_results(pd.DataFrame(rows), extras, {"name": "law"}, trade_off=2.0, primary="augc_standardised")


def holes() -> pd.DataFrame:
    """A log in which û, KL and the proxy are undefined at some points."""
    return grid(kl=0.5, disagreement=1.0).assign(
        kl=lambda f: f["kl"].where(f["step"] < 20),
        disagreement=lambda f: f["disagreement"].where(f["step"] > 0),
        diversity=lambda f: f["step"] / 100,
    )


RECORDS: dict[str, Callable[[], dict[str, Any]]] = {
    "rising, 3 β": lambda: build({0.1: 0.0, 1.0: 1.0, 10.0: 2.0}),
    "equal": lambda: build(dict.fromkeys(BETAS, 1.0)),
    "nothing happens": lambda: build(dict.fromkeys(BETAS, 0.0)),
    "a law with β★": lambda: law(6, 3),
    "one seed": lambda: law(4, 1),
    "three β, one seed": lambda: law(3, 1),
    "ten β: orders drawn": lambda: law(10, 2),
    "a log": lambda: analyzed(grid()),
    "a log with n": lambda: analyzed(grid(), n=64),
    "β unknown": lambda: analyzed(grid()[lambda f: f["beta"] == 2.0].drop(columns="beta")),
    "one β": lambda: analyzed(grid()[lambda f: f["beta"] == 2.0]),
    "no spread of the proxy": lambda: analyzed(grid().drop(columns="reward_std")),
    "scores": lambda: analyzed(grid(acc=-3.0)),
    "accuracy 0": lambda: analyzed(grid(acc=0.0)),
    "one point": lambda: build_results([point("paper", 1.0, seed, 0, 4.0, 5) for seed in (0, 1)], {}, {"name": "one"}),
    "holes": lambda: analyzed(holes()),
    "seeds with other β": lambda: analyzed(grid()[lambda f: (f["seed"] == 0) | (f["beta"] > 1)]),
    "no seed has every β": lambda: analyzed(grid()[lambda f: (f["seed"] == 0) == (f["beta"] > 1)]),
    "two variants": lambda: analyzed(
        pd.concat([grid(method="a"), grid(method="b").assign(reward=4.0)]), variant="method"
    ),
}


@pytest.fixture(params=RECORDS, scope="module")
def results(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RECORDS[request.param]()


def test_records_keep_to_the_schema_and_say_why_a_number_is_missing(results: dict[str, Any]) -> None:
    check(results)


def test_logs_of_several_runs_with_and_without_beta(tmp_path: Path) -> None:
    """A run of β 1 and two of unknown β: nothing is compared across them, not even by the stand-in for an unknown β."""
    rows = grid()[lambda f: (f["beta"] == 1) & (f["seed"] == 0)].drop(columns=["beta", "seed"])
    for name in ("beta-1-seed-0", "first/plain", "second/plain"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    record = check(analyze_paths([tmp_path], Options()).results)
    assert [r["beta"] for r in record["conditions"]] == [1, None, None]
    assert record["differences"] == []
    assert [run["beta"] for run in record["source"]["runs"]] == [1, None, None]


def test_the_schema_is_sound_and_of_this_version() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
    assert schema()["$id"].endswith(f":{SCHEMA_VERSION}")
    used = {value for _, value, _ in walk(schema()) if isinstance(value, str) and value.startswith("#/$defs/")}
    assert used == {f"#/$defs/{name}" for name in schema()["$defs"]}


def test_every_object_with_fixed_keys_is_closed() -> None:
    open_ones = {"PreferenceSettings"}

    def parts(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            if value.get("type") == "object" and name not in open_ones:
                yield name, value
            for key, part in value.items():
                yield from parts(part, key)

    objects = dict(parts(schema()))
    assert len(objects) > 40
    for name, part in objects.items():
        assert "additionalProperties" in part, name
        assert part.get("required") or not part.get("properties") or name == "ExpectedNoise", name


def test_the_schema_names_the_quantities_and_signals_of_the_code() -> None:
    definitions = schema()["$defs"]
    summarised = [
        name for name in definitions["ByBeta"]["properties"] if name not in ("beta", "onset_steps", "missing")
    ]
    assert summarised == [measure.name for measure in REGISTRY.summaries]
    assert [*definitions["Signals"]["properties"]] == [signal.name for signal in all_signals()]


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    return check(law(6, 3))


def without(path: str) -> Callable[[dict], None]:
    def change(record: dict) -> None:
        *way, last = path.split(".")
        del at(record, way)[last]

    return change


def put(path: str, value: Any) -> Callable[[dict], None]:
    def change(record: dict) -> None:
        *way, last = path.split(".")
        at(record, way)[last] = value

    return change


def at(record: Any, way: list[str]) -> Any:
    for part in way:
        record = record[int(part)] if isinstance(record, list) else record[part]
    return record


@pytest.mark.parametrize(
    "change",
    [
        put("schema_version", 1),
        put("new", 1),
        put("conditions", []),
        put("conditions.0.augc_standardised", -1.0),
        put("conditions.0.augc_standardised", "1.0"),
        put("conditions.0.augc_mine", 1.0),
        put("conditions.0.uq_gap_correlation_paper", 1.5),
        put("conditions.0.series.step", [0, 0.5]),
        put("conditions.0.beta", -1),
        without("conditions.0.series.gap_paper"),
        without("conditions.0.n"),
        without("summary.paper.by_beta.0.augc_standardised.n"),
        put("summary.paper.by_beta.0.augc_standardised.n", -3),
        put("summary.paper.by_beta.0.augc_standardised.mean", None),
        put("summary.paper.by_beta.0.augc_standardised.interval.low", None),
        put("summary.paper.by_beta.0.augc_centred", {}),
        put("summary.paper.minus_smallest_beta.by_beta.0.more", 1),
        put("summary.paper.standardised.spearman.p_two_sided", 0.0 - 0.1),
        put("summary.paper.standardised.law.refusal", "because"),
        put("summary.paper.standardised.beta_star.status", "sure"),
        without("summary.paper.instrument_noise"),
        put("threshold.percentile", 90),
        put("warning_signs.pooled.signals.hunch", {}),
        put("chain.paper.0.stated", 0),
        without("protocol.metrics.ood_distance"),
        without("protocol.disclosures.logging_policy"),
        put("protocol.metrics.augc.number", 3),
        put("protocol.metrics.augc.rows.0.more", 1),
        put("protocol.metrics.augc.rows", []),
        put("protocol.metrics.gap_series.rows.0.paper", "conditions.0"),
        put("grid", {"method": "percentiles", "n": None}),
        put("warnings", [""]),
    ],
)
def test_a_record_that_was_tampered_with_is_refused(sound: dict[str, Any], change: Callable[[dict], None]) -> None:
    record = copy.deepcopy(sound)
    change(record)
    assert faults(record)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        # The innermost reason counts: that of the mean says nothing about a missing n of the condition.
        ("conditions.0.kl.end", "conditions/0/kl/end"),
        ("conditions.0.series.proxy.1", "conditions/0/series/proxy/1"),
        ("summary.paper.by_beta.0.augc_standardised.mean", "summary/paper/by_beta/0/augc_standardised/mean"),
        ("protocol.disclosures.logging_policy.coverage", None),
        ("chain.paper.10.p_two_sided", "chain/paper/10/p_two_sided"),
    ],
)
def test_a_null_without_a_reason_is_found(sound: dict[str, Any], path: str, found: str | None) -> None:
    record = copy.deepcopy(sound)
    *way, last = path.split(".")
    parent = at(record, way)
    parent[int(last) if isinstance(parent, list) else last] = None
    assert unexplained(record) == ([] if found is None else [found])


def test_a_number_without_its_n_is_found(sound: dict[str, Any]) -> None:
    record = copy.deepcopy(sound)
    del record["summary"]["paper"]["by_beta"][0]["kl_end"]["n"]
    assert "summary/paper/by_beta/0/kl_end/mean" in uncounted(record)


def test_missing_names_fields_whose_values_are_null(results: dict[str, Any]) -> None:
    """No reason is given for what is there."""
    for condition in check(results)["conditions"]:
        for name in condition.get("missing", {}):
            parts = [condition.get(name), condition["series"].get(name)]
            assert any(value is None for part in parts for _, value, _ in walk(part)), name


def test_a_beta_star_has_its_damage() -> None:
    """AUGC is (1 + seed/10)·(1 + β)·12 up to what 5, 4, 3 right answers add, the same for every β: a line in β."""
    record = check(law(6, 3))
    star = record["summary"]["paper"]["standardised"]["beta_star"]
    fit = record["summary"]["paper"]["standardised"]["law"]
    assert star["status"] == "estimate"
    assert star["augc"]["value"] == pytest.approx(fit["a"] * star["value"] ** fit["b"] + fit["c"])
    assert star["augc"]["interval"]["low"] < star["augc"]["value"] < star["augc"]["interval"]["high"]
    assert record["protocol"]["metrics"]["beta_star"]["rows"][0]["standardised"] == star


def test_the_page_names_every_field_of_the_record_its_summary_and_its_protocol() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text()
    named = {part for name in re.findall(r"`([\w.*]+)`", page) for part in (name, name.split(".")[0])}
    record, definitions = schema()["properties"], schema()["$defs"]
    fields = {*record, *definitions["Summary"]["properties"], *definitions["OverBeta"]["properties"]}
    for part in ("ProtocolMetrics", "Disclosures"):
        fields |= definitions[part]["properties"].keys()
    assert fields - named == set()
    for version in re.findall(r"schema version (\d+)", page):
        assert int(version) == SCHEMA_VERSION
