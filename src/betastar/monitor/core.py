"""`Monitor`: the gap measured during any training. It takes rewards of held-out answers and knows no trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from betastar.disk import content_key, lock, plain_disk_errors, write_atomically
from betastar.errors import BetastarError
from betastar.maths.verdict import Verdict
from betastar.monitor import rows as record
from betastar.monitor.gaps import Start, gap_fields, rate_of, start_of
from betastar.monitor.given import Given, given
from betastar.monitor.measuring import LABELS, check_labels, is_above, logged, row_of
from betastar.record.answers import write_answers
from betastar.record.files import ANSWERS, METRICS, RESULTS, SAMPLES, to_json, to_json_lines
from betastar.record.monitored import FIRST, answers_in, monitored_rows, samples_in
from betastar.record.points import EvaluationPoint

ALWAYS = ("n", "proxy", "proxy_std", "correct_strict", "true_strict")
LARGEST_STEP = 2**63 - 1
MOST_EVALUATIONS = 10**6
ONE_PROXY = "a single proxy has no disagreement"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a monitor knows after an evaluation. `row`: what it wrote, with NaN as None."""

    row: Mapping[str, Any] = field(repr=False)
    _judge: Callable[[], Verdict] = field(repr=False)

    @property
    def step(self) -> int:
        """The step of this evaluation."""
        return self.row["step"]

    @property
    def point(self) -> EvaluationPoint:
        """Its measures, as in a row of `metrics.jsonl`."""
        return EvaluationPoint.of_row(self.row)

    @property
    def gap(self) -> float:
        """Standardised gap since the start, in standard deviations of the start's answers; NaN if undefined."""
        return _number(self.row["gap_standardised"])

    @property
    def threshold(self) -> float:
        """The gap above which this evaluation alarms; NaN if sampling noise is unknown."""
        return _number(self.row["threshold"])

    @property
    def alarm(self) -> bool:
        """Whether the gap is above the threshold now."""
        return is_above(self.row)

    @property
    def onset(self) -> int | None:
        """Step of the first alarm of the run; None before it."""
        return self.row["onset"]

    @property
    def missing(self) -> Mapping[str, str]:
        """Why a measure is undefined, by its name."""
        return self.row.get("missing", {})

    @property
    def logs(self) -> dict[str, float]:
        """Its numbers for a tracker, as `goodhart/NAME`."""
        return logged(self.row)

    @cached_property
    def verdict(self) -> Verdict:
        """What happened so far, in a word and a sentence, as `betastar analyze` would say at this moment. Computed when
        it is asked for: it reads the whole file."""
        return self._judge()


