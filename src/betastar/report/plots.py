"""The figures of a report as charts for a notebook or a paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import altair as alt

from betastar.errors import BetastarError

if TYPE_CHECKING:
    from betastar.report.figures.panels import Figure


class Chart(alt.VConcatChart):
    """An altair chart that shows itself without a network: as SVG, unless `alt.renderers` was told otherwise. Altair's
    own default is a script that fetches Vega from another server."""

    def _repr_mimebundle_(self, *args: Any, **kwds: Any) -> Any:
        if alt.renderers.active != "default":
            return super()._repr_mimebundle_(*args, **kwds)
        with alt.renderers.enable("svg"):
            return super()._repr_mimebundle_(*args, **kwds)


class Plots:
    """The figures of a record. Each method returns an altair chart, which shows itself in a notebook without a network;
    `chart.save` with a name that ends in .pdf, .svg, .png or .html writes it. BetastarError where the record does not
    hold what the figure needs."""

    def __init__(self, record: Mapping[str, Any]):
        self._record = record

    def rewards(self) -> alt.VConcatChart:
        """Proxy and true reward by online step, for each β: the key figure."""
        from betastar.report.figures.trajectories import rewards

        return self._chart(rewards)

    def gap(self) -> alt.VConcatChart:
        """The Goodhart gap by step in both forms, τ and onsets (the paper's Figure 3)."""
        from betastar.report.figures.trajectories import gap

        return self._chart(gap)

    def augc(self) -> alt.VConcatChart:
        """AUGC by β with the fitted law (the paper's Figure 5)."""
        from betastar.report.figures.across_beta import augc

        return self._chart(augc)

    def path(self) -> alt.VConcatChart:
        """Proxy against true reward as a path through time."""
        from betastar.report.figures.trajectories import path

        return self._chart(path)

    def variants(self) -> alt.VConcatChart:
        """Differences between variants at each β, paired within seeds."""
        from betastar.report.figures.across_beta import variants

        return self._chart(variants)

    def mechanism(self) -> alt.VConcatChart:
        """AUGC, entropy, OOD distance and û by β (the paper's Figure 6)."""
        from betastar.report.figures.across_beta import mechanism

        return self._chart(mechanism)

    def entropy(self) -> alt.VConcatChart:
        """Entropy of the checkpoints and its collapse (the paper's Figure 4)."""
        from betastar.report.figures.across_beta import entropy

        return self._chart(entropy)

    def signals(self) -> alt.VConcatChart:
        """What can be seen without the truth, by step."""
        from betastar.report.figures.trajectories import signals

        return self._chart(signals)

    def warning_signs(self) -> alt.VConcatChart:
        """Area under the ROC curve of each warning sign, with its interval."""
        from betastar.report.figures.instruments import warning_signs

        return self._chart(warning_signs)

    def ensemble(self) -> alt.VConcatChart:
        """Accuracy and margin of the reward models on held-out pairs."""
        from betastar.report.figures.instruments import ensemble

        return self._chart(ensemble)

    def _chart(self, figure: Callable[[Mapping[str, Any]], Figure]) -> alt.VConcatChart:
        from altair.utils.schemapi import debug_mode

        from betastar.report.drawing import drawn, paper_spec, subtitle_of
        from betastar.report.palette import print_theme

        with debug_mode(False):  # as in a report: checked against the schema in the tests, which takes seconds
            made = figure(self._record)
            if made.missing:
                raise BetastarError(f"{made.title}: {made.missing}")
            spec = paper_spec(drawn(made), subtitle_of(self._record))
        config = print_theme(len({r["beta"] for r in self._record["conditions"]}))
        return Chart.from_dict({**spec, "config": config}, validate=False)
