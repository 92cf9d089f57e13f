"""What `import betastar` offers and the command line calls: run, load, analyse, compare, and what comes out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

from betastar.errors import BetastarError, argument
from betastar.progress import Reporter
from betastar.record.files import RESULTS, Run, read_comparison, read_run, to_json
from betastar.record.frames import conditions_frame, points_frame, responses_frame, summary_frame
from betastar.record.monitored import is_complete, is_monitored, monitored_rows, samples_in
from betastar.record.shapes.comparison import ComparisonRecord
from betastar.record.shapes.results import ResultsRecord
from betastar.settings.config import PRESETS, Config, load_config, preset_names

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group

    from betastar.analysis.logs.log import Options, Unit
    from betastar.experiment.cleaning import Cleaning
    from betastar.experiment.worker import Worker
    from betastar.live.view import View
    from betastar.planning.doctor import Finding
    from betastar.planning.plan import Plan, Timing
    from betastar.report.export import Format
    from betastar.report.plots import Plots

RUNS = Path("runs")
"""Default parent folder of runs."""
REPORT = "report.html"


@dataclass(frozen=True)
class Results:
    """What a run or an analysis found.

    `record`: every number, as in `results.json` (docs/results.md). `folder`: where its files are; None for an analysis
    that was not saved. `notes`: for an analysis, sentences on what was guessed, skipped and changed.
    """

    run: Run = field(repr=False)
    folder: Path | None
    notes: Sequence[str] = field(default=(), repr=False)

    @property
    def record(self) -> ResultsRecord:
        """Every number, as in `results.json`; undefined ones are None, with a reason next to them."""
        return cast(ResultsRecord, self.run.results)

    @property
    def name(self) -> str:
        """Name of the run, or of what was analysed."""
        return self.record["name"]

    @property
    def warnings(self) -> list[str]:
        """What limits this result, in sentences."""
        return self.record["warnings"]

    @cached_property
    def points(self) -> pd.DataFrame:
        """One row per evaluation point and condition; columns in docs/results.md."""
        return points_frame(self.record)

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """One row per (variant, β, seed): AUGC, onset, start and end of every measure."""
        return conditions_frame(self.record)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per variant, β and measure: the mean over seeds with its interval."""
        return summary_frame(self.record)

    @cached_property
    def responses(self) -> pd.DataFrame:
        """One row per kept response, with its scores and grades; empty for an analysis."""
        return responses_frame(self.run.samples)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row per answer to a held-out problem, without its text: rewards, length, log-ratios; columns in
        docs/results.md. Empty for an analysis, and for a run of an earlier version. Raises BetastarError if the file is
        damaged."""
        from betastar.record.answers import no_answers
        from betastar.record.monitored import kept_answers

        return no_answers() if self.folder is None else kept_answers(self.folder)

    @property
    def json(self) -> str:
        """The record as JSON, as in `results.json`."""
        return to_json(self.record)

    @property
    def markdown(self) -> str:
        """A summary in GitHub's Markdown, for a pull request or an issue."""
        from betastar.report.markdown import summary

        return summary(self.record, self.notes)

    @property
    def plot(self) -> Plots:
        """Charts of the results: `results.plot.rewards()`."""
        from betastar.report.plots import Plots

        return Plots(self.record)

    def table_1(self, format: Format = "markdown") -> str:
        """Table 1 of the paper as "markdown", "latex" or "csv"."""
        from betastar.report.export import table_1

        return table_1(self.record, format)

    def report(self, page: str | Path | None = None, paper: str | None = None) -> Path:
        """Write `report.html` (or the file `page`) with `figures/` next to it; returns the page. `paper`: "one column"
        or "two columns" for figures as a paper prints them. Raises BetastarError for an analysis that was not saved, a
        `page` that is a run's own file, or another `paper`."""
        from betastar.record.outputs import check_file
        from betastar.report.folders import write_report

        if self.folder is None:
            raise BetastarError("this analysis was not saved; call bs.analyze with out=FOLDER.")
        return write_report(self.folder, None if page is None else check_file(_path(page), "out"), paper)

    def show(self, details: bool = False, seconds: float | None = None) -> None:
        """Print what the command line prints: tables, conclusions and warnings. `details` adds the tables of warning
        signs and of the paper's causal chain; `seconds`: how long it took."""
        from betastar.report.terminal import show

        show(self.record, self.folder, seconds, details)


