"""The figures of a report as charts for a notebook or a paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt

from betastar.errors import BetastarError

if TYPE_CHECKING:
    from betastar.report.drawing import Paper
    from betastar.report.figures.panels import Figure


class Chart(alt.VConcatChart):
    """An altair chart that shows itself without a network: as SVG, unless `alt.renderers` was told otherwise. Altair's
    own default is a script that fetches Vega from another server."""

    def _repr_mimebundle_(self, *args: Any, **kwds: Any) -> Any:
        if alt.renderers.active != "default":
            return super()._repr_mimebundle_(*args, **kwds)
        with alt.renderers.enable("svg"):
            return super()._repr_mimebundle_(*args, **kwds)


class PaperChart(Chart):
    """A chart as wide as a column of a paper. As .svg or .pdf it is a vector of exactly that width, as .png it has 300
    dpi."""

    def save(self, fp: Any, format: Any = None, *args: Any, **kwargs: Any) -> None:
        """As altair's `save`, at the true size."""
        from betastar.report.drawing import paper_files

        suffix = format or (Path(fp).suffix[1:] if isinstance(fp, str | Path) else "")
        if suffix not in ("svg", "pdf", "png") or args or kwargs or not isinstance(fp, str | Path):
            super().save(fp, format, *args, **kwargs)
            return
        Path(fp).write_bytes(paper_files(self.to_dict(validate=False))[suffix])


class Plots:
    """The figures of a record. Each method returns an altair chart, which shows itself in a notebook without a network;
    `chart.save` with a name that ends in .pdf, .svg, .png or .html writes it. With `paper="one column"` (3.25 inches)
    or `"two columns"` (6.75 inches) a chart is as a paper prints it: 8 pt, without a title. BetastarError where the
    record does not hold what the figure needs."""

    def __init__(self, record: Mapping[str, Any]):
        self._record = record

    def rewards(self, paper: Paper | None = None) -> alt.VConcatChart:
        """True reward and proxy by online step, for each β: the key figure."""
        from betastar.report.figures.trajectories import rewards

        return self._chart(rewards, paper)

    def end_truth(self, paper: Paper | None = None) -> alt.VConcatChart:
        """True reward at the end by β, with the values that cannot be distinguished from the best."""
        from betastar.report.figures.across_beta import end_truth

        return self._chart(end_truth, paper)

    def regret(self, paper: Paper | None = None) -> alt.VConcatChart:
        """What stopping at the best step would have kept of the true reward, by β."""
        from betastar.report.figures.across_beta import regret

        return self._chart(regret, paper)

    def distance(self, paper: Paper | None = None) -> alt.VConcatChart:
        """True reward against √KL from the checkpoint and from the base, with best-of-n."""
        from betastar.report.figures.distance import distance

        return self._chart(distance, paper)

    def gap(self, paper: Paper | None = None) -> alt.VConcatChart:
        """The Goodhart gap by step in both forms, τ and onsets (the paper's Figure 3)."""
        from betastar.report.figures.trajectories import gap

        return self._chart(gap, paper)

    def augc(self, paper: Paper | None = None) -> alt.VConcatChart:
        """AUGC by β with the fitted law (the paper's Figure 5)."""
        from betastar.report.figures.across_beta import augc

        return self._chart(augc, paper)

    def path(self, paper: Paper | None = None) -> alt.VConcatChart:
        """Proxy against true reward as a path through time."""
        from betastar.report.figures.trajectories import path

        return self._chart(path, paper)

    def variants(self, paper: Paper | None = None) -> alt.VConcatChart:
        """Differences between variants at each β, paired within seeds."""
        from betastar.report.figures.across_beta import variants

        return self._chart(variants, paper)

    def mechanism(self, paper: Paper | None = None) -> alt.VConcatChart:
        """AUGC, entropy, OOD distance and û by β (the paper's Figure 6)."""
        from betastar.report.figures.across_beta import mechanism

        return self._chart(mechanism, paper)

    def entropy(self, paper: Paper | None = None) -> alt.VConcatChart:
        """Entropy of the checkpoints and its collapse (the paper's Figure 4)."""
        from betastar.report.figures.across_beta import entropy

        return self._chart(entropy, paper)

    def signals(self, paper: Paper | None = None) -> alt.VConcatChart:
        """What can be seen without the truth, by step."""
        from betastar.report.figures.trajectories import signals

        return self._chart(signals, paper)

    def ranking(self, paper: Paper | None = None) -> alt.VConcatChart:
        """Whether the proxy still scores right answers above wrong ones, by step."""
        from betastar.report.figures.inside import ranking

        return self._chart(ranking, paper)

    def inside(self, paper: Paper | None = None) -> alt.VConcatChart:
        """The offline phase, likelihood displacement, and plasticity before and after."""
        from betastar.report.figures.inside import inside

        return self._chart(inside, paper)

    def warning_signs(self, paper: Paper | None = None) -> alt.VConcatChart:
        """Area under the ROC curve of each warning sign, with its interval."""
        from betastar.report.figures.instruments import warning_signs

        return self._chart(warning_signs, paper)

    def ensemble(self, paper: Paper | None = None) -> alt.VConcatChart:
        """Accuracy and margin of the reward models on held-out pairs."""
        from betastar.report.figures.instruments import ensemble

        return self._chart(ensemble, paper)

    def _chart(self, figure: Callable[[Mapping[str, Any]], Figure], paper: Paper | None) -> alt.VConcatChart:
        from altair.utils.schemapi import debug_mode

        from betastar.report.drawing import check_paper, drawn, paper_spec, sized_spec, subtitle_of
        from betastar.report.palette import print_theme

        n_beta = len({r["beta"] for r in self._record["conditions"]})
        with debug_mode(False):  # as in a report: checked against the schema in the tests, which takes seconds
            made = figure(self._record)
            if made.missing:
                raise BetastarError(f"{made.title}: {made.missing}")
            if paper is not None:
                return PaperChart.from_dict(sized_spec(drawn(made), check_paper(paper), n_beta), validate=False)
            spec = paper_spec(drawn(made), subtitle_of(self._record))
        return Chart.from_dict({**spec, "config": print_theme(n_beta)}, validate=False)
