"""Results as text at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from betastar.printing import visible


def console() -> Any:
    """The terminal, or something wide enough to be searched."""
    from betastar import printing

    return printing.console(width=None if sys.stdout.isatty() else 140)


def show(results: Mapping[str, Any], folder: Path | None, seconds: float | None = None, details: bool = False) -> None:
    """The end of a run: per variant the answer and a table of outcomes; then warnings, and where the files are.
    `details` adds what is secondary: AUGC, the law and β★, the warning signs, the paper's causal chain."""
    from betastar.report.words import (
        difference_sentences,
        headlines,
        measure_note,
        one_beta,
        outcome_columns,
        outcome_rows,
    )

    terminal = console()
    for found in headlines(results):
        terminal.print(f"\n{_title(results, found.variant)}", style="bold", markup=False)
        print_lines(terminal, [found.verdict])
        for label, text in found.labelled:
            terminal.print(f"  {label} {text}", markup=False, soft_wrap=True)
        print_lines(terminal, found.cautions)
        columns, rows = outcome_columns(results, found.variant), outcome_rows(results, found.variant)
        print_table(terminal, None, columns, rows)
    course = any(condition["n_points"] > 1 for condition in results["conditions"])
    if course:
        print_lines(terminal, [line for line in (measure_note(results), *difference_sentences(results)) if line])
    if details:
        _details(terminal, results)
    elif course and not one_beta(results):
        print_lines(terminal, ["AUGC, the fitted law, β★ and the warning signs: --details, or the report."])
    terminal.print()
    for text in results["warnings"]:
        terminal.print(f"Warning: {text}", markup=False, soft_wrap=True)
    if folder is not None:
        files = ("results.json", "metrics.jsonl", "points.parquet", "samples.jsonl")
        names = [name for name in files if (folder / name).is_file()]
        names += [f"{name}/" for name in ("figures", "adapters") if (folder / name).is_dir()]
        terminal.print(f"\nFiles in {folder}: {', '.join(names)}", markup=False, soft_wrap=True)
        if (folder / "report.html").is_file():
            terminal.print(f"Open {folder / 'report.html'}", markup=False, soft_wrap=True)
    if seconds is not None:
        terminal.print(f"Took {seconds:.0f} s.", markup=False)


def show_comparison(comparison: Mapping[str, Any]) -> None:
    """What differs, and per variant the truth at the end by β and run, and what follows."""
    from betastar.report.comparison import MOST, notes, outcome_rows, setting_rows, settings_note, verdicts

    terminal = console()
    columns, rows = setting_rows(comparison)
    if rows:
        print_table(terminal, "Settings that differ", columns, rows[:MOST])
    elif not settings_note(comparison):
        print_lines(terminal, ["No setting differs."])
    more = f"{len(rows) - MOST} more settings differ; the page lists them." if len(rows) > MOST else ""
    print_lines(terminal, [line for line in (more, settings_note(comparison)) if line])
    for variant in dict.fromkeys(entry["variant"] for entry in comparison["outcomes"]):
        title = f"variant {variant}: true reward at the end, mean over seeds [95 % interval]"
        print_table(terminal, title, *outcome_rows(comparison, variant))
    for verdict in verdicts(comparison):
        print_lines(terminal, [f"{verdict.heading}: {verdict.sentence}", *(f"  {limit}" for limit in verdict.limits)])
    print_lines(terminal, notes(comparison))
    terminal.print()


def _title(results: Mapping[str, Any], variant: str) -> str:
    """Which variant, with what penalty; the name of the record if there is only one, without a penalty."""
    from betastar.report.words import penalty

    if words := penalty(results, variant):
        return f"variant {variant}: {words}"
    return f"variant {variant}" if len(results["summary"]) > 1 else str(results.get("name", variant))


def _details(console: Any, results: Mapping[str, Any]) -> None:
    from betastar.report.words import (
        CHAIN_COLUMNS,
        SIGNAL_COLUMNS,
        TIMING_COLUMNS,
        chain_notes,
        chain_rows,
        conclusions,
        damage_columns,
        damage_rows,
        distance_conclusions,
        mechanism_columns,
        mechanism_rows,
        signal_notes,
        signal_rows,
        signs_sentence,
        timing_rows,
    )

    for variant, summary in results["summary"].items():
        seeds = len(summary["seeds"])
        title = f"Secondary, variant {variant}: damage; mean ± standard error over seeds (n = {seeds})"
        console.print()
        print_table(console, title, damage_columns(), damage_rows(summary))
        if mechanism := mechanism_rows(summary):
            print_table(console, None, mechanism_columns(), mechanism)
        print_lines(console, [*conclusions(summary), *distance_conclusions(results["distance"][variant])])
    console.print()
    signs = results["warning_signs"]
    horizon, pooled = signs["headline_horizon"], signs["pooled"]
    title = (
        f"Do the warning signs warn of a fall by {signs['drop']:g} in true reward within {horizon} points? All runs "
        "pooled"
    )
    print_table(console, title, SIGNAL_COLUMNS, signal_rows(pooled, horizon))
    print_table(console, None, TIMING_COLUMNS, timing_rows(pooled, horizon))
    print_lines(console, [signs_sentence(results), *signal_notes(signs)])
    console.print()
    for variant, links in results["chain"].items():
        print_table(console, f"The paper's causal chain, variant {variant}", CHAIN_COLUMNS, chain_rows(links))
        print_lines(console, chain_notes(links))
        console.print()


def print_table(console: Any, title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        *(escape(visible(column)) for column in columns),
        title=escape(visible(title)) if title else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    console.print(table)


def print_lines(console: Any, lines: Sequence[str]) -> None:
    """Sentences on the terminal, indented."""
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)