@dataclass(frozen=True)
class Comparison:
    """Several runs compared. `record`: every number, as in `comparison.json`; `page`: the HTML page, with the numbers
    and `figures` next to it."""

    record: ComparisonRecord = field(repr=False)
    page: Path

    @property
    def numbers(self) -> Path:
        """The JSON file."""
        return self.page.with_suffix(".json")

    @property
    def figures(self) -> Path:
        """The folder of its figures, whose names begin with the page's name."""
        return self.page.parent / "figures"

    @cached_property
    def differences(self) -> pd.DataFrame:
        """One row per difference from the first run: variant, β (NaN for the mean over all), measure, mean, standard
        error, interval and n."""
        import pandas as pd

        return pd.DataFrame(_difference_rows(self.record), columns=list(DIFFERENCE)).astype({"beta": float})

    def show(self) -> None:
        """Print what the command line prints."""
        from betastar.report.terminal import show_comparison

        show_comparison(self.record)


DIFFERENCE = ("run", "minus", "variant", "beta", "measure", "mean", "standard_error", "low", "high", "n", "reason")


def run(
    source: str | Path | Config = "micro",
    *,
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    progress: bool | Reporter = True,
    command: str = "",
) -> Results:
    """Run an experiment or resume an interrupted run; finished work is reused.

    `source`: a preset ("micro"), a YAML file, or a Config from `load_config`. `seeds` and `overrides`, such as
    {"online.steps": 40} or ["online.steps=40"], replace settings. `out`: the run directory, by default runs/NAME.
    `progress`: show progress bars in a terminal or notebook; or your own Reporter. `command`: the command shown to
    watchers for resuming the run.

    Raises BetastarError for an invalid setting, or if the machine cannot run it; finished work is kept.
    """
    config = _config(source, seeds, overrides)
    folder = RUNS / config.name if out is None else _path(out)
    from betastar.experiment import pipeline
    from betastar.live.reporters import shown

    with shown(progress) as reporter:
        reporter.say(f"betastar {config.name} → {folder}")
        results = pipeline.run(config, folder, reporter, command)
    return Results(read_run(folder, results), folder)


def work(
    run: str | Path,
    stage: str | None = None,
    keys: Sequence[str] = (),
    *,
    source: str | Path | Config | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    workers: int = 1,
    share: tuple[int, int] | None = None,
    store: str | None = None,
    progress: bool | Reporter = True,
) -> list[str]:
    """Make units of a run's work: parts `keys` of a `stage`, or without keys the whole stage, or this worker's `share`
    (place from 0, number of workers) of it. Any number of processes may do so in one run directory; `run` then finds
    everything. Parts that are finished are not made again.

    Without a `stage` nothing is made. Returns the units that can be made now, each as "STAGE KEY KEY…", with the parts
    of each stage shared among `workers`; [] when all is finished. `source` and `overrides`: what to run, as in `run`;
    needed only to begin a run. `store`: where machines without a shared disk keep results, such as
    "s3://BUCKET/PATH"; `run` is then this machine's copy.

    Raises BetastarError for a stage or key that the run does not have, for parts whose inputs are missing or that
    another process is making, and if no run has been begun.
    """
    folder = Path(run)
    from betastar.experiment import work as units
    from betastar.experiment.place import Place
    from betastar.experiment.store import WRITER, Store
    from betastar.experiment.worker import Worker
    from betastar.live.reporters import shown

    with shown(progress) as reporter:
        place = None if store is None else Place(store, WRITER, reporter.say)
        if source is not None:
            units.write_settings(folder, _config(source, None, overrides), place)
        config = units.read_settings(folder, place)
        worker = Worker(config, Store.of(config.compute, folder, reporter.say, place, shared=True), reporter)
        with worker.store:
            return _worked(worker, stage, keys, workers, share)


def _worked(
    worker: Worker, stage: str | None, keys: Sequence[str], workers: int, share: tuple[int, int] | None
) -> list[str]:
    """Make units and return them; without a stage, list what can be made."""
    from betastar.experiment import work as units

    if stage is None:
        return [str(unit) for unit in worker.ready(workers)]
    first = stage in (units.OPENING.stage, units.REFERENCE.stage)
    mine = [units.Unit(stage, tuple(keys))] if keys or first else worker.share(stage, *(share or (0, 1)))
    for unit in mine:
        worker.do(unit)
    return [str(unit) for unit in mine]


