"""Things in memory that hold a run: frames of pandas or polars, runs of Weights & Biases and MLflow."""

from __future__ import annotations

from typing import Any

import pandas as pd

from betastar.errors import BetastarError


def frame_of(source: Any) -> pd.DataFrame | None:
    """The log in `source` as a pandas frame with a row for each logged step; None where it is no such object.

    A run of Weights & Biases gives its whole history (`scan_history`), one of MLflow the history of every metric, from
    the tracking server that is set. Raises BetastarError where MLflow cannot give it.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if callable(getattr(source, "to_pandas", None)):  # polars, pyarrow
        return source.to_pandas()
    if callable(getattr(source, "collect", None)) and hasattr(source, "collect_schema"):  # a lazy frame of polars
        return source.collect().to_pandas()
    if callable(getattr(source, "scan_history", None)):
        return pd.DataFrame(list(source.scan_history()))
    if hasattr(source, "info") and hasattr(getattr(source, "data", None), "metrics"):
        return _mlflow(source)
    return None


def _mlflow(run: Any) -> pd.DataFrame:
    try:
        from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]
    except ImportError:
        raise BetastarError(
            "a run of MLflow needs the package mlflow", remedy="install it, or give its metrics as a data frame"
        ) from None
    client = MlflowClient()
    rows: dict[int, dict[str, float]] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            rows.setdefault(metric.step, {})[key] = metric.value
    return pd.DataFrame([{"step": step, **row} for step, row in sorted(rows.items())])
