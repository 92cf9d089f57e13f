"""A run at one moment as text for a terminal: stages with bars, losses, and the two rewards as sparklines."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from betastar.live.reading import Named
from betastar.live.status import StageStatus
from betastar.live.view import Series, View
from betastar.progress import pace as in_words

BARS = "▁▂▃▄▅▆▇█"
GROUPED_FROM = 18  # so many conditions are shown as means over seeds
LOSS_WIDTH = 8
QUIET_SECONDS = 60  # a silence worth a word


class Line(NamedTuple):
    """What a line of the table of conditions shows."""

    variant: str
    name: str
    proxy: list[float]
    true: list[float]
    gap: list[float]


def frame(view: View, width: int, height: int | None = None) -> Group:
    """The whole picture, `width` columns wide. Where it would be higher than `height` lines, finished stages are
    summed up in one."""
    lines = condition_lines(view.series)
    needed = len(view.status.stages) + len(view.status.workers) + len(lines) + len({line.variant for line in lines}) + 9
    short = height is not None and needed > height
    parts: list = [_header(view), _stages(view, short)]
    parts += [Text(f"  {line}", "dim", no_wrap=True, overflow="ellipsis") for line in view.status.workers]
    if lines:
        parts += [Text(), _conditions(lines, width), Text(_legend(view.series, lines), style="dim")]
    return Group(*parts, Text(), *_ending(view, width))


def sparkline(values: Sequence[float], low: float, high: float, width: int) -> str:
    """Values as bars between `low` and `high`, at most `width` of them; a bar of several values shows their mean, and
    one without any that is known is a blank."""
    n = min(width, len(values))
    text = ""
    for i in range(n):
        part = [v for v in values[i * len(values) // n : (i + 1) * len(values) // n] if math.isfinite(v)]
        share = (_mean(part) - low) / (high - low) if high > low else 0.5
        text += BARS[min(len(BARS) - 1, max(0, int(share * len(BARS))))] if part else " "
    return text


def condition_lines(series: Sequence[Series]) -> list[Line]:
    """A line for each condition, or for each variant and β where there are many."""
    if len(series) < GROUPED_FROM:
        return [Line(s.condition.variant, _name(s.condition), s.proxy, s.true, s.gap) for s in series]
    groups: dict[tuple[str, float], list[Series]] = {}
    for one in series:
        groups.setdefault((one.condition.variant, one.condition.beta), []).append(one)
    lines = []
    for (variant, beta), mine in groups.items():
        name = f"β {beta:.3g}, {len(mine)} seeds" if len(mine) > 1 else _name(mine[0].condition)
        means = (_mean_of((s.steps, getattr(s, what)) for s in mine) for what in ("proxy", "true", "gap"))
        lines.append(Line(variant, name, *means))
    return lines


def duration(seconds: float) -> str:
    """In words, to two units: 41 s, 4 min 10 s, 2 h 5 min, 3 d 4 h."""
    whole = max(0, round(seconds))
    units = [("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60)]
    first = next((i for i, (_, n) in enumerate(units) if n), len(units) - 1)
    return " ".join(f"{n} {unit}" for unit, n in units[first : first + 2] if n or len(units) - first == 1) or "0 s"


def _header(view: View) -> Text:
    status = view.status
    words = {
        "starting": "is starting",
        "running": f"running for {duration(view.now - status.began)}",
        "finished": "finished",
        "stopped": "stopped",
        "failed": "failed",
        "killed": "not running",
        "elsewhere": f"running on {status.host}",
        "unknown": "no status.json",
    }
    style = {"running": "green", "finished": "green", "failed": "red", "killed": "red"}.get(view.phase, "yellow")
    text = Text(overflow="ellipsis", no_wrap=True)
    return (
        text.append(status.name, "bold").append("  ").append(words[view.phase], style).append(f"  {view.folder}", "dim")
    )


def _stages(view: View, short: bool) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0), expand=True)
    for _ in range(6):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    done = [stage for stage in view.status.stages if stage.ended is not None]
    if short and len(done) > 1:
        took = sum((stage.ended or 0) - (stage.began or 0) for stage in done)
        names = f"{done[0].name} to {done[-1].name}" if len(done) > 2 else f"{done[0].name}, {done[1].name}"
        table.add_row(Text("✓", "green"), names, "", "", "", duration(took))
        done = []
    left = [stage for stage in view.status.stages if stage.ended is None]
    for stage in [*done, *left]:
        table.add_row(*_stage(view, stage))
    return table


def _stage(view: View, stage: StageStatus) -> list:
    count = f"{stage.done}/{stage.total or '?'} {stage.unit}" if stage.done else ""
    note = Text("" if stage.name == "online" and view.series else stage.note)  # the table below says more
    if stage.name in view.losses and (losses := view.losses[stage.name]):
        shape = sparkline(losses, min(losses), max(losses), LOSS_WIDTH)
        note = Text(f"loss {losses[-1]:.3f} ").append(shape, "cyan")
    if stage.ended is not None:
        took = "reused" if stage.reused else duration(stage.ended - (stage.began or stage.ended))
        if not stage.reused and stage.began == stage.ended:
            took = "done"
        return [Text("✓", "green"), stage.name, count, "", "", took, note]
    if stage.began is None:
        return [Text("·", "dim"), Text(stage.name, "dim"), "", "", "", "", ""]
    halted = view.phase in ("stopped", "failed", "killed")
    mark = Text("✗", "red") if halted else Text("▸", "yellow")
    bar = ProgressBar(total=stage.total, completed=stage.done, width=10) if stage.total and stage.done else ""
    rate, left = pace(stage, view.now)
    if halted:
        left = ""
    elif not rate and view.phase == "running":
        left = f"for {duration(view.now - stage.began)}"
    return [mark, Text(stage.name, "bold"), count, bar, rate, left, note]


def pace(stage: StageStatus, now: float) -> tuple[str, str]:
    """The rate of a running stage and the time it will still take, in words; empty where they are not known yet."""
    if stage.first_at is None or stage.last_at is None or stage.last_at <= stage.first_at:
        return "", ""
    rate = (stage.done - stage.first_done) / (stage.last_at - stage.first_at)
    if rate <= 0:
        return "", ""
    left = (stage.total - stage.done) / rate - (now - stage.last_at)
    return (
        in_words(rate, ""),
        f"{duration(left)} left" if stage.total > stage.done else "",
    )


def _conditions(lines: Sequence[Line], width: int) -> Table:
    names = max(len(line.name) for line in lines) + 2
    # Beside the two sparklines: three numbers of 7 columns and 2 between each of the six.
    spark = max(6, min(40, (width - names - 3 * 7 - 6 * 2) // 2))
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "left", "right", "right"):
        table.add_column(no_wrap=True, justify=justify)
    table.add_row("", "proxy", "", "true", "", "gap, sd", style="dim")
    proxy, true = _range(line.proxy for line in lines), _range(line.true for line in lines)
    variant = None
    for line in lines:
        if line.variant != variant:
            variant = line.variant
            table.add_row(Text(f"{variant}", "bold"))
        table.add_row(
            f"  {line.name}",
            Text(sparkline(line.proxy, *proxy, spark), "cyan"),
            _number(line.proxy[-1], "+.2f"),
            Text(sparkline(line.true, *true, spark), "magenta"),
            _number(line.true[-1], ".2f"),
            _number(line.gap[-1], "+.2f"),
        )
    return table


def _legend(series: Sequence[Series], lines: Sequence[Line]) -> str:
    proxy, true = _range(line.proxy for line in lines), _range(line.true for line in lines)
    means = " Means over seeds." if len(lines) < len(series) else ""
    last = max(s.steps[-1] for s in series)
    return (
        f"Steps 0 to {last}. Bars: proxy {proxy[0]:.2f} to {proxy[1]:.2f}, true {true[0]:.2f} to {true[1]:.2f}; "
        f"gap: proxy minus true, standardised.{means}"
    )


def pasteable(command: str, width: int) -> list[str]:
    """A shell command as lines of at most `width` columns, where its words allow it, that can be copied as they are
    shown: each but the last ends in a backslash. A terminal would break it within words."""
    lines = [""]
    for word in command.split(" "):  # quoted spaces end no line: the next word would begin outside the quotes
        longer = f"{lines[-1]} {word}".strip()
        whole = _is_whole(lines[-1])
        if lines[-1] and whole and len(longer) > width - 2:
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _is_whole(text: str) -> bool:
    """Whether every quote in the beginning of a command is closed."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def _ending(view: View, width: int) -> list[Text]:
    """What to know or do next."""
    status, quiet = view.status, view.now - view.written
    since = f"{_clock(view.written, view.now)} ({duration(quiet)} ago)"
    here = "" if status.directory in ("", os.getcwd()) else f"cd {shlex.quote(status.directory)} && "
    go_on = Text("Run the same command again to continue.")
    if status.command:
        lines = pasteable(f"{here}{status.command}", width)
        begins = "Continue with: " if len(lines) == 1 and len(lines[0]) + 15 <= width else "Continue with:\n"
        go_on = Text(begins + "\n".join(lines), no_wrap=True, overflow="ignore")
    if view.phase == "finished":
        took = duration(status.updated - status.began)
        return [Text(f"Finished at {_clock(status.updated, view.now)} after {took}; the results are in {view.folder}.")]
    if view.phase == "failed":
        return [Text(f"Failed at {_clock(status.updated, view.now)}: {status.message}", "red"), go_on]
    if view.phase == "stopped":
        return [Text(f"Stopped by the user at {_clock(status.updated, view.now)}; finished work is kept."), go_on]
    if view.phase == "killed":
        return [Text(f"The process is gone; it last wrote at {since}.", "red"), go_on]
    if view.phase == "unknown":
        return [Text(f"There is no status.json, so this comes from the store alone; last written at {since}.")]
    if view.phase == "elsewhere" or quiet > QUIET_SECONDS:
        return [Text(f"Last written at {since}.")]
    return []


def _clock(at: float, now: float) -> str:
    today = time.localtime(at)[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", time.localtime(at))


def _name(condition: Named) -> str:
    return f"β {condition.beta:.3g}, seed {condition.seed}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _mean_of(series: Iterable[tuple[Sequence[int], Sequence[float]]]) -> list[float]:
    """Mean at each step over the series that have got there."""
    at: dict[int, list[float]] = {}
    for steps, values in series:
        for step, value in zip(steps, values, strict=True):
            at.setdefault(step, []).append(value)
    return [_mean([v for v in values if math.isfinite(v)]) for _, values in sorted(at.items())]


def _range(series: Iterable[Sequence[float]]) -> tuple[float, float]:
    known = [v for values in series for v in values if math.isfinite(v)] or [0.0]
    return min(known), max(known)


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"
