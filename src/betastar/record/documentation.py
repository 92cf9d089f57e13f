"""The tables of docs/results.md that follow from the registry and the shape of the record.

    python -m betastar.record.documentation docs/results.md

puts them into the page, each between a pair of comments that name it; a test says when the page is not current.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from betastar.record.answers import COLUMNS as ANSWERS
from betastar.record.entries import REGISTRY
from betastar.record.frames import Frame, columns
from betastar.record.measures import Level, Measure
from betastar.record.schema import condition_fields, decision_fields, record_fields, summary_fields

BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """A page with its tables made anew. Raises KeyError for a table of another name."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def record_table() -> str:
    """The fields of the record."""
    return _table(("field", "meaning"), ((_code(name), note) for name, note in record_fields().items()))


def condition_table() -> str:
    """The fields of a condition: its own, its measures, and parts of the measures of a point."""
    rows = []
    for name in condition_fields():
        if name in {m.name for m in REGISTRY.at("condition")}:
            rows.append((_code(name), _described(REGISTRY.get("condition", name))))
        elif name in {m.name for m in REGISTRY.kept}:
            measure = REGISTRY.get("point", name)
            rows.append((_code(name), f"{_described(measure)}; {', '.join(map(_code, measure.kept))}"))
        else:
            rows.append((_code(name), CONDITION_FIELDS[name]))
    return _table(("field", "meaning"), rows)


def summary_table() -> str:
    """The fields of a summary."""
    return _table(("field", "meaning"), ((_code(name), SUMMARY_FIELDS[name]) for name in summary_fields()))


def decision_table() -> str:
    """The fields of a decision and of its parts; those that every part has are left out."""
    known = ("reason", "missing", "n_seeds", "n_beta", "method")
    rows = [(n, note) for n, note in decision_fields().items() if "." not in n or n.rpartition(".")[2] not in known]
    return _table(("field", "meaning"), ((_code(name), note or DECISION_FIELDS.get(name, "")) for name, note in rows))


def measures_table(level: Level) -> str:
    """The measures of a level with unit, range, which way is good and source."""
    found = REGISTRY.summaries if level == "summary" else REGISTRY.at(level)
    rows = ((_code(m.name), m.symbol, m.meaning, m.unit, _range(m), m.better or "", m.source, m.needs) for m in found)
    return _table(("name", "called", "meaning", "unit", "range", "better", "source", "needs"), rows)


def frame_table(frame: Frame) -> str:
    """The columns of a data frame."""
    return _table(("column", "dtype", "unit", "meaning"), ((_code(c.name), *c[1:]) for c in columns(frame)))


def answers_table() -> str:
    """The columns of the table of answers."""
    return _table(("column", "dtype", "unit", "meaning"), ((_code(c.name), *c[1:]) for c in ANSWERS))


