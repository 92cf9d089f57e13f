"""`betastar run micro`, shortened: is a run that was killed and resumed the run that was not, to the byte; are two
unbroken runs; and what does the same run measure on the CPU?

All runs go side by side: they are small and wait for launches more than for the card.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_parts.check import Check
from gpu_parts.one_run import Run

DELIVERS = ("killed and resumed", "against the CPU")
SETTINGS = (
    "base.training.steps=300", "preferences.prompts=800", "seeds=[0,1]", "online.steps=16", "evaluation.every=4",
    "evaluation.problems=32", "grid={method: percentiles}",
)  # fmt: skip
TINY = (
    "base.training.steps=8", "preferences.prompts=40", "seeds=[0]", "online={steps: 4, batch_size: 4}",
    "evaluation={every: 2, problems: 4}", "task.test_problems=40", "variants={fixed: null}", "rewards.members=2",
    "grid={method: percentiles, percentiles: [50]}", "lengths={prompt: 48, response: 24}",
    "base.geometry={hidden_size: 32, intermediate_size: 48, heads: 2, key_value_heads: 2}",
)  # fmt: skip
MEASURES = ("proxy", "true_strict", "true_lenient", "disagreement", "policy_entropy", "kl", "response_tokens")
MOST_AT_START = 0.02  # of a measure (or of 1): one response in fifty another one


def run(check: Check) -> None:
    threads = 1 if check.tiny else min(4, max(1, (os.cpu_count() or 4) // 6))
    settings = [*(TINY if check.tiny else SETTINGS), f"compute.device={check.device}", f"compute.threads={threads}"]
    settings.append("compute.checkpoint_seconds=0")  # after every step, so that the killed run resumes within a stage
    killed_at = ("online", 3 if check.tiny else 10)
    kinds = {"default settings": settings, "compute.deterministic": [*settings, "compute.deterministic=true"]}

    began = time.time()
    runs = {}
    for name, mine in kinds.items():
        for kind in ("once", "killed", *(["twice"] if check.device == "cuda" else [])):
            at = killed_at if kind == "killed" else ("", 0)
            runs[name, kind] = Run("micro", check.work / f"{name} {kind}", mine, at)
    for name, mine in kinds.items():
        died = runs[name, "killed"]
        code = died.code()
        if code != -signal.SIGKILL or (died.folder / "results.json").exists():
            raise RuntimeError(f"the run was to be killed at {killed_at}, and ended with {code}: {died.words()}")
        runs[name, "killed"] = Run("micro", died.folder, mine)
    for run in runs.values():
        run.finish()
    check.record("seconds of the runs", time.time() - began, "s", case=f"{len(runs)} side by side, one of them twice")
    for (name, kind), run in runs.items():
        if kind != "once":
            what = "killed and resumed" if kind == "killed" else "two unbroken runs"
            compare(check, what, name, runs[name, "once"].folder, run.folder, killed_at, name != "default settings")
    once = runs["default settings", "once"].folder
    against_cpu(check, once, on_cpu(check, once, settings))


def compare(check: Check, what: str, name: str, once: Path, other: Path, at: tuple[str, int], promised: bool) -> None:
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
        case=f"results.json, {name}"
        + (f", SIGKILL at step {at[1]} of stage {at[0]}" if what.startswith("killed") else ""),
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


def on_cpu(check: Check, once: Path, settings: list[str]) -> Path:
    """The part of a run that samples, scores and learns online, on the CPU from the very same checkpoints."""
    folder = check.work / "CPU"
    shutil.copytree(once / "store", folder / "store")
    for stage in ("probe", "online", "results"):
        shutil.rmtree(folder / "store" / stage)
    began = time.time()
    Run("micro", folder, [*settings, "compute.device=cpu"]).finish()
    check.record("seconds of the CPU's", time.time() - began, "s", case="probe and online stages alone")
    return folder


def against_cpu(check: Check, run: Path, cpu: Path) -> None:
    """By measure, from the same checkpoints and with the same noise. At step 0 only rounding can change a token; later
    the policies have learnt from what changed before."""
    mine, theirs = points(run), points(cpu)
    last = max(point["step"] for point in mine)
    for step in (0, last):
        pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if a["step"] == step]
        for measure in MEASURES:
            values = [(a[measure], b[measure]) for a, b in pairs]
            apart = statistics.mean(abs(a - b) for a, b in values)
            theirs_mean = statistics.mean(b for _, b in values)
            most = MOST_AT_START * max(1.0, abs(theirs_mean))
            check.record(
                "against the CPU",
                statistics.mean(a for a, _ in values),
                case=f"{measure} at step {step}, {len(values)} conditions",
                compared=f"{theirs_mean:.4g} on the CPU; mean difference {apart:.2g}",
                limit=f"difference at most {most:.2g}" if step == 0 else "",
                ok=apart <= most if step == 0 else None,
            )


def points(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
