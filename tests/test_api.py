"""The library as a user imports it: typed, light, frames and charts; and the command line through it."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
from report.records import record, run_folder

import betastar as bs
from betastar import api
from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.live.reporters import LogReporter, NotebookReporter, reporter, shown
from betastar.maths import trend
from betastar.progress import Reporter
from betastar.record.frames import columns

PACKAGE = Path(bs.__file__).parent
LOG = pd.DataFrame({"reward": [1.0, 2.0, 3.0], "accuracy": [0.6, 0.5, 0.4]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("api") / "run", {"plain": "no hack"})


@pytest.fixture(scope="module")
def results(folder: Path) -> bs.Results:
    return bs.load(folder)


def test_everything_offered_is_listed_there_and_documented() -> None:
    assert set(bs.__all__) <= set(dir(bs))
    for name in bs.__all__:
        assert inspect.getdoc(getattr(bs, name)), name
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        bs.analyse  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_a_type_checker_sees_what_is_offered() -> None:
    """Every lazy name is imported under TYPE_CHECKING, the package says it is typed, and signatures have types."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(bs.__all__)
    assert (PACKAGE / "py.typed").exists()
    for function in (bs.run, bs.load, bs.analyze, bs.compare, bs.plan, bs.schema, bs.presets):
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_the_import_is_light() -> None:
    script = "import time; t = time.process_time(); import betastar; print(time.process_time() - t); import sys; "
    script += "print(*{m.split('.')[0] for m in sys.modules})"
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(seconds) < 0.1
    assert not {"numpy", "pandas", "pydantic", "torch", "altair", "yaml"} & set(loaded.split())


def test_frames_have_the_columns_and_dtypes_that_are_documented(results: bs.Results) -> None:
    for name in ("points", "conditions", "summary", "responses"):
        frame: pd.DataFrame = getattr(results, name)
        assert [(c, str(kind)) for c, kind in frame.dtypes.items()] == [(c.name, c.dtype) for c in columns(name)], name
    found = record()
    assert len(results.points) == sum(len(c["series"]["step"]) for c in found["conditions"])
    row = results.conditions.iloc[4]
    assert row["augc_standardised"] == found["conditions"][4]["augc_standardised"]
    assert row["true_strict_lowest"] == found["conditions"][4]["true_strict"]["lowest"]
    mean = results.summary.query("variant == 'paper' and measure == 'true_end'").iloc[0]
    expected = found["summary"]["paper"]["by_beta"][0]["true_end"]
    assert (mean["mean"], mean["standard_error"], mean["n"]) == (expected["mean"], expected["standard_error"], 3)
    assert results.responses["response"].str.contains("no hack").any()


def test_a_record_without_beta_or_n_has_frames_too() -> None:
    found = bs.analyze(LOG)
    assert [str(beta) for beta in found.points["beta"]] == ["nan"] * 3
    assert found.conditions["n"].tolist() == [pd.NA]
    assert found.conditions["onset_step"].dtype == "Int64"
    assert len(found.responses) == 0
    assert found.folder is None
    with pytest.raises(BetastarError, match="was not saved"):
        found.report()


def test_a_figure_is_a_chart_that_is_saved_without_a_network(results: bs.Results, tmp_path: Path) -> None:
    chart = results.plot.rewards()
    assert isinstance(chart, alt.VConcatChart)
    chart.save(tmp_path / "fig.pdf")
    assert (tmp_path / "fig.pdf").read_bytes().startswith(b"%PDF")
    assert len(chart.to_dict()["vconcat"]) >= 2
    assert json.loads(chart.to_json())["title"]["text"] == "True reward and proxy during online adaptation"


