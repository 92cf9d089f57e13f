"""The commands: each parses, calls the library, prints."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from betastar import printing
from betastar.errors import BetastarError
from betastar.printing import say, say_json

Details = Annotated[
    bool, typer.Option("--details", help="Also print the tables of warning signs and of the causal chain.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, for example online.steps=40."),
]


Store = Annotated[
    str | None, typer.Option(metavar="URI", help="Common store of machines without a shared disk: s3://…, gs://…")
]


class Engine(StrEnum):
    """Engines of `--engine`."""

    local = "local"
    ray = "ray"


def run(
    source: Annotated[str, typer.Argument(metavar="PRESET | FILE.yaml", help="What to run.")] = "micro",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (default: runs/NAME).")] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="ray: share the sweep among many GPUs (compute.engine; default: local).")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="auto | HOST:PORT", help="The Ray cluster (default: start one here).")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of Ray workers (default: one per GPU).")] = None,
    store: Store = None,
    details: Details = False,
) -> None:
    """Run the experiment or resume an interrupted run; finished work is reused."""
    from betastar import api

    given = {"kind": engine and engine.value, "address": address, "workers": workers, "store": store}
    if engine is not Engine.ray and (address or workers):
        raise BetastarError("--address and --workers need --engine ray; add it, or leave them out.")
    chosen = [f"compute.engine.{name}={value}" for name, value in given.items() if value is not None]
    started = time.time()
    again = shlex.join(["betastar", "run", *sys.argv[2:]])
    try:
        results = api.run(source, out=out, overrides=[*(overrides or []), *chosen], command=again)
    except KeyboardInterrupt:
        say(f"\nStopped. Finished work is kept; continue with: {again}", error=True)
        raise SystemExit(130) from None
    results.show(details, time.time() - started)


def work(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory, shared by all workers.")],
    stage: Annotated[
        str | None, typer.Argument(metavar="STAGE", help="What to make; without it, list what can be made now.")
    ] = None,
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY…", help="Parts of the stage; without them, the whole stage.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="PRESET | FILE.yaml", help="What to run; needed only to begin.")
    ] = None,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of workers among which the list shares a stage.")] = 1,
    share: Annotated[
        str | None, typer.Option(metavar="I/N", help="Make share I (from 0) of N of the stage, as a SLURM array does.")
    ] = None,
    store: Store = None,
) -> None:
    """Make one unit of a run's work, or list the units that can be made now. Many processes may share a run."""
    from betastar import api

    if overrides and source is None:
        raise BetastarError("--set needs --source: settings are given once, when the run is begun.")
    made = api.work(
        run,
        stage,
        keys or [],
        source=source,
        overrides=overrides or [],
        workers=workers,
        share=_share(share),
        store=store,
    )
    if stage is None:
        for line in made:
            say(line)


def _share(text: str | None) -> tuple[int, int] | None:
    """I/N with I from 0 to N − 1."""
    if text is None:
        return None
    place, _, of = text.partition("/")
    if not (place.isdecimal() and of.isdecimal() and int(place) < int(of)):
        raise BetastarError(f"--share {text}: write I/N with I from 0 to N − 1, as in --share 0/16.")
    return int(place), int(of)


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, or a folder written by `betastar analyze`.")
    ],
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write the page; figures/ goes next to it (default: in RUN)."),
    ] = None,
    paper: Annotated[
        str | None,
        typer.Option(metavar="WIDTH", help='Figures as a paper prints them: "one column" or "two columns" wide.'),
    ] = None,
) -> None:
    """Write report.html, which works offline, and figures/ as SVG, PDF and PNG."""
    from betastar import api

    page = api.load(run).report(out, paper)
    say(f"{page}\n{page.parent / 'figures'}/")
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN…",
            help="Run directories or folders written by `betastar analyze`; the others are compared with the first. "
            "NAME=RUN names a run.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.html", help="The page; FILE.json and figures/FILE-* go next to it.")
    ] = Path("comparison.html"),
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Compare runs: settings, both rewards, damage by β, differences paired within seeds if seeds match."""
    from betastar import api

    made = api.compare(*runs, out=out)
    made.show()
    say(f"Open {made.page}; numbers are in {made.numbers}, figures in {made.figures}/{made.page.stem}-*")
    if show:
        import webbrowser

        webbrowser.open(made.page.resolve().as_uri())


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Refresh interval.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot and exit (the default when output is not a terminal).")
    ] = False,
) -> None:
    """Watch a run live: stages, losses, rewards. Only reads files, so it never disturbs the run; Ctrl-C exits."""
    from betastar.api import look, picture
    from betastar.printing import Filtered

    if not interval < 1e6:  # seconds; NaN is none
        raise BetastarError(f"--interval {interval:g}: not a number of seconds to wait; give one.")
    console = printing.console()
    if once or not sys.stdout.isatty():
        console.print(picture(look(run), console.width), crop=False)  # a command is not cut
        return
    from rich.live import Live

    view = look(run)
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Filtered(picture(view, console.width, console.height)), refresh=True)
            if view.phase in ("finished", "failed"):
                return
            time.sleep(interval)
            view = look(run)


def clean(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed (default: only list it).")] = False,
) -> None:
    """List what nothing needs any more in a run directory, with sizes: old settings' results, orphaned checkpoints."""
    from betastar import api

    found = api.clean(run, delete=yes)
    for item in found.removable:
        say(f"{_size(item.bytes):>9}  {item.path.relative_to(run)}  ({item.what})")
    if found.unfinished:
        say(f"Results and checkpoints are kept: {found.unfinished}. Run it to its end, then clean again.")
    if not found.removable:
        say("Nothing to delete.")
        return
    total = f"{_size(found.bytes)} in {len(found.removable)} item{'s' * (len(found.removable) > 1)}"
    again = f"Nothing was deleted; `{shlex.join(['betastar', 'clean', str(run), '--yes'])}` deletes it."
    say(f"Deleted {total}." if yes else f"{total}. {again}")


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


