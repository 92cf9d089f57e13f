"""What figures draw: numbers worked by hand, one colour per β, and what logs that lack something give."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from altair.utils.schemapi import debug_mode
from analysis.records import analyzed
from report.records import BETAS, HOSTILE, record, results

from betastar.errors import BetastarError, DrawingError
from betastar.record.files import to_json
from betastar.report import palette
from betastar.report.drawing import Drawn, drawn, page_panels, paper_spec, renderers, write_figures
from betastar.report.figures import across_beta, all_figures, distance, inside, trajectories
from betastar.report.figures.panels import Figure, beta_axis, beta_ends, decades
from betastar.report.plots import Plots
from betastar.report.points import most_points, thinned
from betastar.report.renderer import Renderer, RendererDied
from betastar.report.words import damage_rows


def analysed(frame: pd.DataFrame, **how: Any) -> dict[str, Any]:
    return json.loads(to_json(analyzed(frame, **how)))


@cache
def figures() -> list[Figure]:
    """All figures of the record."""
    with debug_mode(False):  # one test checks them against the schema
        return all_figures(record())


@cache
def specifications() -> list[Drawn]:
    return [drawn(figure) for figure in figures()]


def rows_of(figure: Figure, row: int = 0, column: int = 0) -> list[dict[str, Any]]:
    """All rows of data behind a panel, nulls as they go into the drawing."""
    spec = drawn(figure).specs[row][column]
    return [point for rows in spec["datasets"].values() for point in rows]


def test_seeds_on_different_grids_meet_on_straight_lines() -> None:
    rows = [(0, s, 1.0) for s in (0, 1)] + [(10, 0, 3.0), (20, 0, 3.0), (20, 1, 5.0)]
    frame = pd.DataFrame(rows, columns=["step", "seed", "reward"]).assign(acc=0.5, beta=1.0)
    points = {row["step"]: row for row in rows_of(trajectories.rewards(analysed(frame)), row=1)}
    # At step 10 seed 0 has 3 and seed 1, between 1 and 5, counts as 3; at 20: mean 4, standard error |5 − 3|/2 = 1.
    assert [points[step]["mean"] for step in (0, 10, 20)] == [1, 3, 4]
    assert (points[10]["low"], points[10]["high"]) == (3, 3)
    assert (points[20]["low"], points[20]["high"], points[20]["n"]) == (3, 5, 2)


def test_a_form_of_the_gap_that_is_undefined_everywhere_has_no_panel() -> None:
    frame = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4], "beta": 1.0})
    both, one = analysed(frame.assign(reward_std=1.0)), analysed(frame)
    for figure in (trajectories.gap, across_beta.augc):
        assert (len(figure(both).rows), len(figure(one).rows)) == (2, 1)


def test_an_unknown_beta_has_a_name_on_axes_and_in_tables() -> None:
    frame = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4], "seed": 0})
    numbers = analysed(frame)
    text = json.dumps(drawn(across_beta.augc(numbers)).specs)
    assert '"unknown"' in text
    assert '"type": "log"' not in text  # there is no place for it on a logarithmic axis
    assert all(row["beta"] == "unknown" for row in rows_of(trajectories.rewards(numbers)))
    assert damage_rows(numbers["summary"]["β unknown"])[0][0] == "unknown"


def test_a_beta_of_zero_has_a_place_too() -> None:
    assert beta_ends([0.1, 10.0]) == pytest.approx((0.1 / 1.35, 13.5))
    assert beta_ends([0.1, 10.0], [27.0]) == pytest.approx((0.1 / 1.35, 27 * 1.35))
    assert beta_ends([0.0, 0.1]) is None
    assert json.loads(json.dumps(beta_axis([0.0, 0.1]).to_dict()))["type"] == "ordinal"
    assert list(palette.beta_labels([0.1, 0.0, None, 0.1]).values()) == ["0", "0.1", "unknown"]
    assert list(palette.beta_labels([0.10001, 0.10002]).values()) == ["0.10001", "0.10002"]


def test_what_was_not_logged_is_said_in_a_sentence() -> None:
    frame = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4], "beta": 1.0})
    missing = {figure.key: figure.missing for figure in all_figures(analysed(frame)) if not figure.rows}
    # With one β and one variant, the figures that compare them are left out.
    assert missing.keys() == {"distance", "ranking", "signals", "signs", "inside", "ensemble"}
    assert all(sentence.endswith(".") and len(sentence) > 30 for sentence in missing.values())


def test_every_figure_of_a_whole_record_is_a_valid_vega_lite_chart() -> None:
    # One answer to a problem, seeds that are the same throughout, nothing measured inside.
    assert [figure.key for figure in figures() if not figure.rows] == ["ranking", "signs", "inside"]
    for figure in figures():
        for row in figure.rows:
            for panel in row:
                panel.chart.to_dict(validate=True)
        assert (figure.caption or figure.missing).endswith("."), figure.key


def test_a_beta_has_one_colour_in_every_chart() -> None:
    names = [f"{beta:.3g}" for beta in BETAS]

    def domains(value: Any) -> list[list[str]]:
        if isinstance(value, dict):
            mine = (
                [value["scale"]["domain"]] if value.get("title") == "β" and "domain" in value.get("scale", {}) else []
            )
            return mine + [d for part in value.values() for d in domains(part)]
        return [d for part in value for d in domains(part)] if isinstance(value, list) else []

    found = [d for figure in specifications() for d in domains(figure.specs)]
    assert len(found) > 20
    assert all(domain == names for domain in found)


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("anchors", "ground"), [(palette.LIGHT, "#ffffff"), (palette.DARK, "#15181d")])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_colours_are_ordered_by_lightness_and_stand_out(anchors: tuple[str, ...], ground: str, n: int) -> None:
    """WCAG 2.2, 1.4.11: graphics need a contrast of 3."""
    shades = [luminance(colour) for colour in palette.colours(n, anchors)]
    assert shades == sorted(shades)
    assert len(set(shades)) == n
    for shade in shades:
        low, high = sorted((shade, luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3


def test_the_law_and_its_zones_are_drawn_where_the_data_give_a_beta_star() -> None:
    rising, flat = record(), results(rise=lambda beta: 1.0)
    star = rising["summary"]["paper"]["standardised"]["beta_star"]["value"]
    assert star is not None
    assert flat["summary"]["paper"]["standardised"]["beta_star"]["value"] is None
    zones = {row["zone"]: row for row in rows_of(across_beta.augc(rising)) if "to" in row and "zone" in row}
    assert zones["safe"]["to"] == zones["danger"]["x"] == pytest.approx(star, rel=1e-4)
    assert not [row for row in rows_of(across_beta.augc(flat)) if "zone" in row]
    assert "safe" in across_beta.augc(rising).caption
    assert "No fitted law is drawn" in across_beta.augc(flat).caption


def test_variants_are_compared_within_seeds() -> None:
    numbers = record()
    expected = numbers["differences"][0]["by_beta"][0]["augc_standardised"]["mean"]
    drawn_there = [r for r in rows_of(across_beta.variants(numbers)) if r.get("beta") == "0.1"]
    assert [r["value"] for r in drawn_there if "n" in r] == [pytest.approx(expected, abs=1e-6)]
    assert [r["value"] for r in drawn_there if "seed" in r] == [0, 0, 0]  # the variants of this record are the same


def test_a_gap_that_spikes_to_millions_has_ticks_that_can_be_read() -> None:
    assert decades(-3e6, 20) == [-1_000_000, -100, 0, 1] or len(decades(-3e6, 20)) <= 9
    for low, high in ((-3e6, 20), (-1, 1), (0, 5e8), (-4e7, 4e7)):
        ticks = decades(low, high)
        assert 0 in ticks
        assert all(low <= tick <= high for tick in ticks)
        assert 2 <= len(ticks) <= 10


def test_paper_and_page_are_drawn_from_the_same_panels(tmp_path: Path) -> None:
    numbers = record()
    figure = drawn(trajectories.gap(numbers))
    paper = [panel for row in paper_spec(figure, "")["vconcat"] for panel in row["hconcat"]]
    page = [panel["spec"] for row in page_panels(figure) for panel in row]
    assert [panel["layer"] for panel in paper] == [panel["layer"] for panel in page]
    written = write_figures([figure], numbers, tmp_path)
    assert written == ["gap.svg", "gap.pdf", "gap.png"]
    assert (tmp_path / "gap.svg").read_text().startswith("<svg")
    assert "τ" in (tmp_path / "gap.svg").read_text()
    assert (tmp_path / "gap.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")


def test_names_full_of_markup_are_drawn_as_text(tmp_path: Path) -> None:
    evil = "".join(HOSTILE.values())
    figure = trajectories.path({**record(), "name": evil})
    write_figures([drawn(figure)], {**record(), "name": evil}, tmp_path)
    svg = (tmp_path / "path.svg").read_text()
    assert "&lt;script&gt;window.hacked" in svg
    assert "<script" not in svg


def measured_inside() -> dict[str, Any]:
    """The record with what a run measures besides: best-of-n, the offline phase, plasticity, a ranking by step."""
    numbers = json.loads(json.dumps(record()))
    entry = {"standard_error": 0.1, "interval": {"low": 1.0, "high": 3.0}, "n": 3, "reason": None}
    curve = [
        {"best_of": n, "kl": kl, "truth": {**entry, "mean": 0.5 + kl / 10}}
        for n, kl in ((1, 0.0), (2, 0.19), (4, 0.64))
    ]
    numbers["best_of_n"] = {"by_beta": [{"beta": beta, "curve": curve} for beta in BETAS]}
    offline = [{"step": step, "true_strict": 0.4 + step / 100} for step in (0, 10)]
    log = {"step": [5, 10], "chosen_log_ratio": [-0.1, -0.3], "rejected_log_ratio": [-0.5, -1.5]}
    numbers["inside"] = {
        "checkpoints": [
            {"beta": beta, "seed": seed, "curve": offline, "log": log} for beta in BETAS for seed in (0, 1, 2)
        ]
    }
    for summary in numbers["summary"].values():
        for row in summary["by_beta"]:
            row |= {"effective_rank_start": {**entry, "mean": 9.0}, "effective_rank_end": {**entry, "mean": 2.0}}
    for run in numbers["conditions"]:
        run["series"]["ranking"] = [0.8, 0.6, 0.4]
        run["series"]["kl_base"] = [4.0, 9.0, 16.0]
    return numbers


def test_the_truth_is_drawn_over_root_kl_beside_best_of_n() -> None:
    figure = distance.distance(measured_inside())
    assert [len(row) for row in figure.rows] == [2, 2]  # from the checkpoint and from the base; two variants
    points = [row for row in rows_of(figure) if row.get("step") == 4 and row["beta"] == "0.1" and "seed" not in row]
    assert [(row["d_kl"], row["true_strict"]) for row in points] == [(2.0, 0.3)]  # KL is 4 at step 4
    best = [(row["best_of"], row["d"]) for row in rows_of(figure) if row.get("best_of") and row["beta"] == "0.1"]
    assert best == [(1, 0.0), (2, pytest.approx(0.19**0.5, rel=1e-4)), (4, 0.8)]
    assert not [row for row in rows_of(figure, row=1) if "best_of" in row]  # it is a distance from the checkpoint
    from_base = [row for row in rows_of(figure, row=1) if row.get("step") == 4 and "seed" not in row]
    assert {row["d_kl_base"] for row in from_base} == {4.0}


def test_inside_the_network() -> None:
    figure = inside.inside(measured_inside())
    assert [[panel.title for panel in row] for row in figure.rows] == [
        ["offline phase", "log-ratios of training pairs"],
        ["variant paper", "variant fixed"],
    ]
    ratios = {(row["step"], row["of"]): row["value"] for row in rows_of(figure, 0, 1) if "of" in row}
    assert ratios[10, "chosen"] == -0.3
    assert ratios[10, "rejected"] == -1.5
    assert sorted({row["value"] for row in rows_of(figure, 1, 0)}) == [2.0, 9.0]  # after and before
    for row in figure.rows:
        for panel in row:
            panel.chart.to_dict(validate=True)


def test_what_a_fresh_task_taught_is_drawn_where_there_was_one() -> None:
    numbers = measured_inside()
    assert "Fresh gain" not in inside.inside(numbers).caption
    numbers["inside"]["probe"] = {"fresh": {"n_steps": 40, "n_tokens": 300, "learning_rate": 1e-3}}
    for summary in numbers["summary"].values():
        for row in summary["by_beta"]:
            entry = row["effective_rank_end"]
            row |= {"fresh_gain_start": {**entry, "mean": 1.5}, "fresh_gain_end": {**entry, "mean": 1.25}}
    figure = inside.inside(numbers)
    assert "40 steps" in figure.caption
    assert len(figure.rows) == 3
    assert sorted({row["value"] for row in rows_of(figure, 2, 0)}) == [1.25, 1.5]
    assert '"fresh gain (nats per token)"' in json.dumps(figure.rows[2][0].chart.to_dict(validate=True))


def test_the_ranking_is_drawn_against_chance() -> None:
    rows = rows_of(inside.ranking(measured_inside()))
    assert [row["mean"] for row in rows if row.get("beta") == "0.1"] == [0.8, 0.6, 0.4]
    assert [row["at"] for row in rows if "at" in row] == [0.5]


def test_the_beta_to_choose_are_shaded() -> None:
    numbers = json.loads(json.dumps(record()))
    numbers["decision"]["paper"]["choose"]["betas"] = [0.5, 1.0]
    strips = [row for row in rows_of(across_beta.end_truth(numbers)) if "to" in row]
    assert [(row["x"] * row["to"]) ** 0.5 for row in strips] == pytest.approx([0.5, 1.0])
    assert "Shaded" in across_beta.end_truth(numbers).caption


@pytest.mark.parametrize(("paper", "inches"), [("one column", 3.25), ("two columns", 6.75)])
@pytest.mark.thorough
def test_a_figure_for_a_paper_has_the_width_of_its_column(paper: Any, inches: float, tmp_path: Path) -> None:
    chart = Plots(record()).gap(paper)
    for suffix in ("svg", "pdf", "png"):
        chart.save(str(tmp_path / f"gap.{suffix}"))
    svg = (tmp_path / "gap.svg").read_text()
    (width,) = re.findall(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    assert float(width) == pytest.approx(72 * inches, abs=1.5)
    (box,) = set(re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ", (tmp_path / "gap.pdf").read_bytes()))
    assert float(box) == float(width)
    assert set(re.findall(r'font-size="([^"]+)"', svg)) == {"8px"}  # one unit is a point
    assert "Goodhart gap by online step" not in svg  # the title is the caption's
    assert "variant paper" in svg


def test_the_figures_of_a_folder_can_be_for_a_paper(tmp_path: Path) -> None:
    numbers = record()
    figures = [drawn(trajectories.path(numbers)), drawn(inside.inside(numbers))]  # the second has no data
    assert write_figures(figures, numbers, tmp_path, "two columns") == ["path.svg", "path.pdf", "path.png"]
    assert b"MediaBox [0 0 486 " in (tmp_path / "path.pdf").read_bytes()


def test_another_width_of_paper_is_refused() -> None:
    with pytest.raises(BetastarError, match='choose "one column" or "two columns"'):
        Plots(record()).gap("A4")  # pyright: ignore[reportArgumentType]


def test_long_series_are_thinned_evenly_and_keep_both_ends() -> None:
    frame = pd.DataFrame({"step": range(10_001)})
    steps = list(thinned(frame, 101)["step"])
    assert steps == list(range(0, 10_001, 100))
    assert [most_points(n) for n in (1, 20, 1000)] == [240, 200, 20]
    assert len(thinned(frame.head(50), 101)) == 50


EMPTY = {"mark": "point", "data": {"values": []}}


@pytest.mark.parametrize("death", [signal.SIGTRAP, signal.SIGKILL])
def test_a_renderer_that_dies_is_one_sentence(tmp_path: Path, death: signal.Signals) -> None:
    numbers = record()
    figure = drawn(trajectories.path(numbers))
    died = pytest.raises(DrawingError, match=rf"^figures: the renderer died \({death.name}\), .*; raise the limit")
    with died, renderers() as draw:
        draw.ask(Renderer.width, EMPTY).result()
        draw._started[0]._process.send_signal(death)
        write_figures([figure], numbers, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert write_figures([figure], numbers, tmp_path)  # the next one has its own


def test_memory_that_is_limited_ends_the_renderer_and_nothing_else(tmp_path: Path) -> None:
    """V8 reserves address space by the gigabyte, and aborts where it gets none."""
    script = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from betastar.report.renderer import Renderer, RendererDied\n"
        "try:\n  Renderer().width({'mark': 'line'})\nexcept RendererDied as error:\n  print('died', error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("died SIG"), done
    assert done.stderr == ""


def test_a_specification_that_is_none_is_an_error_and_the_renderer_goes_on() -> None:
    with renderers() as draw:
        wrong = draw.ask(Renderer.width, {"mark": {"type": 3}, "data": {"values": 7}, "encoding": 5})
        with pytest.raises(ValueError, match=r"^Vega-Lite to SVG conversion failed: .*Error"):
            wrong.result()
        assert draw.ask(Renderer.width, EMPTY).result() > 0
        assert len(draw._started) == 1


def test_several_draw_at_once_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many processes as cores, up to three; what is asked gets its own answer, whoever draws it."""
    monkeypatch.setattr("betastar.report.renderer.os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    widths = [100, 200, 300, 400, 500, 600]
    with renderers() as draw:
        asked = [draw.ask(Renderer.width, {**EMPTY, "width": width, "config": {"padding": 0}}) for width in widths]
        found = [one.result() for one in asked]
        processes = [one._process for one in draw._started]
    assert [later - found[0] for later in found] == [width - 100 for width in widths]
    assert len(processes) == 3
    assert all(process.poll() is not None for process in processes)


def test_who_is_interrupted_does_not_wait_for_what_is_drawn() -> None:
    slow = {"mark": "point", "data": {"sequence": {"start": 0, "stop": 300_000}}, "encoding": {"x": {"field": "data"}}}
    with renderers() as draw:
        draw.ask(Renderer.width, EMPTY).result()
        drawing = draw.ask(Renderer.width, slow)
        while not drawing.running():
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 3
    with pytest.raises(RendererDied):
        drawing.result()
