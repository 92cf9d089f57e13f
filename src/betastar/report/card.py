"""The reproducibility card: what somebody needs to repeat a run, and what the paper's Appendix F asks to disclose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from betastar.errors import BetastarError
from betastar.record.files import Run, flat

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "numpy", "scipy", "pandas")
DISCLOSURES = {
    "beta_derivation": "where β came from",
    "hacking_threshold": "the hacking threshold",
    "evaluation_seeds": "evaluation seeds",
    "logging_policy": "the logging policy and coverage of the preference data",
}


class Table(NamedTuple):
    """A part of the card: heading, names of the columns, rows, and a sentence below."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    note: str = ""


def card(run: Run) -> list[Table]:
    """The tables of the card that have rows, or say why they have none."""
    tables = [
        _what(run),
        _difference(run),
        _derived(run.results),
        _coverage(run.results),
        _timings(run.manifests),
        *_protocol(run.results),
        _source(run.results),
    ]
    return [table for table in tables if table.rows or table.note]


def command(run: Run) -> str:
    """The command that repeats the run; for an analysis, how to repeat that."""
    if run.config:
        return "betastar run config.yaml --out NEW-FOLDER"
    return "betastar analyze LOGS --out NEW-FOLDER" if "source" in run.results else ""


def said(value: Any) -> str:
    """A value as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {said(part)}" for key, part in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(said(part) for part in value) or "none"
    return str(value)


def _what(run: Run) -> Table:
    results = run.results
    conditions = results["conditions"]
    machines = dict.fromkeys(str(m["machine"]) for m in run.manifests if m.get("machine"))
    pythons = dict.fromkeys(str(m["python"]) for m in run.manifests if m.get("python"))
    rows = [
        ["name", said(results.get("name"))],
        ["betastar", said(results.get("betastar"))],
        ["Python of the run", ", ".join(pythons) or "not recorded"],
        ["hardware of the run", "; ".join(machines) or "not recorded"],
        ["packages when this report was written", ", ".join(_packages())],
        ["root seed", said(results.get("root_seed"))],
        ["seeds", said(sorted({r["seed"] for r in conditions}))],
        ["β", said(sorted({r["beta"] for r in conditions if r["beta"] is not None}))],
        ["variants", said(list(results["summary"]))],
        ["problems", said(results.get("problems"))],
        ["adaptation prompts", said(results.get("prompt_split"))],
    ]
    return Table("What was run", ("", ""), [row for row in rows if row[1] != "none"])


def _packages() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _difference(run: Run) -> Table:
    """Settings that differ from the nearest preset, without those that Appendix C derived."""
    title = "Settings that differ from the preset"
    if not run.config:
        return Table(title, (), [], "")
    name, rows = nearest_preset(run.config, set(run.results.get("hyperparameters", {})))
    note = "config.yaml holds every setting."
    if name is None:
        return Table(title, (), [], f"No preset could be read for comparison; {note}")
    if not rows:
        return Table(title, (), [], f"None: this is the preset {name}. {note}")
    return Table(
        title, ("setting", f"preset {name}", "here"), rows, f"Compared with the nearest preset, {name}; {note}"
    )


def nearest_preset(config: Mapping[str, Any], derived: set[str]) -> tuple[str | None, list[list[str]]]:
    """The preset with the fewest settings that differ from `config`, the one of the same name first among equals; and
    those settings: name, its value, the value here. `derived` settings do not count where the preset says auto."""
    from betastar.settings.config import load_config, preset_names

    here = dict(flat(config))
    best: tuple[str | None, list[list[str]]] = (None, [])
    for name in sorted(preset_names(), key=lambda n: n != config.get("name")):
        try:
            there = dict(flat(load_config(name).model_dump(mode="json")))
        except BetastarError:
            continue
        rows = [
            [key, said(there.get(key, "absent")), said(here[key])]
            for key in here
            if there.get(key, "absent") != here[key] and not (key in derived and there.get(key) == "auto")
        ]
        if best[0] is None or len(rows) < len(best[1]):
            best = (name, rows)
    return best


def _derived(results: Mapping[str, Any]) -> Table:
    title, record = "Hyper-parameters", results.get("hyperparameters") or {}
    rows = []
    for name, entry in record.items():
        formula = entry.get("formula", "")
        how = "given" if entry.get("given") or not formula else "derived"
        clipped = f", at the {entry['clipped']}est allowed" if entry.get("clipped") else ""
        rows.append(
            [
                name,
                said(entry.get("value")),
                f"{how}{clipped}",
                formula,
                said(entry["inputs"]) if "inputs" in entry else "",
            ]
        )
    if not any(row[3] for row in rows):
        return Table(
            title,
            ("setting", "value"),
            [row[:2] for row in rows],
            "As configured; auto depends on the number of steps." if rows else "",
        )
    return Table(title, ("setting", "value", "", "Appendix C", "inputs"), rows)


def _coverage(results: Mapping[str, Any]) -> Table:
    rows = [[name.replace("_", " ").replace(".", ": "), said(value)] for name, value in flat(results.get("data") or {})]
    return Table("Preference data and coverage", ("", ""), rows)


def _timings(manifests: Sequence[Mapping[str, Any]]) -> Table:
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for manifest in manifests:
        stages.setdefault(str(manifest["stage"]), []).append(manifest)
    rows = [
        [
            stage,
            str(len(made)),
            f"{sum(float(m.get('write_seconds') or 0) for m in made):,.1f}",
            str(made[-1].get("finished", "")),
        ]
        for stage, made in stages.items()
    ]
    note = "Counts everything in store/, including artefacts of other settings used in this folder." if rows else ""
    return Table("Time per stage", ("stage", "artefacts", "seconds", "finished"), rows, note)


def _protocol(results: Mapping[str, Any]) -> list[Table]:
    """Appendix F: the four disclosures in words, and which of the ten metrics the record has."""
    protocol = results["protocol"]
    rows = []
    for name, entry in protocol["disclosures"].items():
        title = f"({entry.get('letter', '')}) {DISCLOSURES.get(name, name.replace('_', ' '))}"
        parts = [(k, v) for k, v in entry.items() if k not in ("letter", "settings", "coverage") and v is not None]
        rows += [[title if i == 0 else "", key.replace("_", " "), said(value)] for i, (key, value) in enumerate(parts)]
    metrics = [
        [str(metric.get("number", "")), metric.get("title", name), *_defined(metric.get("rows", []))]
        for name, metric in protocol.get("metrics", {}).items()
    ]
    return [
        Table("Appendix F: the four disclosures", ("", "", ""), rows),
        Table(
            "Appendix F: the ten metrics",
            ("", "metric", "rows", "why not"),
            metrics,
            "Values: `protocol` in results.json.",
        ),
    ]


def _defined(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many rows of a metric have a number, and the reasons of the others."""
    parts = [[row, *(part for part in row.values() if isinstance(part, Mapping))] for row in rows]
    reasons = [[part["reason"] for part in some if part.get("reason")] for some in parts]
    whole = sum(not why for why in reasons)
    return [f"{whole} of {len(rows)} whole", "; ".join(dict.fromkeys(reason for why in reasons for reason in why))]


def _source(results: Mapping[str, Any]) -> Table:
    source = results.get("source")
    if not source:
        return Table("Source", (), [])
    rows = [["files", said(source.get("files"))], *(["note", said(note)] for note in source.get("notes", []))]
    return Table("Source of these numbers", ("", ""), rows)
