"""Stage: what a person looks for in the run directory. `results.json`, the metrics and samples of all conditions, the
adapters by name, and the charts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from betastar.analysis.results import build_results, to_json
from betastar.store import Artefact, content_key, write_atomically
from betastar.workbench.context import Condition, Context, OnlineCondition, Parts, read_json, read_jsonl_rows

VERSION = 1
STAGE = "charts"


def run(
    ctx: Context,
    preferences: Artefact,
    ensemble: Artefact,
    problems: Artefact,
    checkpoints: Parts[Condition],
    probes: Parts[Condition],
    online: Parts[OnlineCondition],
) -> dict[str, Any]:
    """Write everything and return the results."""
    config, folder = ctx.config, ctx.store.folder
    points, samples = _points(probes, online)
    results = build_results(
        points,
        {(c.beta, c.seed): _extra(probes[c], checkpoints[c]) for c in checkpoints},
        _context(ctx, preferences, ensemble, problems),
        root_seed=config.root_seed,
        trade_off=config.law.trade_off,
    )
    text = to_json(results)
    write_atomically(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
    write_atomically(folder / "results.json", text.encode())
    write_atomically(folder / "metrics.jsonl", _lines(points.to_dict("records")))
    write_atomically(folder / "samples.jsonl", _lines(samples))
    _link_adapters(folder / "adapters", ensemble, checkpoints, online)
    results = json.loads(text)

    def draw(out: Path, key: str) -> None:
        from betastar.report.charts import write_charts  # slow to import, and not needed when nothing has changed

        write_charts(results, out)

    charts = ctx.made(STAGE, [VERSION, content_key(results)], [], draw)
    (folder / "charts").mkdir(exist_ok=True)
    for chart in charts.folder.glob("*.png"):
        shutil.copyfile(chart, folder / "charts" / chart.name)
    return results


def _points(probes: Parts[Condition], online: Parts[OnlineCondition]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
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
        points = [read_json(probe / "point.json")["start"], *read_jsonl_rows(folder / "metrics.jsonl")]
        rows += [{**name, **point} for point in points]
        kept = [{"step": 0, **s} for s in read_json(probe / "samples.json")] + read_jsonl_rows(folder / "samples.jsonl")
        samples += [{**name, **sample} for sample in kept]
    return pd.DataFrame(rows), samples


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
        "again": {name: point["again"][name] for name in ("proxy", "true_strict", "true_lenient", "disagreement")},
    }


def _context(ctx: Context, preferences: Artefact, ensemble: Artefact, problems: Artefact) -> dict[str, Any]:
    config = ctx.config
    parts = {part: len(read_json(problems.folder / f"{part}.json")) for part in ("train", "test")}
    return {
        "name": config.name,
        "root_seed": config.root_seed,
        "prompt_split": config.online.prompt_split,
        "grid": config.grid.model_dump(mode="json"),
        "variants": {name: config.variant(name).model_dump(mode="json") for name in config.variants},
        "problems": {**parts, "evaluated": min(config.evaluation.problems, parts["test"])},
        "data": read_json(preferences.folder / "statistics.json"),
        "rewards": read_json(ensemble.folder / "metrics.json"),
    }


def _lines(rows: list[Mapping[str, Any]] | list[dict[str, Any]] | list[dict[Any, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


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
