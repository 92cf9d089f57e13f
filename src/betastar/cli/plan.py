"""`betastar plan`: what a run will take, before it is started."""

from __future__ import annotations

import json
import sys
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from betastar.cli.commands import Overrides
from betastar.errors import BetastarError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from betastar.api import Spread
    from betastar.models.support import ModelFacts
    from betastar.planning.derive import DerivedValue
    from betastar.planning.memory import Stage
    from betastar.planning.plan import Plan, Timing
    from betastar.planning.power import Power
    from betastar.settings.config import Config
    from betastar.settings.phases import Online
    from betastar.settings.sections import BaseModelChoice

GIB = 2**30
SMALLEST = 0.005  # GiB; what is less everywhere is not listed


def plan(
    source: Annotated[str, typer.Argument(metavar="PRESET | FILE.yaml", help="What to plan.")] = "micro",
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure speed on this machine (about a minute) and estimate the run time.")
    ] = False,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Plan for a GPU of this size instead of this machine.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="PROMPT,RESPONSE", help="Token limits, if they depend on data not yet read.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Number of training pairs, if it depends on data not yet read.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory whose data to use (default: runs/NAME).")] = None,
    pilot: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A finished run from which to take the spread between seeds.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Show how the run would spread over so many GPUs with --engine ray.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the plan as JSON.")
    ] = None,
) -> None:
    """Show what a run derives, needs and computes. Reads configurations only, never weights.

    Exits with code 2 if texts are longer than a model's context.
    """
    from betastar import api

    config = api.load_config(source, overrides or [])
    if json_file is not None:
        api.check_output(json_file, "json")
    limits = _tokens(tokens)
    if memory is not None and not 0 < memory < inf:
        raise BetastarError(f"--memory {memory:g}: must be a number above 0.")
    if memory is not None and probe:
        raise BetastarError("--probe measures this machine, but --memory plans for another; remove one of them.")
    made = api.plan(config, memory_gb=memory, tokens=limits, pairs=pairs, out=out, pilot=pilot)
    console = _console()
    for line in _inputs(config, made):
        console.print(line, markup=False, soft_wrap=True)
    _print(
        console, "Values by Appendix C", ("setting", "value", "formula", "inputs", ""), _values(made.values), right=1
    )
    _print_memory(console, made)
    timing, why = _timed(made, source) if probe else (None, f"not measured; run {_again(source)} to measure it here")
    _print_work(console, made, timing, why)
    if workers is not None:
        _print_spread(console, api.spread(made, timing, workers))
    _print_power(console, made.power)
    _print_penalties(console, config)
    if json_file is not None:
        text = json.dumps(api.plan_record(made, timing), indent=1, ensure_ascii=False)
        api.write_file(json_file, text + "\n", "json")
    if (too_long := _too_long(made)) is not None:
        raise BetastarError(f"{source}: {too_long}.")


