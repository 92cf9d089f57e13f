"""Table 1's rows of a run, as CSV, LaTeX or Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import median
from typing import Any, Literal, NamedTuple

from betastar.printing import visible
from betastar.record.entries import REGISTRY
from betastar.record.schema import FORMS

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "#$%&_"},
}
# The signs that our own sentences and names hold; letters of other scripts are left to the document's engine.
MATHS = {
    "β": r"\beta",
    "τ": r"\tau",
    "κ": r"\kappa",
    "ρ": r"\rho",
    "λ": r"\lambda",
    "δ": r"\delta",
    "π": r"\pi",
    "χ": r"\chi",
    "û": r"\hat{u}",
    "★": r"^{\star}",
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "−": "-",
    "≤": r"\leq",
    "≥": r"\geq",
    "≈": r"\approx",
    "√": r"\surd",
    "∝": r"\propto",
    "→": r"\to",
    "²": "^{2}",
    "<": "<",
    ">": ">",
    "|": "|",
}
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~"})
WORDS = {"r_UQ": r"$r_{\mathrm{UQ}}$", "–": "--", "…": r"\ldots{}"}
_TOKEN = re.compile("|".join([*map(re.escape, WORDS), "[" + re.escape("".join([*SPECIAL, *MATHS])) + "]"]))


def escaped(text: str) -> str:
    """A text as LaTeX that prints it, on one line."""

    def replaced(match: re.Match[str]) -> str:
        token = match[0]
        return WORDS.get(token) or SPECIAL.get(token) or f"${MATHS[token]}$"

    return _TOKEN.sub(replaced, " ".join(visible(text).split()))


def in_maths(cell: str) -> str:
    """A table's cell, with its numbers (`-0.5`, `29.9 ± 1`, `1.2e+06`, `p = 1`) as mathematics, its words as text."""
    number = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    parts = re.split(rf"((?:p = )?{number}(?: ± {number})?)", cell)
    return "".join(_maths(part) if i % 2 else escaped_around(part) for i, part in enumerate(parts))


def escaped_around(text: str) -> str:
    """`escaped` with the blanks at both ends kept."""
    inner = escaped(text)
    return f"{' ' * text.startswith(' ')}{inner}{' ' * (text.endswith(' ') and bool(inner))}"


def _maths(number: str) -> str:
    powers = re.sub(r"e([+-]?)0*(\d+)", lambda m: rf" \times 10^{{{m[1].strip('+')}{m[2]}}}", number)
    return f"${powers.replace('±', chr(92) + 'pm')}$"


Format = Literal["csv", "latex", "markdown"]
Json = Mapping[str, Any]

# Column of the CSV → quantity of the summary. The tables show the first four, with the names below.
MEANS = {
    "augc_standardised": "augc_standardised",
    "augc_paper": "augc_paper",
    "mean_uq": "disagreement_mean",
    "r_uq": "uq_gap_correlation",
    "r_uq_paper": "uq_gap_correlation_paper",
}
SHOWN = {
    **{name: REGISTRY.summary(name).words for name in ("augc_standardised", "augc_paper")},
    "mean_uq": "mean û",
    "r_uq": "r_UQ",
}
COUNT, ONSET = "n", "onset step"
NOTE = (
    "Means over n seeds ± standard error; AUGC in gap × steps; r_UQ: Pearson's r of û and the standardised gap. "
    "Onset: median over seeds (no onset counts as later than any step) and number of seeds with one. p: two-sided "
    "permutation."
)


class Row(NamedTuple):
    """One β of a variant. `means`: by column, as in the summary. `onset`: median step, infinite where half of the seeds
    or more have none; `onsets`: per seed. `undefined`: column → reason."""

    variant: str
    beta: float | None
    means: Mapping[str, Json]
    onset: float
    onsets: Sequence[int | None]
    undefined: Mapping[str, str]

    @property
    def has_gap(self) -> bool:
        return self.means["augc_standardised"]["mean"] is not None or any(s is not None for s in self.onsets)


def table_1(results: Json, kind: Format) -> str:
    """The rows of Table 1, by variant and β, and Spearman's ρ of each variant; ends with a line break."""
    writers: dict[str, Callable[[Json], str]] = {"csv": as_csv, "latex": as_latex, "markdown": as_markdown}
    return writers[kind](results)