def test_a_chart_shows_itself_as_svg_unless_a_renderer_was_chosen(results: bs.Results) -> None:
    chart = results.plot.rewards()
    shown: Any = chart._repr_mimebundle_()
    assert shown["image/svg+xml"].startswith("<svg")
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", shown["image/svg+xml"])
    with alt.renderers.enable("html"):
        bundle: Any = chart._repr_mimebundle_()
        assert list(bundle) == ["text/html"]
    assert alt.renderers.active == "default"


@pytest.mark.thorough
def test_every_figure_has_a_method_of_its_name(results: bs.Results, monkeypatch: pytest.MonkeyPatch) -> None:
    from altair.utils.schemapi import debug_mode

    from betastar.report import plots
    from betastar.report.figures import all_figures

    # Altair takes a second to make one of its charts of a specification; another test does that.
    monkeypatch.setattr(plots.Chart, "from_dict", lambda spec, validate: spec)

    with debug_mode(False):  # tests/report checks charts against the schema
        figures = all_figures(results.record)
    for figure in figures:
        method = getattr(results.plot, {"signs": "warning_signs"}.get(figure.key, figure.key))
        if figure.missing:
            with pytest.raises(BetastarError, match=re.escape(figure.missing)):
                method()
        else:
            made: Any = method()
            assert made["title"]["text"] == figure.title


@pytest.mark.parametrize(
    ("frame", "steps"),
    [
        (LOG.set_axis([0, 50, 100]), [0, 50, 100]),
        (LOG.set_axis([0, 50, 100]).rename_axis("global_step"), [0, 50, 100]),
        (LOG.assign(step=[0, 50, 100]).set_index("step"), [0, 50, 100]),
        (LOG.assign(step=[0, 50, 100]).set_axis([7, 8, 9]), [0, 50, 100]),  # a column counts for more
        (LOG.assign(step=[0, 50, 100]).set_index("step", drop=False), [0, 50, 100]),
        (LOG.assign(it=[0, 50, 100]).set_axis(["a", "b", "c"]), [1, 2, 3]),
        (LOG, [1, 2, 3]),
    ],
)
def test_the_step_may_be_the_index(frame: pd.DataFrame, steps: list[int]) -> None:
    assert bs.analyze(frame).points["step"].tolist() == steps


def test_levels_of_an_index_are_columns() -> None:
    rows = [LOG.assign(beta=b, seed=s, step=[0, 50, 100]) for b in (0.1, 1.0) for s in (0, 1)]
    found = bs.analyze(pd.concat(rows).set_index(["beta", "seed", "step"])).conditions
    assert found[["beta", "seed"]].to_numpy().tolist() == [[0.1, 0], [0.1, 1], [1.0, 0], [1.0, 1]]


@pytest.mark.usefixtures("undrawn")
def test_paths_are_analysed_as_frames_are(tmp_path: Path) -> None:
    LOG.assign(step=[0, 50, 100]).to_csv(tmp_path / "log.csv", index=False)
    for source in (tmp_path / "log.csv", str(tmp_path / "log.csv"), [tmp_path / "log.csv"]):
        found = bs.analyze(source, out=tmp_path / "out")
        assert found.points["step"].tolist() == [0, 50, 100]
    again = bs.load(tmp_path / "out" / "results.json")
    assert again.record == found.record
    assert (len(again.notes), len(found.notes) > 0) == (0, True)
    with pytest.raises(BetastarError, match="nothing to analyse"):
        bs.analyze([])