@overload
def load(path: str | Path, kind: Literal["run"] = "run") -> Results: ...
@overload
def load(path: str | Path, kind: Literal["comparison"]) -> Comparison: ...
def load(path: str | Path, kind: Literal["run", "comparison"] = "run") -> Results | Comparison:
    """Load a run, an analysis or a comparison from its folder, or a comparison from its page or JSON file.

    A comparison is recognised by its file; `kind="comparison"` also tells a type checker. The folder of a `Monitor` is
    analysed as it is now, during training too, if its results are not those of its last evaluation.

    Raises BetastarError, naming file and field, if there is nothing to load or it is damaged or of another version.
    """
    place = Path(path)
    if place.name in (RESULTS, REPORT):
        place = place.parent
    if kind == "comparison" or (place.suffix in (".html", ".json") and place.is_file()):
        return Comparison(read_comparison(place.with_suffix(".json")), place.with_suffix(".html"))
    if is_monitored(place) and not is_complete(place):
        from betastar.analysis.analyze import analyze_paths
        from betastar.analysis.logs.log import Options

        analysis = analyze_paths([place], Options(), place.name)
        samples = samples_in(monitored_rows(place))
        return Results(Run(json.loads(to_json(analysis.results)), samples, {}, []), place, analysis.notes)
    return Results(read_run(place), place)


def analyze(
    source: pd.DataFrame | str | Path | Iterable[str | Path] | Any,
    *,
    proxy: str | None = None,
    true: str | None = None,
    step: str | None = None,
    uncertainty: str | None = None,
    beta: float | str | None = None,
    seed: int | str | None = None,
    variant: str | None = None,
    columns: Mapping[str, str] | None = None,
    patterns: Sequence[str] = (),
    n: int | None = None,
    true_unit: Unit | None = None,
    until: int | None = None,
    primary: str | None = None,
    truth: str | Path | None = None,
    truth_distance: int | None = None,
    grade: Literal["gsm8k", "gsm8k-lm-eval", "math", "number", "text", "choice"] | None = None,
    name: str | None = None,
    kl_per: Literal["response", "token"] | None = None,
    max_gb: float | None = None,
    max_runs: int | None = None,
    out: str | Path | None = None,
) -> Results:
    """Analyse runs trained elsewhere: a data frame (pandas or polars) with a row per logged step or per response (the
    step may be a column or the index), a run of Weights & Biases or MLflow, or paths of log files or folders.

    Every argument except the source is optional: `proxy`, `true`, `step`, `uncertainty` and `variant` name
    columns, `beta` and `seed` a column or a number; whatever you omit is guessed from the names that trainers
    use, and the result's `notes` say how. `columns`: other fields, such as {"kl": "my_kl", "proxy_std":
    "r_std"}. `patterns`: regular expressions that find `(?P<beta>…)`, `(?P<seed>…)` or `(?P<variant>…)` in
    paths or names. `n`: number of responses behind each true reward. `true_unit`: "share" of right answers,
    "percent" or "score". `until`: the last step that counts. `primary`: the measure whose dependence on β is tested,
    declared in advance: "regret" (default), "end_change", "points_lost", "augc_common", "augc_standardised" or
    "augc_paper". `truth`: a file or folder with the true reward of checkpoints, measured elsewhere (a table with steps,
    or results of lm-evaluation-harness, lighteval or inspect_ai; "FILE:RUN" of several runs), joined to the nearest
    step at most `truth_distance` away. `grade`: grade texts of responses anew with this grader. `name`: name of the
    record. `kl_per`: what the logged KL is counted per, if not as its framework does. `max_gb`: the size up to which a
    file is read, unpacked; by default 2. `max_runs`: the most runs that are analysed; by default 2 000. `out`: a folder
    for `results.json`, `metrics.jsonl` (or `points.parquet`), `report.html` and `figures/`; without it nothing is
    written.

    Raises BetastarError, in one sentence, where rewards cannot be found, a column is not as described, or `primary` is
    no such measure.
    """
    from betastar.analysis.analyze import analyze_frame, analyze_paths
    from betastar.analysis.arguments import check_kinds, paths_of
    from betastar.analysis.logs.log import Options
    from betastar.analysis.logs.objects import frame_of
    from betastar.analysis.logs.truth import chosen_truth

    folder = None if out is None else _path(out)
    check_kinds(locals())
    if max_gb is not None and not 0 < max_gb < math.inf:
        raise BetastarError(f"{argument('max_gb', str(max_gb))}: not a size; give a number of gigabytes above 0.")
    most = None if max_gb is None else int(max_gb * 1e9)
    told = {"proxy": proxy, "true": true if truth is None else None, "step": step, "uncertainty": uncertainty}
    options: Options = Options(
        columns={key: str(column) for key, column in [*(columns or {}).items(), *told.items()] if column is not None},
        beta=beta,
        seed=seed,
        variant=variant,
        patterns=patterns,
        n=n,
        true_unit=true_unit,
        until=until,
        primary=primary,
        truth=None if truth is None else chosen_truth(str(truth), true),
        truth_distance=truth_distance,
        grade=None if grade is None else _grader(grade),
        kl_per=kl_per,
        max_runs=max_runs,
    )
    frame = None if isinstance(source, str | Path) else frame_of(source)
    if frame is not None:
        analysis = analyze_frame(frame, options, name or "frame")
    else:
        places = [source] if isinstance(source, str | Path) else paths_of(source)
        analysis = analyze_paths([Path(place) for place in places], options, name, most)
    if folder is None:
        record = json.loads(to_json(analysis.results))
        for condition, whole in zip(record["conditions"], analysis.results["conditions"], strict=True):
            condition.setdefault("series", whole["series"])
        return Results(Run(record, [], {}, []), None, analysis.notes)
    from betastar.report.folders import write_analysis

    write_analysis(analysis, folder)
    return Results(read_run(folder), folder, analysis.notes)


