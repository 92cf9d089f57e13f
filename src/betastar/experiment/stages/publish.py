"""Stage: what a person looks for in the run directory. `results.json`, the metrics and samples of all conditions, the
adapters by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from betastar.data.preferences import Splits
from betastar.disk import read_json, read_jsonl_rows
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, OnlineCondition, Parts
from betastar.experiment.context import Context
from betastar.experiment.evaluation import held_out, probe_prompts
from betastar.experiment.making import made
from betastar.experiment.store import Artefact, copy_out, write_atomically
from betastar.record.files import METRICS, RESULTS, SAMPLES, read_points, to_json, to_json_lines
from betastar.record.points import EvaluationPoint
from betastar.settings.config import Resolved

VERSION = 4
STAGE = "results"


def run(
    ctx: Context[Resolved],
    preferences: Artefact,
    ensemble: Artefact,
    problems: Artefact,
    checkpoints: Parts[Condition],
    probes: Parts[Condition],
    online: Parts[OnlineCondition],
    hyperparameters: dict[str, Any],
) -> Artefact:
    """Write everything and return the artefact that has the results."""
    config, folder = ctx.config, ctx.store.folder
    settings = [VERSION, config.model_dump(mode="json", exclude={"compute", "tracking"}), hyperparameters]
    sources = [preferences.key, ensemble.key, problems.key]
    for parts in (checkpoints, probes, online):
        sources += [f"{condition}: {key}" for condition, key in parts.keys_of.items()]

    def build(out: Path, key: str) -> None:
        # Slow to import, and not needed when nothing has changed.
        from betastar.analysis.results import build_results

        points, samples = _points(probes, online)
        results = build_results(
            points,
            {(c.beta, c.seed): _extra(probes[c], checkpoints[c]) for c in checkpoints},
            {**_context(ctx, preferences, ensemble, problems), "hyperparameters": hyperparameters},
            root_seed=config.root_seed,
            trade_off=config.law.trade_off,
            primary=config.analysis.primary,
            smallest_effect=config.analysis.smallest_effect,
        )
        (out / RESULTS).write_text(to_json(results), encoding="utf-8")
        (out / METRICS).write_text(to_json_lines(points), encoding="utf-8")
        (out / SAMPLES).write_text(to_json_lines(samples), encoding="utf-8")

    published = made(ctx, STAGE, settings, sources, build)
    write_atomically(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
    copy_out(published, folder)
    _link_adapters(folder / "adapters", ensemble, checkpoints, online)
    return published


def _points(
    probes: Parts[Condition], online: Parts[OnlineCondition]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All evaluation points and all kept responses; the point t=0 of a checkpoint stands in each of its variants."""
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for condition, folder in online.items():
        name = {
            "variant": condition.variant,
            "beta": condition.checkpoint.beta,
            "seed": condition.checkpoint.seed,
        }
        probe = probes[condition.checkpoint]
        start = EvaluationPoint.of_row(read_json(probe / "point.json")["start"])
        rows += [{**name, **point.row()} for point in [start, *read_points(folder / METRICS)]]
        kept = [{"step": 0, **s} for s in read_json(probe / "samples.json")] + read_jsonl_rows(folder / "samples.jsonl")
        samples += [{**name, **sample} for sample in kept]
    return rows, samples


def _extra(probe: Path, checkpoint: Path) -> dict[str, Any]:
    point, trained = read_json(probe / "point.json"), read_json(checkpoint / "metrics.json")
    return {
        "alignment": {
            "pair_accuracy": trained["pair_accuracy"],
            "test_pairs": trained["test_pairs"],
            "win_rate": point["win_rate"],
            "judge": point["judge"],
        },
        "base": point["base"],
        "log_ratio_noise": point["log_ratio_noise"],
        "again": {name: point["again"][name] for name in ("proxy", "true_strict", "true_lenient", "disagreement")},
    }


def _context(ctx: Context[Resolved], preferences: Artefact, ensemble: Artefact, problems: Artefact) -> dict[str, Any]:
    """What the record says of a run beside what follows from its evaluation points. A setting that is not set is left
    out."""
    config, found = ctx.config, readers.problems(problems)
    splits = {name: len(read_jsonl_rows(preferences.folder / f"{name}.jsonl")) for name in Splits._fields}
    return {
        "name": config.name,
        "root_seed": config.root_seed,
        "prompt_split": config.online.prompt_split,
        "grid": config.grid.model_dump(mode="json", exclude_none=True),
        "variants": {name: config.variant(name).model_dump(mode="json", exclude_none=True) for name in config.variants},
        "evaluation": config.evaluation.model_dump(mode="json"),
        "problems": {
            "train": len(found.train),
            "test": len(found.test),
            "evaluated": len(held_out(ctx, found.test)),
            "probe": len(probe_prompts(ctx, found.test)),
        },
        "preferences": config.preferences.model_dump(mode="json", exclude_none=True),
        "data": {**read_json(preferences.folder / "statistics.json"), "splits": splits},
        "rewards": read_json(ensemble.folder / "metrics.json"),
    }


def _link_adapters(
    folder: Path, ensemble: Artefact, checkpoints: Parts[Condition], online: Parts[OnlineCondition]
) -> None:
    """`adapters/<stage>/<condition>` as relative links into the store: PEFT folders by name, nothing copied."""
    wanted = {folder / "offline" / str(c): path / "adapter" for c, path in checkpoints.items()}
    wanted |= {folder / "online" / str(c): path / "adapter" for c, path in online.items()}
    members = [path for path in ensemble.folder.iterdir() if path.is_dir()]
    wanted |= {folder / "rewards" / path.name: path for path in members}
    for link in folder.glob("*/*"):
        if link.is_symlink():
            link.unlink()
    for link, target in wanted.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(os.path.relpath(target, link.parent))
