"""`betastar run micro`, shortened: is a run that was killed and resumed the run that was not, to the byte; are two
unbroken runs; and what does the same run measure on the CPU?

All runs go side by side: they are small and wait for launches more than for the card.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpu_parts.check import Check
from gpu_parts.one_run import finish, start

DELIVERS = ("killed and resumed", "against the CPU")
SETTINGS = (
    "base.training.steps=300", "preferences.prompts=800", "seeds=[0,1]", "online.steps=16", "evaluation.every=4",
    "evaluation.problems=32",
)  # fmt: skip
TINY = (
    "base.training.steps=8", "preferences.prompts=40", "seeds=[0]", "online={steps: 4, batch_size: 4}",
    "evaluation={every: 2, problems: 4}", "task.test_problems=40", "variants={fixed: null}", "rewards.members=2",
    "grid.percentiles=[20, 80]", "lengths={prompt: 48, response: 24}",
)  # fmt: skip
MEASURES = ("proxy", "true_strict", "true_lenient", "disagreement", "entropy", "kl", "response_tokens")
Z = 4.0  # standard errors of the paired difference that CPU and GPU may lie apart


def run(check: Check) -> None:
    if check.lacks("pydantic", "`betastar run micro`"):
        return
    from betastar.sections import Compute, Online

    threads = 1 if check.tiny else min(4, max(1, (os.cpu_count() or 4) // 6))
    settings = [*(TINY if check.tiny else SETTINGS), f"compute.device={check.device}", f"compute.threads={threads}"]
    if "save_every" in Online.model_fields:
        settings.append(f"online.save_every={1 if check.tiny else 4}")
    killed_at = "online:3" if check.tiny else "online:10"
    kinds = {"default settings": settings}
    if "deterministic" in Compute.model_fields:
        kinds["compute.deterministic"] = [*settings, "compute.deterministic=true"]
    elif check.device == "cuda":
        check.record("not measured", "this version has no compute.deterministic", case="deterministic runs")
    on_cpu = [*settings, "compute.device=cpu"]

    with ThreadPoolExecutor(16) as pool:
        jobs = {}
        for name, mine in kinds.items() if not check.tiny else [("default settings", settings)]:
            jobs[name, "once"] = pool.submit(unbroken, check, f"{name} once", mine)
            jobs[name, "killed"] = pool.submit(killed, check, f"{name} killed", mine, killed_at)
            if check.device == "cuda":
                jobs[name, "twice"] = pool.submit(unbroken, check, f"{name} twice", mine)
        if check.device == "cuda":
            jobs["cpu", "once"] = pool.submit(unbroken, check, "CPU", on_cpu)
        for (name, kind), job in jobs.items():
            if kind in ("killed", "twice"):
                once, other = jobs[name, "once"].result(), job.result()
                what = "killed and resumed" if kind == "killed" else "two unbroken runs"
                compare(check, what, name, once, other, killed_at, promised=name != "default settings")
    once = jobs["default settings", "once"].result()
    cpu = jobs["cpu", "once"].result() if check.device == "cuda" else once
    against_cpu(check, once, cpu)


def unbroken(check: Check, name: str, settings: list[str]) -> Path:
    """A whole run; its folder."""
    folder, log = check.work / name.replace(" ", "-"), check.work / f"{name.replace(' ', '-')}.log"
    began = time.time()
    finish(start("micro", folder, settings, log), log)
    check.record("seconds of a run", time.time() - began, "s", case=f"micro, shortened; {name}; beside the others")
    return folder


def killed(check: Check, name: str, settings: list[str], at: str) -> Path:
    """The same, killed once on the way."""
    folder, log = check.work / name.replace(" ", "-"), check.work / f"{name.replace(' ', '-')}.log"
    code = start("micro", folder, settings, log, kill_at=at).wait()
    if code != -9:
        raise RuntimeError(f"the run was to be killed at {at}, and ended with {code}: {log.read_text()[-300:]}")
    if (folder / "results.json").exists():
        raise RuntimeError(f"the run was to be killed at {at}, and had finished")
    finish(start("micro", folder, settings, log), log)
    return folder


def compare(check: Check, what: str, name: str, once: Path, other: Path, at: str, promised: bool) -> None:
    """Whether two runs left the same results.json; if not, how far its numbers are apart. On a GPU equal bytes are
    promised only where they are asked for."""
    one, two = ((folder / "results.json").read_bytes() for folder in (once, other))
    if one == two:
        value, detail = "equal bytes", f"{len(one)} bytes"
    else:
        pairs = list(zip(numbers(json.loads(one)), numbers(json.loads(two)), strict=False))
        apart = [abs(a - b) / max(abs(a), abs(b)) for a, b in pairs if a != b and not math.isnan(a + b)]
        value = f"{len(apart)} of {len(pairs)} numbers differ"
        detail = f"the median of these by {statistics.median(apart):.1%}" if apart else "other text"
    check.record(
        what,
        value,
        case=f"results.json, {name}" + (f", SIGKILL at {at}" if what.startswith("killed") else ""),
        compared=detail,
        limit="equal bytes" if promised or check.device == "cpu" else "",
        ok=one == two if promised or check.device == "cpu" else None,
    )


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a record, in order."""
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def against_cpu(check: Check, run: Path, cpu: Path) -> None:
    """The same settings and seeds by measure: mean over all evaluation points, and the paired difference in its own
    standard errors. Rounding makes other texts, so the numbers are not equal, but they must have the same law."""
    mine, theirs = ({key(point): point for point in points(folder)} for folder in (run, cpu))
    # β comes from the model that was trained, so points are paired by their order and not by its value.
    paired = list(zip(mine.values(), theirs.values(), strict=True))
    for measure in MEASURES:
        values = [(a[measure], b[measure]) for a, b in paired if isinstance(a.get(measure), int | float)]
        if not values:
            continue
        differences = [a - b for a, b in values]
        spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
        apart = abs(statistics.mean(differences))
        check.record(
            "against the CPU",
            statistics.mean(a for a, _ in values),
            case=f"{measure}, mean of {len(values)} points",
            compared=f"{statistics.mean(b for _, b in values):.4g} on the CPU; {apart / spread if spread else 0:.1f} SE apart",
            limit=f"{Z:g} SE" if check.device == "cuda" else "equal: this is the CPU's own run",
            ok=apart <= Z * spread if check.device == "cuda" else apart == 0,
        )


def points(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def key(point: dict[str, Any]) -> tuple[Any, ...]:
    return point["variant"], point["beta"], point["seed"], point["step"]