def known_names() -> list[tuple[str, str, str]]:
    """What trainers call the quantities of an analysis: (quantity, pattern of names, who writes it), best first."""
    from betastar.analysis.logs.names import listed

    return listed()


def _grader(name: str) -> Any:
    from betastar.data.graders import grader

    return grader(name)


def compare(*runs: str | Path, out: str | Path = "comparison.html") -> Comparison:
    """Compare runs, each a folder or "NAME=FOLDER", with the first one. Writes the page `out`, a JSON file of the same
    name, and figures.

    Raises BetastarError if a folder has no record of this version or is given twice, or if files cannot be written.
    """
    from betastar.report.folders import write_comparison

    written = write_comparison([str(place) for place in runs], _path(out))
    return Comparison(read_comparison(written.numbers), written.page)


def schema(kind: Literal["results", "comparison"] = "results") -> dict[str, Any]:
    """The JSON Schema (2020-12) of `results.json`, or of `comparison.json`."""
    from betastar.record.schema import comparison_schema
    from betastar.record.schema import schema as results_schema

    return results_schema() if kind == "results" else comparison_schema()


def presets() -> dict[str, str]:
    """The built-in presets: name → what it runs."""
    texts = {name: (PRESETS / f"{name}.yaml").read_text(encoding="utf-8") for name in preset_names()}
    return {name: text.split("\n", 1)[0].lstrip("# ") for name, text in texts.items()}


def plan(
    source: str | Path | Config = "micro",
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    memory_gb: float | None = None,
    tokens: tuple[int, int] | None = None,
    pairs: int | None = None,
    out: str | Path | None = None,
    pilot: str | Path | None = None,
) -> Plan:
    """What a run derives, needs and computes; reads configurations only, never weights. `memory_gb`: plan for a GPU of
    this size instead of this machine. `tokens`: limits of prompt and response, and `pairs`: number of training pairs,
    if they depend on data not yet read. `out`: a run directory whose data to use. `pilot`: a finished run whose spread
    tells how small a dependence on β this plan can find.

    Raises BetastarError for an invalid setting, if a model's configuration cannot be read, or for a pilot of another
    grid.
    """
    from betastar.planning.plan import make_plan

    folder = None if out is None else Path(out)
    return make_plan(
        _config(source, None, overrides),
        memory_gb=memory_gb,
        tokens=tokens,
        pairs=pairs,
        folder=folder,
        pilot=None if pilot is None else Path(pilot),
    )


def timed(made: Plan) -> Timing:
    """How long each stage of a plan takes on this machine, measured in about a minute. Raises BetastarError if it
    cannot be measured."""
    from betastar.planning.probe import probe

    return probe(made)


def spread(made: Plan, timing: Timing | None, workers: int) -> Spread:
    """How a planned run would spread over so many workers: pieces of work by stage, and where its stages were timed,
    how long it would take, by a simulation of the engine's schedule."""
    from betastar.experiment import scale
    from betastar.experiment.work import planned_units

    works, each = scale.declared(made), made.config.compute.engine.units_per_worker
    units: dict[str, list[int]] = {}
    for unit in planned_units(works, workers * each):
        units.setdefault(unit.stage, []).append(len(unit.keys))
    if timing is None:
        return Spread(workers, units, None, None, None)
    cost = scale.unit_cost(made, timing.seconds, scale.UNIT_SECONDS)
    found = scale.simulate(works, cost, workers, each)
    return Spread(workers, units, found.makespan, scale.alone(works, cost), found.longest)