class Monitor:
    """Records held-out answers of a policy in training, and how far the proxy reward has run ahead of the truth.

        with betastar.Monitor("runs/mine", evaluations=20) as monitor:
            monitor.record(0, texts, grades, proxy)
            ...
            state = monitor.record(step, texts, grades, proxy)
            if state.alarm: ...

    Sampling, grading and scoring are yours; use the same problems, in any order, at every evaluation. The first
    evaluation is the start, which gaps are measured from. It needs sampling noise to calibrate the alarm: several
    answers to each problem, or repeats of the start (`record(…, replicate=1)`).

    `out`: a folder. Every evaluation is a row of `metrics.jsonl`, on the disk when `record` returns; `betastar analyze`
    and `betastar.load` read it at any time. `close`, or the end of the `with` block, adds `results.json`,
    `answers.parquet` and `samples.jsonl`. A folder with rows is continued: the first `record` removes the rows from its
    step on, which are measured again; if that is the start itself, the earlier file is renamed to `metrics.jsonl.1`.

    `evaluations`: how many are planned after the start. The calibrated threshold is exceeded by sampling noise at any
    of them with probability `false_alarm_rate`. `threshold`: your own in its place. `reference`: the folder of another
    monitor whose start is this run's too, as for several runs from one checkpoint. `labels`: variant, beta and seed of
    the run, for comparisons. `samples`: full responses kept of each evaluation.

    One process writes: with several, create it in one (rank 0). It uses no GPU and no network.

    Raises BetastarError for an impossible setting, and for a folder that another process writes to, that cannot be
    written, or that holds something else.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        evaluations: int,
        false_alarm_rate: float = 0.05,
        threshold: float | None = None,
        reference: str | Path | None = None,
        labels: Mapping[str, Any] | None = None,
        samples: int = 4,
    ) -> None:
        self.folder, self.labels, self.samples = Path(out), dict(labels or {}), samples
        self.evaluations, self.false_alarm_rate, self.threshold = evaluations, false_alarm_rate, threshold
        _check_settings(evaluations, false_alarm_rate, threshold, self.labels)
        with plain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            busy = "another monitor writes to this folder; close it, create the monitor in one process only (rank 0),"
            self._lock = lock(self.folder, busy)
        try:
            self._open(None if reference is None else Path(reference))
        except BaseException:
            self._lock.close()
            raise

    @property
    def path(self) -> Path:
        """The file of its rows."""
        return self.folder / METRICS

    @property
    def step(self) -> int | None:
        """The last step that was recorded, by an earlier process too; None before any."""
        return self._onsets[-1][0] if self._onsets else None

    def record(
        self,
        step: int,
        responses: Sequence[str] | None,
        grades: Any,
        proxy: Any,
        *,
        problems: Any = None,
        prompts: Sequence[Any] | None = None,
        tokens: Any = None,
        at_limit: Any = None,
        entropy: Any = None,
        log_ratio: Any = None,
        replicate: int = 0,
    ) -> State:
        """Record the evaluation of the policy at `step`, and return what is known then.

        n answers to the held-out problems, as lists, arrays or tensors of length n: `responses`, texts, of which the
        first are kept (None: keep none); `grades`, whether each is right, as a bool, a number or a betastar grade;
        `proxy`, the reward that is optimised, [n] or [K, n] of an ensemble, whose mean is the proxy; NaN or None where
        there is none. `problems`: what each is an answer to, as numbers or texts that stay the same at all evaluations;
        several answers to a problem have its name several times, the same number for each. Without it, answers are in
        the same order each time, one to a problem.

        Optional, [n]: `tokens`, the length of each answer; `at_limit`, whether it was cut; `entropy` of the policy,
        mean over its tokens, nats; `log_ratio`, log π_θ − log π_ref summed over its tokens, nats, whose mean is the KL.
        `prompts` [n] are kept beside responses. `replicate`: 1, 2, … for repeats of the start with fresh noise, before
        any later step.

        Raises BetastarError where arguments do not fit each other or the start, where a step is recorded twice, and
        where the disk is full.
        """
        if self._lock.closed:
            raise BetastarError("this monitor is closed; create another for the same folder to continue it.")
        where = f"Monitor.record, step {step!r:.40}"
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or not 0 <= step <= LARGEST_STEP:
            raise BetastarError("a step is a whole number from 0", where=where, remedy="give the number of updates")
        step = int(step)
        known = {"tokens": tokens, "at_limit": at_limit, "entropy": entropy, "log_ratio": log_ratio}
        found = given(where, responses, grades, proxy, problems, prompts, known)
        if replicate:
            return self._repeat(where, step, found, replicate)
        self._make_room(where, step)
        if self._start is None:
            return self._begin(step, found)
        self._check_problems(where, found)
        done = len(self._onsets)  # evaluations after the start, with this one
        if done == self.evaluations + 1:
            logger.warning(
                "Monitor: step %d is evaluation %d after the start, but %d were planned; the threshold rises from "
                "here, and the false-alarm rate is approximate.",
                *(step, done, self.evaluations),
            )
        self._start = self._start._replace(looks=max(self.evaluations, done))
        state = self._write(step, found, {})
        if state.alarm and state.onset == step:
            what = "Monitor: at step %d the Goodhart gap is %.3g, above the threshold of %.3g."
            logger.warning(what, step, state.gap, state.threshold)
        return state

    def close(self) -> None:
        """Write `results.json`, `answers.parquet` and `samples.jsonl` from the rows, and let the folder go. Once there
        are two evaluations; what was recorded can be read without it."""
        if self._lock.closed:
            return
        try:
            if len(self._onsets) > 1:
                rows = monitored_rows(self.folder)
                write_answers(self.folder / ANSWERS, answers_in(rows))
                write_atomically(self.folder / SAMPLES, to_json_lines(samples_in(rows)).encode())
                write_atomically(self.folder / RESULTS, to_json(self._analysed()).encode())
        finally:
            self._lock.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, reference: Path | None) -> None:
        """Find what an earlier process recorded, or take the start of another run."""
        rows = record.resume(self.path, LARGEST_STEP)
        if rows and FIRST not in rows[0]:
            raise BetastarError(f"{self.path}: not written by a Monitor; give another folder.")
        if not rows and reference is not None:
            try:
                start = monitored_rows(reference)[0]
                start[FIRST]
            except (OSError, ValueError, KeyError, IndexError, TypeError):
                raise BetastarError(
                    f"{reference} has no start that a Monitor recorded; give the folder of one, or no reference."
                ) from None
            rows = [{**{name: part for name, part in start.items() if name not in LABELS}, **self.labels}]
            record.append(self.path, rows[0])
        self._fresh = True  # nothing recorded by this process
        self._has_reference = reference is not None
        self._forget()
        if rows:
            self._take(rows)

    def _forget(self) -> None:
        self._onsets: list[tuple[int, int | None]] = []  # (step, onset then) of every row
        self._names: list[str] = []
        self._first: record.Row = {}
        self._start: Start | None = None

    def _take(self, rows: Sequence[record.Row]) -> None:
        """Make rows of the file this monitor's past."""
        self._first, self._onsets = rows[0], [(row["step"], row["onset"]) for row in rows]
        self._names = self._first["problems"]
        self._start = self._calibrated(self._first, max(self.evaluations, len(rows) - 1))

    def _calibrated(self, first: record.Row, looks: int) -> Start:
        """The start, from its row and the repeats in it."""
        rewards = [(part["responses"]["proxy"], part["responses"]["true"]) for part in (first, *first["again"])]
        return start_of(rewards, looks, len(rewards[0][0]) // len(first["problems"]))

    def _make_room(self, where: str, step: int) -> None:
        """Check that a step is new; in a process that continues a run, remove what is measured again."""
        last = self.step
        if last is not None and step <= last:
            if not self._fresh:
                raise BetastarError(
                    f"step {last} is recorded already", where=where, remedy="record each step once, in ascending order"
                )
            start = self._onsets[0][0]
            if step > start:
                self._take(record.resume(self.path, step - 1))
            elif self._has_reference:
                raise BetastarError(
                    f"the start, step {start}, is that of the reference",
                    where=where,
                    remedy="record later steps, or give no reference",
                )
            else:
                record.begin(self.path)
                self._forget()
        self._fresh = False

    def _begin(self, step: int, found: Given) -> State:
        """The start, whose order of problems is that of all rows."""
        self._names = list(dict.fromkeys(found.names))
        start = found.sampled(self._names)
        self._start = start_of([(start.proxy, start.true)], self.evaluations, start.answers)
        return self._write(step, found, self._head([]))

    def _repeat(self, where: str, step: int, found: Given, replicate: int) -> State:
        """Another evaluation of the start: its row is written anew, with better known noise."""
        if step != self.step or len(self._onsets) > 1:
            raise BetastarError(
                "only the start can be repeated, after it and before any later step",
                where=where,
                remedy="leave out replicate",
            )
        again = list(self._first["again"])
        if not 0 < replicate <= len(again) + 1:
            raise BetastarError(
                f"this is repeat {len(again) + 1} of the start, not {replicate!r:.40}",
                where=where,
                remedy=f"give replicate={len(again) + 1}",
            )
        self._check_problems(where, found)
        self._fresh = False
        repeat = found.sampled(self._names)
        again[replicate - 1 :] = [{**repeat.means, "responses": repeat.by_answer}]
        first = {**self._first, "again": again}
        self._start = self._calibrated(first, self.evaluations)
        proxy, true = first["responses"]["proxy"], first["responses"]["true"]
        gaps = gap_fields(self._start, proxy, true, self.threshold, self.false_alarm_rate)
        missing = {name: why for name, why in first.pop("missing", {}).items() if name != "threshold"}
        missing |= gaps.pop("missing", {})
        row = {**first, **gaps, **self._head(again), **({"missing": missing} if missing else {})}
        self._first = record.plain(row)
        with plain_disk_errors(self.folder):
            write_atomically(self.path, record.line(self._first))
        return State(self._first, self._verdict)

    def _head(self, again: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the first row has beside its evaluation."""
        assert self._start is not None
        rated = {} if self.threshold is None else {"false_alarm_rate": rate_of(self._start, self.threshold)}
        return {
            FIRST: content_key(self._names, self._start.answers),
            "problems": self._names,
            "gap_noise": math.sqrt(2) * self._start.noise,
            **rated,
            "again": list(again),
        }

    def _check_problems(self, where: str, found: Given) -> None:
        """Raises BetastarError if the answers are not to the start's problems, equally many to each."""
        assert self._start is not None
        remedy = "evaluate the same problems each time, or use another folder"
        if other := set(found.names) - set(self._names):
            raise BetastarError(
                f"problem {min(other)!r:.40} is not one of the start's {len(self._names)}", where=where, remedy=remedy
            )
        if len(found.names) != self._start.true.size:
            raise BetastarError(
                f"has {len(found.names)} answers, and the start has {self._start.true.size}", where=where, remedy=remedy
            )

    def _write(self, step: int, found: Given, head: Mapping[str, Any]) -> State:
        """Put a row on the disk."""
        assert self._start is not None
        sampled = found.sampled(self._names)
        row = row_of(
            self._start,
            sampled,
            step,
            onset=self._onsets[-1][1] if self._onsets else None,
            stop_above=self.threshold,
            rate=self.false_alarm_rate,
            labels=self.labels,
            always=ALWAYS,
            samples=found.shown(self._names, self.samples),
            missing={},
            no_ensemble=None if len(sampled.scores) > 1 else ONE_PROXY,
            more=head,
        )
        record.append(self.path, row)
        if head:
            self._first = row
        self._onsets.append((step, row["onset"]))
        return State(row, self._verdict)

    def _verdict(self) -> Verdict:
        if len(self._onsets) < 2:
            return Verdict("not distinguishable", "there is one evaluation, and a change needs two")
        (condition,) = self._analysed()["conditions"]
        return Verdict(condition["verdict"], condition["verdict_reason"])

    def _analysed(self) -> dict[str, Any]:
        """What `betastar analyze` finds in the folder."""
        from betastar.analysis.analyze import analyze_paths
        from betastar.analysis.logs.log import Options

        return analyze_paths([self.folder], Options(), self.folder.resolve().name).results


def _check_settings(evaluations: Any, rate: float, threshold: Any, labels: Mapping[str, Any]) -> None:
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or not 1 <= evaluations <= MOST_EVALUATIONS:
        raise BetastarError(
            f"Monitor: evaluations is {evaluations!r:.40}; give how many are planned after the start, at least 1."
        )
    if not 0 < rate <= 0.5:
        raise BetastarError(f"Monitor: false_alarm_rate is {rate}; give a probability up to 0.5.")
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool) and math.isfinite(threshold)
    if threshold is not None and not number:
        raise BetastarError(f"Monitor: threshold is {threshold!r:.40}; give a number, or nothing for a calibrated one.")
    check_labels("Monitor", labels)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
