"""Table 1's rows as CSV, LaTeX and Markdown, worked by hand, and `betastar export` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.records import analyzed
from analysis.test_analyze import grid
from analysis.test_results import point
from forked import betastar

from betastar.analysis.analyze import analyze_paths
from betastar.analysis.logs.log import Options
from betastar.analysis.results import build_results
from betastar.errors import BetastarError
from betastar.record.files import read_results, to_json
from betastar.report import folders
from betastar.report.export import Format, escaped, in_maths, table_1
from betastar.report.folders import write_analysis


def as_read(results: dict[str, Any]) -> dict[str, Any]:
    return json.loads(to_json(results))


def record(variant: str = "a_b|c") -> dict[str, Any]:
    """β 0.1, 1, 10 and seeds 0, 1, 2. The proxy rises from 4 by rise·(1 + seed) at steps 2 and 4 each, with standard
    deviation 2; the truth stays at 5 of 10; û is 0.5 + t/10."""
    rows = [
        point(variant, beta, seed, step, 4.0 + rise * (1 + seed) * step / 2, 5)
        for beta, rise in ((0.1, 0.0), (1.0, 2.0), (10.0, 4.0))
        for seed in (0, 1, 2)
        for step in (0, 2, 4)
    ]
    return as_read(build_results(pd.DataFrame(rows), {}, {"name": "hand"}))


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_by_hand_and_in_full_precision() -> None:
    results = record()
    rows = read(table_1(results, "csv"))
    assert [(row["variant"], row["beta"]) for row in rows] == [("a_b|c", b) for b in ("0.1", "1.0", "10.0")]
    last = rows[2]
    # Rise 4: gaps 0, 2s, 4s for s = 1, 2, 3; area over 0, 2, 4: 2s + 6s = 8, 16, 24. Mean 16, standard error 8/√3,
    # Student's t with 2 degrees of freedom: 4.302653.
    assert float(last["augc_standardised"]) == pytest.approx(16)
    assert float(last["augc_standardised_standard_error"]) == pytest.approx(8 / np.sqrt(3), rel=1e-15)
    assert float(last["augc_standardised_high"]) == pytest.approx(16 + 4.302653 * 8 / np.sqrt(3))
    assert float(last["augc_standardised_low"]) == 0  # an area is not negative
    assert last["augc_standardised_n"] == "3"
    # The paper's form divides by the start 4 where the standardised one divides by 2.
    assert float(last["augc_paper"]) == pytest.approx(8, abs=1e-4)
    assert float(last["mean_uq"]) == pytest.approx(0.7)  # 0.5, 0.7, 0.9
    assert float(last["r_uq"]) == pytest.approx(1)
    # τ: positive gaps s·{1, 2} for rise 2 and s·{2, 4} for rise 4: 1 2 2 2 3 4 4 4 6 6 8 12; place 0.75·11 = 8.25: 6.
    assert results["threshold"]["standardised"] == 6
    assert (last["onset_steps"], last["onset_median"], last["onset_n"]) == ("none;4;4", "4", "2")
    assert (rows[1]["onset_steps"], rows[1]["onset_median"], rows[1]["onset_n"]) == ("none;none;none", "", "0")
    assert float(last["spearman_rho_standardised"]) == 1
    assert float(last["spearman_p_two_sided_standardised"]) == pytest.approx(1 / 3)
    assert (last["spearman_n_beta_standardised"], last["spearman_exact_paper"]) == ("3", "yes")
    mean = results["summary"]["a_b|c"]["by_beta"][2]["augc_paper"]["mean"]
    assert float(last["augc_paper"]) == mean


def test_every_empty_cell_of_the_csv_is_explained() -> None:
    results = as_read(analyzed(grid()[lambda f: f["seed"] == 0].drop(columns="reward_std")))
    for row in [*read(table_1(results, "csv")), *read(table_1(record(), "csv"))]:
        empty = {name for name, cell in row.items() if cell == "" and name != "undefined"}
        said = {part.split(": ")[0] for part in row["undefined"].split("; ") if ": " in part}
        for name in empty:
            column = re.sub("_(standard_error|low|high)$", "", name)
            assert {name, column, f"{column}_standard_error", f"{column}_low"} & said or "spearman" in name, name
    assert read(table_1(record(), "csv"))[0]["undefined"].startswith("augc_standardised_low: all 3 values are equal")


def test_markdown_by_hand() -> None:
    lines = table_1(record(), "markdown").splitlines()
    assert lines[0] == "| variant | β | n | AUGC standardised | AUGC paper | mean û | r_UQ | onset step |"
    # No gap at β = 0.1: no correlation of û with a constant, and AUGC 0 but for ε = 2⁻²³ in the paper's form:
    # 4/(4 + ε) − 0.5/(0.5 + ε) = 1.75 ε, over 4 steps 7 ε. β = 1 has half of 16 and 8, and 4/√3 = 2.3.
    assert lines[2] == "| a\\_b\\|c | 0.1 | 3 | 0 ± 0 | 8.34e-07 ± 0 | 0.700 ± 0.000 | – | none (0 of 3) |"
    assert lines[3] == "| a\\_b\\|c | 1 | 3 | 8 ± 2.3 | 4 ± 1.2 | 0.700 ± 0.000 | 1.00 ± 0.00 | none (0 of 3) |"
    assert lines[4] == "| a\\_b\\|c | 10 | 3 | 16 ± 4.6 | 8 ± 2.3 | 0.700 ± 0.000 | 1.00 ± 0.00 | 4 (2 of 3) |"
    assert lines[5] == "| a\\_b\\|c | Spearman ρ | 3 β | +1.00 (exact p = 0.33) | +1.00 (exact p = 0.33) |  |  |  |"
    why = "undefined in 3 of 3 seeds: û or the gap is constant"
    assert lines[-1] == f"Undefined (–): r\\_UQ: {why} (a\\_b\\|c, β 0.1)."


def across(text: str) -> str:
    return rf"\multicolumn{{6}}{{@{{}}p{{\linewidth}}@{{}}}}{{\raggedright {text}}} \\"


def test_latex_by_hand() -> None:
    lines = table_1(record(), "latex").splitlines()
    assert lines[3] == r"\begin{tabular}{@{}lrrrrr@{}}"
    assert lines[-1] == r"\end{tabular}"
    assert across("variant a\\_b$|$c") in lines
    means = (("16", "4.6"), ("8", "2.3"), ("0.700", "0.000"), ("1.00", "0.00"))
    cells = " & ".join(rf"${mean}${{\tiny $\pm{error}$}}" for mean, error in means)
    assert rf"$10$ & {cells} & $4$ ($2$/$3$) \\" in lines
    rho = r"$+1.00$ (exact $p = 0.33$)"
    assert across(rf"Spearman $\rho$ over $3$ $\beta$: standardised {rho}; paper {rho}") in lines
    assert any(r"\scriptsize n = 3. AUGC: s standardised, p the paper's. Means over n seeds" in line for line in lines)
    assert any(r"\scriptsize Undefined (--): " in line for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("name", ["a", "fixed κ, a long name of a variant 50% & {odd}_#1^~\\$"])
def test_latex_compiles_and_fits_one_column(name: str, tmp_path: Path) -> None:
    """234 points (3.25 inches): TeX says where a line or box is wider. Numbers as long as real ones are."""
    rows = [
        point(name, beta, seed, step, -4.12345 + 0.0123 * beta * (1 + seed) * step, 5)
        for beta in (0.0501, 0.108, 1.58, 10.0)
        for seed in range(10)
        for step in (0, 100, 200)
    ]
    text = table_1(as_read(build_results(pd.DataFrame(rows), {}, {"name": "long"})), "latex")
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\\hfuzz=0.5pt\n"
        "\\begin{document}\\noindent\\begin{minipage}{3.25in}\n" + text + "\\end{minipage}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize("variant", ["a", r"50% & {odd}_#1^~\$", "β-0.1 → ★", "two\nlines"])
def test_latex_is_well_formed_whatever_the_names(variant: str) -> None:
    text = table_1(record(variant), "latex")
    body = [line for line in text.splitlines() if not line.startswith("%")]
    bare = re.sub(r"\\[\\{}&%#$_]", "", "\n".join(body))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "^~" not in bare
    known = {"begin", "end", "toprule", "midrule", "bottomrule", "multicolumn", "footnotesize", "linewidth", "mathrm"}
    known |= {"setlength", "tabcolsep", "raggedright", "scriptsize", "tiny"}
    symbols = {"beta", "rho", "tau", "hat", "pm", "times", "to", "star", "cdot"}
    escapes = {"textasciitilde", "textasciicircum", "textbackslash"}
    assert set(re.findall(r"\\([a-z]+)", bare)) <= known | symbols | escapes
    for line in body[2:-1]:
        if line.endswith(r"\\"):
            cells = re.sub(r"\\&", "", line).count("&") + 1
            spanned = re.match(r"\\multicolumn\{(\d)\}", line)
            assert (int(spanned[1]) if spanned else cells) == 6, line


def test_text_and_numbers_in_latex() -> None:
    assert escaped("β★ ≥ 2·β_max, 5 % – û") == r"$\beta$$^{\star}$ $\geq$ 2$\cdot$$\beta$\_max, 5 \% -- $\hat{u}$"
    assert in_maths("1.2e+06 ± 3e-05") == r"$1.2 \times 10^{6} \pm 3 \times 10^{-5}$"
    assert in_maths("-0.14 ± 0.15") == r"$-0.14 \pm 0.15$"
    assert in_maths("none (1 of 3)") == "none ($1$ of $3$)"
    assert in_maths("–") == "--"


@pytest.mark.parametrize("kind", ["csv", "latex", "markdown"])
def test_an_unknown_beta_and_what_was_not_logged_are_said(kind: Format) -> None:
    frame = grid()[lambda f: (f["beta"] == 2.0) & (f["seed"] == 0)].drop(columns=["beta", "reward_std"])
    text = table_1(as_read(analyzed(frame)), kind)
    assert "no column, name or option gives its" in text
    assert "undefined in 1 of 1 seeds: not logged" in text
    assert "the standard deviation of the proxy rewards at the start is not given" in text
    assert "a standard error needs two values" in text
    if kind == "markdown":
        # Proxy 4, 6, 8 and truth 0.5: paper's gap 0, 0.5, 1 over 0, 10, 20: 2.5 + 7.5 = 10. No gap in standard
        # deviations, so no onset to speak of, rather than none.
        assert "| β unknown | unknown | 1 | – | 10 | – | – | – |" in text


def test_medians_count_a_seed_without_onset_as_later_than_any() -> None:
    results = record()
    row = results["summary"]["a_b|c"]["by_beta"][2]
    for steps, shown in (([30, 25, 30], "30 (3 of 3)"), ([20, None], "none (1 of 2)"), ([10, 20], "15 (2 of 2)")):
        row["onset_steps"] = steps
        row["missing"] = {"onset_steps": "none"}
        assert f"| {shown} |" in table_1(results, "markdown")


def test_many_betas_have_a_p_from_drawn_orders() -> None:
    betas = np.geomspace(0.1, 10, 10)
    rows = [point("a", b, s, t, 4 + b * t, 5) for b in betas for s in (0, 1) for t in (0, 2)]
    text = table_1(as_read(build_results(pd.DataFrame(rows), {}, {"name": "x"})), "markdown")
    assert re.search(r"\| Spearman ρ \| 10 β \| \+1\.00 \(Monte Carlo p = [\d.e-]+\)", text)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return betastar("export", *arguments)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysis")
    grid().to_csv(folder / "sweep.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "write_report", lambda folder: folder)
        write_analysis(analyze_paths([folder / "sweep.csv"], Options()), folder / "out")
    return folder / "out"


def test_the_command_prints_or_writes(analysed: Path, tmp_path: Path) -> None:
    results = read_results(analysed)
    done = run(analysed)
    assert (done.returncode, done.stdout) == (0, table_1(results, "markdown"))
    assert run(analysed, "--format", "csv").stdout == table_1(results, "csv")
    endings: dict[str, Format] = {"t.csv": "csv", "t.tex": "latex", "t.md": "markdown"}
    for name, kind in endings.items():
        done = run(analysed, "--out", tmp_path / name)
        assert (done.returncode, done.stdout) == (0, "")
        assert (tmp_path / name).read_text() == table_1(results, kind)
    assert run(analysed, "--format", "latex", "--out", tmp_path / "t.csv").returncode == 0
    assert (tmp_path / "t.csv").read_text() == table_1(results, "latex")


def test_mistakes_are_one_sentence_and_exit_code_2(analysed: Path, tmp_path: Path) -> None:
    old = json.loads((analysed / "results.json").read_text()) | {"schema_version": 1}
    for name, text in (("empty", None), ("damaged", "{"), ("list", "[]"), ("old", json.dumps(old))):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "results.json").write_text(text)
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "nowhere"], "nowhere is not a folder; give the folder of a finished `betastar run`"),
        ([tmp_path / "empty"], "empty has no results.json; give the folder"),
        ([tmp_path / "damaged"], "results.json is damaged"),
        ([tmp_path / "list"], "results.json is damaged"),
        (
            [tmp_path / "old"],
            "has schema version 1, written by betastar 0.1.0, and this betastar reads 4; repeat",
        ),
        ([analysed, "--out", tmp_path], "is a folder; give a file"),
        ([analysed, "--out", tmp_path / "no" / "t.csv"], "not a file in an existing folder"),
        ([analysed, "--out", analysed / "results.json"], "would overwrite what a run keeps in results.json"),
    ]
    for arguments, message in cases:
        done = run(*arguments)
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
    with pytest.raises(BetastarError, match="is not a folder"):
        read_results(tmp_path / "nowhere")


def test_it_needs_no_analysis_and_is_quick(analysed: Path) -> None:
    times = []
    for _ in range(3):
        started = os.times()
        cold = subprocess.run([sys.executable, "-m", "betastar", "export", str(analysed)], capture_output=True)
        ended = os.times()
        assert cold.returncode == 0
        times.append(ended.children_user + ended.children_system - started.children_user - started.children_system)
    assert 0 < min(times) < 1  # seconds of CPU
