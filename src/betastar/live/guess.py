"""The status of a run directory that holds no `status.json`: an older run, or one whose disk was full."""

from __future__ import annotations

import time
from pathlib import Path

from betastar.live.reading import all_rows, changed, listed, record
from betastar.live.status import StageStatus, Status
from betastar.progress import STAGES


def guessed_status(folder: Path) -> Status:
    """What the store alone tells: the artefacts that are there, and what is in the making. Its times are those of
    files; where several settings have left conditions of the same name, the newest counts."""
    stages = [_stage(folder, name) for name in STAGES]
    begun = [place for place, stage in enumerate(stages) if stage.began is not None]
    for stage in stages[: begun[-1]] if begun else []:  # a later one has begun
        stage.began = stage.began or stages[begun[-1]].began
        stage.ended = stage.ended or stage.began
    times = [t for stage in stages for t in (stage.began, stage.last_at, stage.ended) if t is not None]
    finished = (folder / "results.json").is_file() and not any(stage.first_at for stage in stages)
    return Status(
        name=str(record(folder / "results.json").get("name") or folder.resolve().name),
        state="finished" if finished else "running",
        began=min(times, default=time.time()),
        updated=max(times, default=time.time()),
        stages=stages,
    )


def _stage(folder: Path, name: str) -> StageStatus:
    stage, store = StageStatus(name=name), folder / "store"
    artefacts = sorted(listed(store / name, "[0-9a-f]*"), key=changed)
    for artefact in artefacts:
        parts = record(artefact / "manifest.json").get("parts") or {}
        names = sorted(parts.values()) or [path.parent.name for path in listed(artefact, "*/training.jsonl")]
        inside = {part: artefact / part for part in names} or {artefact.name: artefact}
        stage.folders |= {part: str(path.relative_to(folder)) for part, path in inside.items()}
    stage.missing = list(stage.folders)  # nobody says whether they were there before
    if artefacts:
        stage.began = stage.ended = changed(artefacts[-1])
    for partial in listed(store / "partial", f"{name}-*"):
        logs = [path for path in listed(partial, "**/*") if path.is_file()]
        last = max(map(changed, logs), default=0.0)
        if not logs or last < (stage.ended or 0):
            continue
        rows = all_rows(partial / "training.jsonl")
        stage.first_at = stage.last_at = last
        stage.began, stage.ended, stage.unit = stage.began or last, None, "steps"
        stage.done = max((row.get("step", 0) for row in rows), default=0)
        key = partial.name.removeprefix(f"{name}-")
        made = sorted({row["condition"] for row in rows if "condition" in row}) or _unnamed(name, rows)
        stage.folders |= {part: f"store/{name}/{key}/{part}" for part in made}
    return stage


def _unnamed(stage: str, rows: list[dict]) -> list[str]:
    """Names for the columns of a log that does not tell them."""
    losses = rows[-1].get("loss") if rows else None
    return [f"{stage}-{i}" for i in range(len(losses))] if isinstance(losses, list) else []