def as_csv(results: Json) -> str:
    """A row per variant and β with full precision: of each mean the standard error, interval and n; ρ of its variant in
    every row. What is undefined is empty, and the last column says why."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["variant", "beta"]
    head += [f"{c}{end}" for c in MEANS for end in ("", "_standard_error", "_low", "_high", "_n")]
    head += ["onset_steps", "onset_median", "onset_n"]
    head += [f"spearman_{part}_{form}" for form in FORMS for part in ("rho", "p_two_sided", "n_beta", "exact")]
    writer.writerow([*head, "undefined"])
    for row in rows(results):
        cells: list[Any] = [_cell(row.variant), row.beta]
        for mean in row.means.values():
            interval = mean["interval"]
            cells += [mean["mean"], mean["standard_error"], interval["low"], interval["high"], mean["n"]]
        cells += [";".join("none" if step is None else str(step) for step in row.onsets)]
        cells += [None if row.onset == inf else row.onset, sum(step is not None for step in row.onsets)]
        for form in FORMS:
            rho = results["summary"][row.variant][form]["spearman"]
            cells += [rho["rho"], rho["p_two_sided"], rho["n"], "yes" if rho["exact"] else "no"]
        writer.writerow([*cells, _cell("; ".join(f"{name}: {reason}" for name, reason in row.undefined.items()))])
    return text.getvalue()


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: one that begins like it gets an apostrophe."""
    return f"'{visible(text)}" if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else visible(text)


def as_markdown(results: Json) -> str:
    """A table in GitHub's Markdown, notes below."""
    head = ["variant", "β", COUNT, *SHOWN.values(), ONSET]
    lines = [_piped(head), _piped(["---"] * 2 + ["---:"] * (len(head) - 2))]
    for variant in results["summary"]:
        name = plain_text(variant)
        for row in rows(results, variant):
            lines.append(_piped([name, _beta(row), *_cells(row)]))
        lines.append(_piped([name, "Spearman ρ", *_spearman(results["summary"][variant])]))
    notes = [plain_text(note) for note in (NOTE, *(f"Undefined (–): {text}." for text in notes_on(results)))]
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes)])


def as_latex(results: Json) -> str:
    """A `tabular` that fits one column of a two-column paper (3.25 inches); needs booktabs and nothing else."""
    head = [r"$\beta$", r"AUGC$_s$", r"AUGC$_p$", escaped(SHOWN["mean_uq"]), escaped(SHOWN["r_uq"]), "onset"]
    width = len(head)
    lines = [
        f"% Table 1 of arXiv:2606.30627 for {_one_line(results['name'])}, by betastar {results['betastar']}.",
        r"% Needs \usepackage{booktabs}. One column wide. In a table environment or between braces: the size holds on.",
        r"\footnotesize\setlength{\tabcolsep}{2pt}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * (width - 1)}@{{}}}}",
        r"\toprule",
        _ended(head),
    ]
    counts = {_cells(row)[0] for row in rows(results)}
    for variant, summary in results["summary"].items():
        title = f"variant {escaped(variant)}"
        lines += [r"\midrule", _spread(width, title)]
        for row in rows(results, variant):
            n, *means, onset = _cells(row)
            beta = in_maths(_beta(row)) + (rf" {{\tiny $n={n}$}}" if len(counts) > 1 else "")
            lines.append(_ended([beta, *map(_narrow, means), in_maths(onset.replace(" of ", "/"))]))
        lines.append(_spread(width, _correlations(summary)))
    lines.append(r"\bottomrule")
    once = f"n = {next(iter(counts))}. " if len(counts) == 1 else ""
    for note in [
        once + "AUGC: s standardised, p the paper's. " + NOTE,
        *(f"Undefined (–): {text}." for text in notes_on(results)),
    ]:
        lines.append(_spread(width, rf"\scriptsize {escaped(note)}"))
    return "\n".join([*lines, r"\end{tabular}", ""])


def _spread(width: int, text: str) -> str:
    """A line across all columns, broken where it is too long."""
    return rf"\multicolumn{{{width}}}{{@{{}}p{{\linewidth}}@{{}}}}{{\raggedright {text}}} \\"


def _narrow(cell: str) -> str:
    """A mean with its standard error in small digits."""
    mean, sign, error = cell.partition(" ± ")
    return in_maths(mean) + (rf"{{\tiny $\pm{_maths(error)[1:-1]}$}}" if sign else "")