class Spread(NamedTuple):
    """A schedule of a run on `workers`: conditions in each piece of work, by stage; and, where the stages were timed,
    seconds until it ends, seconds on one worker, and seconds of the longest chain of pieces that need each other."""

    workers: int
    units: dict[str, list[int]]
    makespan: float | None
    alone: float | None
    longest: float | None

    @property
    def efficiency(self) -> float | None:
        """Share of the workers' time that one worker would need too."""
        return self.alone / self.workers / self.makespan if self.makespan and self.alone else None


def plan_record(made: Plan, timing: Timing | None) -> dict[str, Any]:
    """A plan for JSON."""
    from betastar.planning.plan import record

    return record(made, timing)


def settings_text(config: Config) -> str:
    """Every setting with its value and meaning, as YAML that `run` reads."""
    from betastar.settings.config import described

    return described(config)


def examined(config: Config | None = None) -> Iterator[Finding]:
    """What this machine can do, check by check, with a remedy for what it cannot."""
    from betastar.planning.doctor import examine

    return examine(config, RUNS)


def look(folder: str | Path) -> View:
    """The current state of a run, from its files. Raises BetastarError if the folder is not a run directory."""
    from betastar.live.view import look as view_of

    return view_of(Path(folder))


def picture(view: View, width: int, height: int | None = None) -> Group:
    """A view as text for a terminal, `width` columns wide and at most `height` lines high."""
    from betastar.report.watch import frame

    return frame(view, width, height)


def clean(run: str | Path, delete: bool = False) -> Cleaning:
    """What nothing needs any more in a run directory: results of other settings, checkpoints that nothing continues,
    damaged artefacts that were set aside, half-written files. With `delete` it is removed.

    What the record in the folder was made from stays, and so does everything that a run which has not ended may go on
    from. Raises BetastarError where there is no run, and while one is under way.
    """
    from betastar.experiment.cleaning import clean as cleaned

    return cleaned(Path(run), delete)


def check_output(path: Path, option: str = "out") -> None:
    """Raises BetastarError unless a command may write a file there; `option`: the argument that names it."""
    from betastar.record.outputs import check_file

    if not check_file(path, option).resolve().parent.is_dir():
        raise BetastarError(f"{argument(option, str(path))}: not a file in an existing folder; give one.")


def write_file(path: Path, text: str, option: str = "out") -> None:
    """Replace a file atomically; `option`: the argument that names it. Raises BetastarError as `check_output` does, or
    if the disk is full or not writable."""
    from betastar.disk import write_atomically

    check_output(path, option)
    write_atomically(path, text.encode("utf-8", "replace"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that CPU or GPU memory has run out."""
    from betastar.models.devices import is_out_of_memory as is_it

    return is_it(error)


def _path(out: str | Path) -> Path:
    """Where to write. An empty text would be the current folder."""
    if not isinstance(out, str | Path):
        raise BetastarError(f"{argument('out')} is {out!r}, not a path; give one, or leave it out.")
    if not str(out):
        raise BetastarError(f"{argument('out')} is empty; give a path, or leave it out.")
    return Path(out)


def _config(
    source: str | Path | Config, seeds: Sequence[int] | None, overrides: Mapping[str, Any] | Sequence[str]
) -> Config:
    texts = [f"{key}={_yaml(value)}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else []
    texts = texts or [str(text) for text in overrides]
    if seeds is not None:
        texts.append(f"seeds={_yaml(list(seeds))}")
    if not isinstance(source, Config):
        return load_config(str(source), texts)
    if texts:
        raise BetastarError(f"{texts[0]}: a Config is final; pass seeds and overrides to load_config instead.")
    return source


def _yaml(value: Any) -> str:
    """A value as YAML reads it: a text stays as it is, so that it may be YAML itself."""
    return value if isinstance(value, str) else json.dumps(value)


def _difference_rows(record: ComparisonRecord) -> Iterator[tuple[Any, ...]]:
    for entry in record["differences"]:
        over = [{"beta": None, **entry["over_beta"]}] if entry["over_beta"] else []
        for row in [*entry["by_beta"], *over]:
            for measure, found in row.items():
                if measure != "beta":
                    ends = (found["interval"]["low"], found["interval"]["high"])
                    who = (entry["run"], entry["minus"], entry["variant"], row["beta"], measure)
                    yield (*who, found["mean"], found["standard_error"], *ends, found["n"], found["reason"])
