"""The fast tests of betastar.models, whose models and batches are put on this device (BETASTAR_TEST_DEVICE)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from gpu_parts.check import Check

DELIVERS = ("tests",)
TESTS = Path(__file__).resolve().parents[2] / "tests" / "models"
TINY = ("test_vocabulary.py", "test_rewards.py")
WORKERS, SECONDS = 8, 60  # processes at most, and what the tests take; four took 49 s next to an H200
SHOWN = 12  # failures named in the table; all are in the log


def run(check: Check) -> None:
    if check.lacks("pytest", "the tests") or check.lacks("pydantic", "the tests"):
        return
    if not check.room_for(SECONDS, "the tests"):
        return
    result = check.work / "tests.xml"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = ["-n", str(min(WORKERS, cores))] if importlib.util.find_spec("xdist") and not check.tiny else []
    chosen = [str(TESTS / name) for name in TINY] if check.tiny else [str(TESTS)]
    options = [
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not thorough",
        "--tb=short",
        f"--junitxml={result}",
        *workers,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *chosen],
        cwd=TESTS.parents[1],
        env={**os.environ, "BETASTAR_TEST_DEVICE": check.device},
        timeout=max(1.0, check.left() - 3),
    )
    if not result.exists():
        raise RuntimeError(f"pytest ended with status {done.returncode} before it ran a test; its output is in the log")
    suite = ElementTree.parse(result).getroot().find("testsuite")
    assert suite is not None
    total, failed, skipped = (
        sum(int(suite.get(name, 0)) for name in names) for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    check.record(
        "tests",
        f"{total - failed - skipped} passed, {failed} failed, {skipped} skipped",
        case=f"tests/models on {check.device}, {float(suite.get('time', 0)):.0f} s",
        limit="none failed, some passed",
        ok=failed == 0 and total > skipped,
    )
    cases = [
        case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None
    ]
    for case in cases[:SHOWN]:
        fault = case.find("failure")
        fault = case.find("error") if fault is None else fault
        first = (fault.get("message", "") if fault is not None else "").splitlines()[:1]
        check.record("failed test", case.get("name", ""), case=case.get("classname", ""), compared="".join(first)[:160])