def _correlations(summary: Json) -> str:
    """Spearman's ρ of both forms of AUGC over β, in one line."""
    found = dict(zip(FORMS, _spearman(summary)[1:], strict=False))
    parts = [f"{form} {in_maths(found[form])}" for form in FORMS]
    return rf"Spearman $\rho$ over ${len(summary['betas'])}$ $\beta$: {'; '.join(parts)}"


def rows(results: Json, variant: str | None = None) -> list[Row]:
    """The rows of all variants, or of one."""
    return [
        _row(name, summary, row)
        for name, summary in results["summary"].items()
        if variant in (None, name)
        for row in summary["by_beta"]
    ]


def notes_on(results: Json) -> list[str]:
    """What is undefined in the tables and why: one sentence each, for all rows or with the rows it holds for."""
    every = rows(results)
    found: dict[str, list[str]] = {}
    shown = {"beta": "β", "onset_median": ONSET, **SHOWN}
    shown |= {f"{column}_standard_error": f"standard error of {name}" for column, name in SHOWN.items()}
    for row in every:
        for name, reason in row.undefined.items():
            if name in shown and not (name == "onset_median" and row.has_gap):  # no onset is a finding
                found.setdefault(f"{shown[name]}: {reason}", []).append(f"{row.variant}, β {_beta(row)}")
    notes = [text if len(of) == len(every) else f"{text} ({'; '.join(of)})" for text, of in found.items()]
    for variant, summary in results["summary"].items():
        for form in FORMS:
            if summary[form]["spearman"]["rho"] is None:
                notes.append(f"ρ, {form}: {summary[form]['spearman']['reason']} ({variant})")
    return notes


def _row(variant: str, summary: Json, row: Json) -> Row:
    means = {column: row[quantity] for column, quantity in MEANS.items()}
    onsets = row["onset_steps"]
    onset = median(inf if step is None else step for step in onsets)
    undefined: dict[str, str] = {}
    if row["beta"] is None:
        undefined["beta"] = summary["missing"]["beta"]
    for column, mean in means.items():
        if mean["mean"] is None:
            undefined[column] = mean["reason"]
        elif mean["standard_error"] is None:
            undefined[f"{column}_standard_error"] = mean["reason"]
        elif mean["interval"]["low"] is None:
            undefined[f"{column}_low"] = mean["interval"]["reason"]
    if onset == inf:
        undefined["onset_median"] = row["missing"]["onset_steps"]
    return Row(variant, row["beta"], means, onset, onsets, undefined)


def _cells(row: Row) -> list[str]:
    """n, the four means and the onset as text."""
    digits = {"augc_standardised": None, "augc_paper": None, "mean_uq": 3, "r_uq": 2}
    shown = [_mean(row.means[column], places) for column, places in digits.items()]
    counts = {row.means[column]["n"] for column in SHOWN}
    step = "none" if row.onset == inf else f"{row.onset:g}"
    onset = f"{step} ({sum(s is not None for s in row.onsets)} of {len(row.onsets)})" if row.has_gap else "–"
    return [", ".join(map(str, sorted(counts))), *shown, onset]


def _spearman(summary: Json) -> list[str]:
    cells = []
    for form in FORMS:
        found = summary[form]["spearman"]
        sort = "exact " if found["exact"] else "Monte Carlo "
        cells.append("–" if found["rho"] is None else f"{found['rho']:+z.2f} ({sort}p = {found['p_two_sided']:.2g})")
    return [f"{len(summary['betas'])} β", *cells, "", "", ""]


def _mean(entry: Json, digits: int | None) -> str:
    """Mean ± standard error to so many digits after the point, or to three and two significant ones."""
    if entry["mean"] is None:
        return "–"
    numbers = [entry["mean"]] if entry["standard_error"] is None else [entry["mean"], entry["standard_error"]]
    if digits is None:
        return " ± ".join(f"{float(f'{value:.{n}g}'):g}" for value, n in zip(numbers, (3, 2), strict=False))
    return " ± ".join(f"{value:z.{digits}f}" for value in numbers)


def _beta(row: Row) -> str:
    return "unknown" if row.beta is None else f"{row.beta:.3g}"


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_one_line, cells))} |"


def _ended(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def plain_text(text: str) -> str:
    """A text on one line that Markdown shows as it is, invisible characters by name."""
    return visible(" ".join(text.split())).translate(MARKDOWN)


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())
