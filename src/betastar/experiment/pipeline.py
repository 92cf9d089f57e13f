"""A run: the store and its lock, those who follow, the engine, the experiment (`algorithm.py`), its results and
report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from betastar.errors import BetastarError
from betastar.experiment import algorithm, cleaning
from betastar.experiment.context import Context
from betastar.experiment.place import Place
from betastar.experiment.runtime import Runtime
from betastar.experiment.stages import publish, report
from betastar.experiment.store import WRITER, Store
from betastar.experiment.work import write_settings
from betastar.live.status import followed
from betastar.progress import STAGES, Reporter
from betastar.record.files import read_results
from betastar.record.outputs import check_run_folder
from betastar.settings.config import Config


def run(config: Config, folder: Path, reporter: Reporter | None = None, command: str = "") -> dict[str, Any]:
    """Run the experiment in `folder`, or finish it, or find it finished; returns what `results.json` holds. `command`
    is what those who watch it are told to continue it with.

    Raises BetastarError where the input or the machine does not allow it; what was finished before stays.
    """
    teller, engine = reporter or Reporter(), config.compute.engine
    check_run_folder(folder)
    place = None if engine.store is None else Place(engine.store, WRITER, teller.say)
    with (
        Store.of(config.compute, folder, teller.say, place) as store,
        followed(config, folder, teller, command) as everyone,
    ):
        cleaning.begin(store)
        write_settings(folder, config, place)
        if engine.kind == "ray":  # fills the store; what follows finds everything there
            config = _distributed(config, store, everyone)
        given = Context(config, store, everyone, Runtime(config, everyone))
        began: dict[str, tuple[float, float]] = {}  # by stage: when, and what had been measured by then

        def begin(name: str) -> None:
            everyone.stage(name, STAGES.index(name) + 1, len(STAGES))
            began[name] = time.monotonic(), store.measured

        start = algorithm.opening(given, begin)
        inputs, made = algorithm.sweep(start, algorithm.reference_grid(start, begin), begin)
        begin("results")  # AUGC, law, β★: lines 24-26
        results = publish.run(start.ctx, start.pairs, inputs.ensembles, start.problems, made, start.numbers)
        begin("report")  # what a person looks at
        report.run(start.ctx, results)
        cleaning.end(store)
        if cost := cost_of_measuring({**began, "": (time.monotonic(), store.measured)}):
            everyone.say(cost)
        return dict(read_results(folder))


def _distributed(config: Config, store: Store, reporter: Reporter) -> Config:
    try:
        from betastar.experiment.ray_engine import distribute
    except ImportError as error:
        if error.name != "ray":
            raise
        raise BetastarError(
            "ray is not installed", where="compute.engine.kind", remedy="pip install 'betastar[ray]'"
        ) from None
    reporter.stage(STAGES[0], 1, len(STAGES))
    return distribute(config, store, reporter)


def cost_of_measuring(began: Mapping[str, tuple[float, float]]) -> str | None:
    """One line on the share of a run that went into measuring, by stage; None where nothing was measured. `began`: for
    each stage, and for the end of the run, when it began and what had been measured by then, in seconds."""
    stages = [
        (name, after[0] - before[0], after[1] - before[1]) for (name, before), (_, after) in pairwise(began.items())
    ]
    whole, measured = sum(seconds for _, seconds, _ in stages), sum(seconds for *_, seconds in stages)
    parts = [f"{name} {spent:.0f} of {seconds:.0f} s" for name, seconds, spent in stages if spent > 0]
    share = f"measuring took {measured:.0f} of {whole:.0f} s ({measured / whole:.0%})" if parts else ""
    return f"{share}: {', '.join(parts)}; evaluation.* can lower it" if parts else None
