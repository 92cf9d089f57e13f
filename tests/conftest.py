"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

if importlib.util.find_spec("hypothesis"):  # benchmarks/gpu_check.py runs tests on machines that lack it
    import hypothesis

    # A deadline measures the machine's other work. Failures come with the example that shows them.
    hypothesis.settings.register_profile("betastar", deadline=None)
    hypothesis.settings.load_profile("betastar")

# Tests run side by side: one thread each, and none that spins while it waits (read when torch is first imported).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the checkout; not part of the repository, so tests that need them may skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}")
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and analyses in this process end without a report, which takes seconds; the tests of the report draw it."""
    from betastar.experiment import pipeline
    from betastar.report import folders

    monkeypatch.setattr(pipeline.report, "run", lambda ctx, results: None)
    monkeypatch.setattr(folders, "write_report", lambda source: source / folders.REPORT)
