"""A run seen from outside: its stages, how far they are, and how long they will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from betastar.errors import BetastarError
from betastar.live.reading import (
    Named,
    Row,
    all_rows,
    changed,
    is_condition,
    is_count,
    is_number,
    listed,
    named,
    record,
    rows_by_name,
    standardised_gaps,
    start_point,
)
from betastar.live.status import FILE, StageStatus, Status, is_alive, read_status
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
        parts = record(artefact / "manifest.json").get("parts")
        parts = parts if isinstance(parts, dict) else {}
        names = sorted(name for name in parts.values() if isinstance(name, str)) or [
            path.parent.name for path in listed(artefact, "*/training.jsonl")
        ]
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
        stage.done = max((step for row in rows if is_count(step := row.get("step", 0))), default=0)
        key = partial.name.removeprefix(f"{name}-")
        made = sorted({n for row in rows if isinstance(n := row.get("condition"), str)}) or _unnamed(name, rows)
        stage.folders |= {part: f"store/{name}/{key}/{part}" for part in made}
    return stage


def _unnamed(stage: str, rows: list[dict]) -> list[str]:
    """Names for the columns of a log that does not tell them."""
    losses = rows[-1].get("loss") if rows else None
    return [f"{stage}-{i}" for i in range(len(losses))] if isinstance(losses, list) else []


Phase = Literal["starting", "running", "finished", "stopped", "failed", "killed", "elsewhere", "unknown"]


class Series(NamedTuple):
    """The evaluation points of an online condition so far, at `steps`; `gap` is the standardised one."""

    condition: Named
    steps: list[int]
    proxy: list[float]
    true: list[float]
    gap: list[float]


class View(NamedTuple):
    """A run at the time `now`. `written` is when a file of it last changed; `losses` by stage are means over members or
    conditions, a value for each step."""

    folder: Path
    status: Status
    phase: Phase
    now: float
    written: float
    losses: Mapping[str, Sequence[float]]
    series: Sequence[Series]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory, be it one that has just begun."""
    return any((folder / name).exists() for name in (FILE, "store")) or (
        (folder / "results.json").is_file()
        and (folder / "metrics.jsonl").is_file()
        and (folder / "config.yaml").is_file()
    )


def look(folder: Path, now: float | None = None) -> View:
    """The run in a folder as it is. Raises BetastarError where the folder holds no run."""
    if not folder.is_dir():
        raise BetastarError(
            f"{folder}: no such folder; give the run directory that `betastar run` prints when it starts."
        )
    if not is_run(folder):
        raise BetastarError(
            f"{folder}: not a run directory (no {FILE}, no store); give the folder that `betastar run` writes."
        )
    now = time.time() if now is None else now
    found = read_status(folder)
    status = found or guessed_status(folder)
    places = {s.name: {name: folder / path for name, path in s.folders.items()} for s in status.stages}
    losses = {
        stage: mean_by_step(rows_by_name(folder, stage, places.get(stage, {}), "training").values())
        for stage in ("rewards", "offline")
    }
    if status.state == "finished" and (folder / "metrics.jsonl").is_file():
        series = _published(all_rows(folder / "metrics.jsonl"))
    else:
        points = rows_by_name(folder, "online", places.get("online", {}), "metrics")
        points = {name: rows for name, rows in points.items() if is_condition(name)}
        starts = {name: start_point(places.get("probe", {}), name) for name in points}
        series = [
            made for name, rows in points.items() if starts[name] and (made := _series(named(name), starts[name], rows))
        ]
    written = max([status.updated, *map(changed, listed(folder / "store" / "partial", "*/*"))])
    return View(folder, status, _phase(folder, found, status), now, written, losses, sorted(series, key=_order(status)))


def _phase(folder: Path, found: Status | None, status: Status) -> Phase:
    if status.state != "running":
        return status.state
    if found is None:
        return "unknown" if any(stage.began for stage in status.stages) else "starting"
    alive = is_alive(found)
    return "elsewhere" if alive is None else "running" if alive else "killed"


def _order(status: Status) -> Callable[[Series], tuple]:
    """Variants as the run lists them, then β, then seed."""
    variants = list(dict.fromkeys(named(n).variant for n in status.stage("online").folders if is_condition(n)))
    place = {variant: i for i, variant in enumerate(variants)}
    return lambda series: (place.get(series.condition.variant, len(place)), *series.condition)


def _series(condition: Named, start: Row | None, rows: Sequence[Row]) -> Series | None:
    points = [
        row
        for row in ([start] if start else []) + list(rows)
        if is_count(row.get("step")) and is_number(row.get("proxy")) and is_number(row.get("true_strict"))
    ]
    if not points:
        return None
    return Series(
        condition,
        [row["step"] for row in points],
        [row["proxy"] for row in points],
        [row["true_strict"] for row in points],
        standardised_gaps(points[0] if points[0]["step"] == 0 else None, points),
    )


def _published(rows: Sequence[Row]) -> list[Series]:
    """The series of a finished run's metrics.jsonl."""
    groups: dict[Named, list[Row]] = {}
    for row in rows:
        if isinstance(row.get("variant"), str) and is_number(row.get("beta")) and is_count(row.get("seed")):
            groups.setdefault(Named(row["variant"], row["beta"], row["seed"]), []).append(row)
    return [made for condition, mine in groups.items() if (made := _series(condition, None, mine))]


def mean_by_step(logs: Iterable[Sequence[Row]]) -> list[float]:
    """The mean loss of each step over logs; members that are trained one after the other have it where they are."""
    sums: dict[int, list[float]] = {}
    for rows in logs:
        for row in rows:
            loss = row.get("loss")
            if isinstance(loss, int | float) and math.isfinite(loss):
                step = row.get("step", 0)
                sums.setdefault(step if is_count(step) else 0, []).append(loss)
    return [sum(losses) / len(losses) for _, losses in sorted(sums.items())]