@pytest.mark.thorough
def test_a_comparison_is_made_shown_and_loaded(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(folder, tmp_path / "b")
    shutil.copytree(folder, tmp_path / "a")
    made = bs.compare(tmp_path / "a", f"new={tmp_path / 'b'}", out=tmp_path / "both.html")
    assert set(made.differences["mean"]) == {0}
    assert set(made.differences["measure"]) == {
        "augc_standardised",
        "augc_paper",
        "true_lowest",
        "true_end",
        "regret",
    }
    for place in (made.page, made.numbers):
        assert bs.load(place, kind="comparison") == made
        assert isinstance(bs.load(place), bs.Comparison)
    made.show()
    assert "new minus a" in capsys.readouterr().out
    (tmp_path / "both.json").write_text('{"comparison_version": 2}')
    with pytest.raises(BetastarError, match=r"both\.json: betastar is missing"):
        bs.load(made.numbers)


def test_results_are_shown_as_the_command_line_shows_them(
    results: bs.Results, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    results.show()
    out = capsys.readouterr().out
    assert "How sure? 3 seeds × 5 β, 10 problems" in out
    assert f"Files in {folder}: results.json, samples.jsonl" in out
    assert "Took" not in out
    assert results.table_1("latex").count(r"\midrule") == 2


def test_run_takes_seeds_and_overrides_and_tells_its_reporter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def run(config: Any, out: Path, reporter: Reporter, command: str) -> None:
        ran.append((config, out, reporter, command))
        shutil.copytree(folder, out)

    monkeypatch.setattr(pipeline, "run", run)
    mine = Reporter()
    found = bs.run("micro", seeds=[3, 4], out=tmp_path / "x", overrides={"online.steps": 8}, progress=mine)
    config, out, told, command = ran.pop()
    assert (config.seeds, config.online.steps, out, told, command) == ((3, 4), 8, tmp_path / "x", mine, "")
    assert found.record == record()
    bs.run(bs.load_config("micro"), out=tmp_path / "y", progress=False)
    assert type(ran.pop()[2]) is Reporter
    bs.run("micro", out=tmp_path / "z", overrides=["online.kl.coupling=fixed"], progress=False)
    assert ran.pop()[0].online.kl.coupling == "fixed"
    with pytest.raises(BetastarError, match="did you mean online"):
        bs.run("micro", overrides={"onlin.steps": 8})
    with pytest.raises(BetastarError, match="a Config is final"):
        bs.run(bs.load_config("micro"), seeds=[1])


def test_a_notebook_gets_bars_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for IPython that keeps what is displayed: the first time, and at every update in place."""
    assert isinstance(reporter(), LogReporter)  # under pytest, which is no terminal
    drawn: list[str] = []

    class Handle:
        def update(self, shown: Any) -> None:
            drawn.append(shown._repr_html_())

    def display(shown: Any, display_id: bool) -> Handle:
        drawn.append(shown._repr_html_())
        return Handle()

    ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    monkeypatch.setattr(ipython, "get_ipython", lambda: types.SimpleNamespace(kernel=1), raising=False)
    monkeypatch.setattr(module, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with shown(True) as bars:
        assert isinstance(bars, NotebookReporter)
        bars.say("a <b>")
        bars.stage("online", 9, 11)
        bars.progress(20, 40, "steps", "proxy +1.0")
        bars.progress(40, 40, "steps", "proxy +2.0")
    assert drawn[0] == ""
    assert drawn[1] == "a &lt;b&gt;"
    assert '<progress value="40" max="40"' in drawn[-1]
    assert "9/11 online: 40/40 steps" in drawn[-1]
    assert "proxy +2.0" in drawn[-1]


def test_statistics_are_those_of_the_analysis() -> None:
    table = [[1.0, 2.0, 3.0], [2.0, 2.5, 4.0]]
    # Both seeds rank 1, 2, 3: L = 2·(1 + 4 + 9) = 28, the largest of 36 equally likely, so p = 1/36.
    found = bs.stats.page_trend(table)
    assert (found.L, found.p_greater) == (28, pytest.approx(1 / 36))
    assert bs.stats.page_trend is trend.page_trend
    for name in bs.stats.__all__:
        assert inspect.getdoc(getattr(bs.stats, name)), name


def test_presets_and_plan() -> None:
    assert "micro" in bs.presets()
    assert bs.plan("micro", overrides={"seeds": [0]}).counts.checkpoints == 5
    assert "online:" in api.settings_text(bs.load_config("micro"))