def _tokens(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise BetastarError(f"--tokens {text}: write two whole numbers from 1, as in --tokens 256,512.")
    return int(parts[0]), int(parts[1])


def _timed(made: Plan, source: str) -> tuple[Timing | None, str]:
    from betastar import api

    try:
        timing = api.timed(made)
    except BetastarError as error:
        return None, f"not measured: {error}"
    return timing, timing.method


def _again(source: str) -> str:
    return f"`betastar plan {source} --probe`"


def _console() -> Any:
    from betastar import printing

    return printing.console(width=None if sys.stdout.isatty() else 130)


def _print(console: Any, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: int) -> None:
    """A table whose column number `right` and, where it is negative, all but the first are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place == right or (right < 0 < place) else "left", no_wrap=place < 2)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _inputs(config: Config, made: Plan) -> Iterator[str]:
    facts, counts = made.facts, made.counts
    policy = _model(config.base, facts.policy)
    reward = _model(config.reward_base, facts.reward) if config.reward_base else "the same base"
    yield f"{config.name}: policies on {policy}; reward models on {reward}"
    variants = "1 variant" if len(config.variants) == 1 else f"{len(config.variants)} variants"
    methods = "" if config.default_methods else f" of {len(config.methods)} offline methods"
    yield (
        f"{counts.checkpoints // len(config.seeds)} values of β{methods} × {len(config.seeds)} "
        f"seed{'s' * (len(config.seeds) > 1)}: {counts.checkpoints} checkpoints; {variants}: {counts.adapted} "
        f"conditions online, {counts.at_once} at once"
    )
    yield f"n = {_whole(facts.train_pairs)} training pairs: {made.from_where['n']}"
    yield (
        f"tokens: prompt {facts.prompt_tokens}, response {facts.response_tokens}, sampled {facts.generated_tokens}: "
        f"{made.from_where['tokens']}"
    )
    if (too_long := _too_long(made)) is not None:
        yield f"TOO LONG: {too_long}"
    yield f"V = {facts.memory_gb:.4g} GiB: {made.from_where['V']}"


def _too_long(made: Plan) -> str | None:
    """Why the run would be refused once its tokens are counted; None if it would not."""
    contexts = [model.context for model in (made.facts.policy, made.facts.reward) if model.context is not None]
    if not contexts or made.longest <= min(contexts):
        return None
    return (
        f"prompt and response take {made.longest} tokens, but a model's context is {min(contexts)}; lower "
        "lengths.prompt, lengths.response or lengths.generated"
    )


def _model(choice: BaseModelChoice, facts: ModelFacts) -> str:
    size = f"{facts.parameters / 1e9:.2f} billion" if facts.parameters >= 1e7 else _whole(facts.parameters)
    if choice.source != "pretrained":
        name = "a model trained from scratch" if choice.source == "train" else "a random model"
        return f"{name} ({size} weights)"
    kept = "NF4" if choice.quantization == "nf4" else "not quantised"
    return f"{choice.model} ({size} weights, {kept})"


def _whole(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def _number(value: float) -> str:
    """Whole numbers in full, others to three digits."""
    return _whole(value) if float(value).is_integer() and value < 1e15 else f"{value:.3g}"


def _values(values: Sequence[DerivedValue]) -> list[tuple[str, ...]]:
    rows = []
    for v in values:
        note = ""
        if v.given is not None:
            note = f"set, not derived; the formula gives {_number(v.value)}"
        elif v.clipped:
            note = f"{'upper' if v.clipped == 'high' else 'lower'} bound; unclipped {_number(v.raw)}"
        inputs = " ".join(
            f"{name}={value:.3g}" if name in "VP" else f"{name}={value}" for name, value in v.inputs.items()
        )
        rows.append((v.setting, _number(v.used), v.formula, inputs, note))
    return rows


def _print_memory(console: Any, made: Plan) -> None:
    names = [phase.name for phase in made.phases]
    parts = dict.fromkeys(part for phase in made.phases for part in phase.parts)
    rows = []
    parts.pop("libraries")  # to the end
    for part in (*parts, "libraries"):
        sizes = [phase.parts.get(part, 0) / GIB for phase in made.phases]
        if max(sizes) >= SMALLEST:
            rows.append((part, *(f"{size:.2f}" if size >= SMALLEST else "" for size in sizes)))
    rows.append(("total", *(f"{phase.total / GIB:.2f}" for phase in made.phases)))
    _print(console, f"Memory by phase, GiB, estimated (parts of at least {SMALLEST})", ("", *names), rows, right=-1)
    need, have = made.largest.total / GIB, made.memory.total
    console.print(
        f"  Peak: {need:.1f} GiB, in {made.largest.name}; available: {have:.1f} GiB ({made.memory.name}): "
        f"{'it fits' if made.fits else 'IT DOES NOT FIT'}.",
        markup=False,
        soft_wrap=True,
    )


def _print_work(console: Any, made: Plan, timing: Timing | None, why: str) -> None:
    columns = ["stage", "adapters", "steps", "trained on", "read", "sampled"]
    rows = []
    for stage in made.stages:
        row = [stage.name, str(stage.adapters or ""), str(stage.steps or ""), *_millions(stage)]
        rows.append([*row, *([_duration(timing.seconds[stage.name])] if timing else [])])
    if timing:
        columns.append("time")
        known = [seconds for seconds in timing.seconds.values() if seconds is not None]
        rows.append(["total", "", "", "", "", "", _duration(sum(known))])
    _print(console, "Work by stage, in million tokens, at most", columns, rows, right=-1)
    console.print(f"  Time: {why.rstrip('.')}.", markup=False, soft_wrap=True)


def _print_spread(console: Any, spread: Spread) -> None:
    """Pieces of work by stage, and the schedule where the stages were timed."""
    rows = [
        [stage, str(len(sizes)), f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])]
        for stage, sizes in spread.units.items()
    ]
    _print(console, f"Pieces of work for {spread.workers} workers", ("stage", "pieces", "conditions in each"), rows, -1)
    if spread.makespan is None or spread.longest is None:
        text = "not simulated; --probe measures what a stage costs"
    else:
        text = (
            f"{_duration(spread.makespan)} with {spread.workers} workers, {_duration(spread.alone)} with one: "
            f"efficiency {spread.efficiency:.2f}. The longest chain of pieces that need each other takes "
            f"{_duration(spread.longest)}. Simulated, from the times above"
        )
    console.print(f"  Schedule: {text}.", markup=False, soft_wrap=True)


def _print_power(console: Any, power: Power) -> None:
    """What the grid and the seeds can find, and a table for others."""
    unit = "× steps of gap" if power.primary.startswith("augc") else "pp"
    seeds = f"{power.n_seeds} seed{'s' * (power.n_seeds > 1)} × {power.n_beta} β"
    if power.rise == inf:
        text = f"{seeds} can show no dependence of {power.primary} on β at all; take 3 seeds and 3 β at least"
    else:
        text = (
            f"{seeds} find a rise of {power.primary} from the smallest to the largest β with {power.power:.0%} "
            f"probability if it is at least {power.rise:.2g} residual standard deviations"
        ).replace("%", " %")
    if power.pilot is None:
        text += "; --pilot RUN says how much that is"
    elif power.slope == power.slope and power.rise < inf:
        text += (
            f", which is {power.slope:.3g} {unit} per tenfold β by {power.pilot.name} (residual sd "
            f"{power.pilot.residual_sd:.3g} {unit}, {power.pilot.degrees_of_freedom} degrees of freedom)"
        )
    else:
        text += f"; in {power.pilot.name} {power.primary} does not scatter at all"
    if power.for_smallest_effect == power.for_smallest_effect:
        share = f"{power.for_smallest_effect:.0%}".replace("%", " %")
        text += f". For analysis.smallest_effect the probability is {share}"
    rows = [
        [str(n), *("–" if rise == inf else f"{rise:.2g}" for rise in row)]
        for n, row in zip(power.seeds, power.table, strict=True)
    ]
    _print(console, "Smallest rise found (sd)", ["seeds", *(f"{n} β" for n in power.betas)], rows, right=-1)
    console.print(f"  Power: {text}.", markup=False, soft_wrap=True)


def _print_penalties(console: Any, config: Config) -> None:
    """The KL penalty of each variant in the terms of others."""
    columns = ("variant", "κ", "β of a KL in the reward", "TRL")
    _print(
        console,
        "KL penalty, translated",
        columns,
        [_penalty(name, config.variant(name)) for name in config.variants],
        0,
    )
    console.print(
        "  σ_r is the standard deviation of the proxy over a batch: training.jsonl of a run has it as proxy_std.",
        markup=False,
        soft_wrap=True,
    )


def _penalty(name: str, variant: Online) -> tuple[str, str, str, str]:
    """A row. Eq. 8's gradient is −∇E[Â] + 2κ∇KL, so on advantages divided by σ_r a κ acts as β = 2κσ_r in the reward;
    on advantages that are not, as 2κ."""
    kl = variant.kl
    start = {"target": " at the start", "uncertainty": " where û is as at the start"}.get(kl.coupling, "")
    kappa = "β of the checkpoint / Q(|d|)" if kl.coupling == "paper" else f"{kl.kappa:g}{start}"
    if kl.place == "none" or (kl.coupling == "fixed" and kl.kappa == 0):
        return name, "none", "0", "beta 0"
    if kl.place == "reward":
        return name, f"{kl.kappa:g}{start}, in the reward", f"{kl.kappa:g}", f"RLOOTrainer beta {kl.kappa:g}"
    if kl.place == "loss_k3":
        return (
            name,
            f"{kappa}, on k3",
            "no equal: its gradient is that of KL(π_ref‖π)",
            f"GRPOTrainer beta {kl.kappa:g}",
        )
    scale = " σ_r" if variant.advantage in ("batch", "grpo") else ""
    beta = f"2κ{scale}" if kl.coupling == "paper" else f"{2 * kl.kappa:g}{scale}"
    return name, kappa, beta, f"RLOOTrainer beta {beta}"


def _millions(stage: Stage) -> list[str]:
    sums = [sum(pair) for pair in zip(stage.policy, stage.reward, strict=True)]
    in_order = [sums[1], sums[0], sums[2]]
    return [f"{tokens / 1e6:.3g}" if tokens >= 1e3 else "" for tokens in in_order]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