class Format(StrEnum):
    """How the table is written."""

    csv = "csv"
    latex = "latex"
    markdown = "markdown"


SUFFIXES = {".csv": Format.csv, ".tex": Format.latex}


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, or a folder written by `betastar analyze`.")
    ],
    kind: Annotated[
        Format | None, typer.Option("--format", help="Default: from the suffix of --out, else markdown.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the table (default: print it).")
    ] = None,
) -> None:
    """Export the paper's Table 1: AUGC, û, onset and r_UQ by variant and β, and Spearman's ρ."""
    from betastar import api

    kind = kind or SUFFIXES.get("" if out is None else out.suffix.lower(), Format.markdown)
    text = api.load(run).table_1(kind.value)
    if out is None:
        say(text, end="")
        return
    api.write_file(out, text)


MARKS = {"ok": "ok     ", "warning": "warning", "failure": "FAILURE"}


def doctor(
    source: Annotated[
        str | None, typer.Argument(metavar="PRESET | FILE.yaml", help="Check what this run needs.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Check versions, devices, disk, quantisation and the hub. Exits with code 1 if something needed is missing."""
    from betastar import api

    config = api.load_config(source, overrides or []) if source else None
    failed = False
    for finding in api.examined(config):
        say(f"{MARKS[finding.level]}  {finding.what:14}{finding.found}")
        if finding.remedy:
            say(f"{'':9}{'':14}→ {finding.remedy}")
        failed |= finding.level == "failure"
    if failed:
        raise SystemExit(1)


class TrueUnit(StrEnum):
    """What a true reward is."""

    share = "share"
    percent = "percent"
    score = "score"


class Grading(StrEnum):
    """Graders of `--grade`."""

    gsm8k = "gsm8k"
    gsm8k_lm_eval = "gsm8k-lm-eval"
    math = "math"
    number = "number"
    text = "text"
    choice = "choice"


class Per(StrEnum):
    """What a KL is counted per."""

    response = "response"
    token = "token"


class Verdicts(StrEnum):
    """Verdicts of `--fail-on`."""

    hacked = "hacked"
    degraded = "degraded"


class Layout(StrEnum):
    """Layouts of `--format`."""

    table = "table"
    markdown = "markdown"


FAILED_ON = 3
"""Exit code of `analyze --fail-on` where a run has that verdict."""


def analyze(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH…", help="Log files, or folders to search. Every run is a condition."),
    ] = None,
    proxy: Annotated[str | None, typer.Option(metavar="COLUMN", help="The reward that training optimised.")] = None,
    true: Annotated[str | None, typer.Option(metavar="COLUMN", help="The verifiable reward.")] = None,
    step: Annotated[str | None, typer.Option(metavar="COLUMN", help="The training step.")] = None,
    uncertainty: Annotated[str | None, typer.Option(metavar="COLUMN", help="The disagreement û of the proxy.")] = None,
    beta: Annotated[
        str | None, typer.Option(metavar="COLUMN|NUMBER", help="β: a column, or one value for all runs.")
    ] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="COLUMN|NUMBER", help="Seed: a column, or one value for all runs.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Another setting to compare, besides β.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="Another quantity, for example kl=actor/kl_loss.")
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX", help="Extract (?P<beta>…), (?P<seed>…) or (?P<variant>…) from a run's path or name."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Number of responses behind each true reward.")] = None,
    true_unit: Annotated[TrueUnit | None, typer.Option(help="Unit of the true reward, if it is not a share.")] = None,
    until: Annotated[int | None, typer.Option(metavar="STEP", min=1, help="Ignore later steps.")] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURE",
            help="What the answer over β rests on: regret (default), end_change, points_lost, augc_common, "
            "augc_standardised or augc_paper.",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:RUN]",
            help="True rewards of checkpoints, measured elsewhere: a table with steps, or results of "
            "lm-evaluation-harness, lighteval or inspect_ai.",
        ),
    ] = None,
    truth_distance: Annotated[
        int | None, typer.Option(metavar="STEPS", min=0, help="How far from a logged step such a true reward may be.")
    ] = None,
    grade: Annotated[
        Grading | None, typer.Option(help="Grade the texts of responses anew, where the log has them.")
    ] = None,
    kl_per: Annotated[
        Per | None, typer.Option(help="What the logged KL is counted per (default: as its framework does).")
    ] = None,
    max_gb: Annotated[
        float | None, typer.Option(metavar="SIZE", help="Read files up to this size, unpacked (default: 2).")
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, help="Analyse up to this many runs (default: 2000).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print results.json and nothing else.")] = False,
    format: Annotated[Layout, typer.Option(help="markdown: a summary for a pull request.")] = Layout.table,
    fail_on: Annotated[
        list[Verdicts] | None, typer.Option(help=f"Exit with {FAILED_ON} if a run has this verdict; can be repeated.")
    ] = None,
    list_names: Annotated[
        bool, typer.Option("--list-names", help="List the column names that are recognised, and stop.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where to write results.json, metrics.jsonl and report.html.")] = Path(
        "analysis"
    ),
    details: Details = False,
) -> None:
    """Analyse the logs of finished runs, from betastar or any other trainer; no model is needed."""
    from betastar import api

    if list_names:
        for quantity, names, of in api.known_names():
            say(f"{quantity:20} {of:40} {names}")
        return
    if not paths:
        raise BetastarError("nothing to analyse; give log files or folders.")
    started = time.time()
    results = api.analyze(
        paths,
        proxy=proxy,
        true=true,
        step=step,
        uncertainty=uncertainty,
        beta=_column_or_number(beta),
        seed=_column_or_number(seed),
        variant=variant,
        columns=_pairs(column or []),
        patterns=pattern or [],
        n=n,
        true_unit=None if true_unit is None else true_unit.value,
        until=until,
        primary=primary,
        truth=truth,
        truth_distance=truth_distance,
        grade=None if grade is None else grade.value,
        kl_per=None if kl_per is None else kl_per.value,
        max_gb=max_gb,
        max_runs=max_runs,
        out=out,
    )
    if json:
        say_json(results.json)
    elif format is Layout.markdown:
        say(results.markdown)
    else:
        for note in results.notes:
            say(f"Note: {note}")
        results.show(details, time.time() - started)
    verdicts = {condition.get("verdict") for condition in results.record["conditions"]}
    if found := [verdict.value for verdict in fail_on or [] if verdict.value in verdicts]:
        say(f"betastar: a run is {' and one is '.join(found)} (--fail-on)", error=True)
        raise SystemExit(FAILED_ON)


def _pairs(texts: list[str]) -> dict[str, str]:
    """NAME=COLUMN options; a column may have "=" in its name."""
    for text in texts:
        if "=" not in text.strip("="):
            raise BetastarError(f"--column {text}: write NAME=COLUMN, for example --column kl=actor/kl_loss.")
    return dict(text.split("=", 1) for text in texts)


def _column_or_number(text: str | None) -> Any:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def presets() -> None:
    """List the built-in presets."""
    from betastar import api

    presets = api.presets()
    width = max(map(len, presets)) + 2
    for name, what in presets.items():
        say(f"{name:{width}}{what}")


def config(
    source: Annotated[str, typer.Argument(metavar="PRESET | FILE.yaml", help="Whose settings to show.")] = "micro",
    overrides: Overrides = None,
) -> None:
    """Print every setting with its value and meaning, as YAML that `betastar run` accepts."""
    from betastar import api

    say(api.settings_text(api.load_config(source, overrides or [])))