CONDITION_FIELDS = {
    "variant": "variant of the online phase",
    "beta": "β of the offline phase; null if unknown",
    "seed": "seed of the condition",
    "n": "responses at each evaluation point, `answers` to each problem",
    "n_points": "evaluation points, including the start",
    "alignment": "`pair_accuracy` of the implicit reward on `test_pairs` pairs; `win_rate` over the base, and who "
    "judged",
    "base": "both rewards of the base model without an adapter, on the same problems with the same noise and the same "
    "ensemble: the scale that all conditions of a seed share",
    "again": "the t=0 evaluation repeated with fresh sampling noise, which shows the instrument's own noise",
    "start_near_zero": "whether a reward at t=0 is within 10 standard errors of zero, which makes the paper's form "
    "unreliable",
    "diverged": "why nothing of this run counts, if its training diverged: it is left out of means, tests and figures",
    "proxy_is_truth": "whether the proxy is the true reward, perhaps on another scale: then nothing can run ahead",
    "common_scale": "what the common form of the gap divides by, for all β of the seed: standard deviations of `proxy` "
    "and `truth`, and whose they are (`source`)",
    "intervals": "measure → its 95 % interval over problems, with `method`; from means alone, of the noise of a mean",
    "noise_floor": "measure → the `value` that noise alone would give on average, with `method`",
    "missing": "field → why it is null, if it is",
    "series": "the evaluation points: `step`, the gaps, rewards and every measured quantity",
}
SUMMARY_FIELDS = {
    "betas": "the values of β",
    "seeds": "the seeds averaged over",
    "incomplete_seeds": "seeds that lack some β; comparisons across β leave them out",
    "by_beta": "per β, the `mean` over seeds of each measure of a summary, with `standard_error`, `interval`, `n`, "
    "`reason`; and `onset_steps` by seed, null if there is no onset",
    "minus_smallest_beta": "each measure minus its value at `smallest_beta`, within seeds",
    "instrument_noise": "how much two evaluations of one checkpoint differ: in `gap`, its parts `z_proxy` and "
    "`z_true`, `gap_paper` (root mean square, with the value `expected` of independent draws); the `augc` that this "
    "noise alone would give; every pair is in `conditions`",
    "standardised": "how AUGC of the standardised gap depends on β, below",
    "paper": "the same for the paper's gap",
    "missing": "field → why it is null, if it is",
}
DECISION_FIELDS = {
    "unit": "of the measure: pp, or gap × steps",
    "betas": "the values of β",
    "n_seeds": "seeds that have every β",
    "n_beta": "values of β",
    "verdict_reason": "its p, or why nothing can be said",
    "test.L": "the statistic",
    "guard.measure": "the signed area",
    "guard.p_less": "one-sided p that it falls",
    "effect.slope": "mean over seeds, standard error, interval, n, reason",
    "effect.problems.standard_error": "of the slope, from the draw of problems alone",
    "effect.problems.n_problems": "problems that all conditions share",
    "truth_unit": "pp, or score",
    "truth_by_beta.beta": "value of β",
    "truth_by_beta.mean": "over seeds",
    "truth_by_beta.interval": "over seeds, and problems where single answers are known",
    "truth_range.value": "largest mean minus smallest",
    "truth_range.interval": "Tukey's simultaneous intervals",
    "choose.lead_interval": "of the lead",
    "choose.n_problems": "problems that the comparison takes for a draw; 0: it does not",
    "choose.by_beta.beta": "value of β",
    "choose.by_beta.behind": "mean of the best other β minus the mean of this one",
    "choose.by_beta.low": "simultaneous lower limit",
    "choose.by_beta.high": "simultaneous upper limit",
    "directions.measure": "its name",
    "disagreements.measure": "its name",
    "disagreements.damage": "by this measure",
    "disagreements.primary": "by the primary measure",
    "power.degrees_of_freedom": "of residual_sd",
    "power.power": "the probability asked for",
    "power.power_for_smallest_effect": "probability of finding analysis.smallest_effect",
    "missing": "field → why it is null, if it is",
}
TABLES: dict[str, Callable[[], str]] = {
    "record": record_table,
    "condition": condition_table,
    "summary": summary_table,
    "decision": decision_table,
    **{f"measures_{level}": lambda level=level: measures_table(level) for level in get_args(Level)},
    "answers": answers_table,
    **{f"frame_{frame}": lambda frame=frame: frame_table(frame) for frame in get_args(Frame)},
}


def _described(measure: Measure) -> str:
    source = f" ({measure.source})" if measure.source else ""
    unit = f", {measure.unit}" if measure.unit else ""
    return f"{measure.meaning}{source}{unit}"


def _range(measure: Measure) -> str:
    """The range in words; empty where there is none."""
    low, high = (f"{end:g}".replace("-", "−").replace("inf", "∞") for end in (measure.low, measure.high))
    return "" if (low, high) == ("−∞", "∞") else f"{low} to {high}"


def _code(name: str) -> str:
    return f"`{name}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
