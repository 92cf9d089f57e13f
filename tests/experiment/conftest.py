"""Fixtures of the tests of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment.small import small

from betastar.experiment import pipeline


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run, made in one process."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "run", lambda ctx, results: None)
        pipeline.run(small(), folder)
    return folder
