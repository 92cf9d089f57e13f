"""Where the paradox holds in a world that can be computed exactly: does regret rise or fall with β?

    python examples/exact_policy.py FOLDER

writes map.csv and map.svg into FOLDER and prints the table. No model is trained and nothing is sampled but the rewards:
the checkpoint is DPO's optimum and the online phase an exact gradient flow (see `betastar.maths.tabular`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from betastar.maths.tabular import adapt, dpo_optimum, draw_world

BETAS = np.geomspace(0.1, 10, 9)
ERRORS = (0.3, 1.0, 2.0, 3.0, 4.0)  # of the proxy on nonsense, nats
COUPLINGS = {"one κ for all β": lambda beta: 0.05, "κ ∝ β": lambda beta: 0.3 * beta}
TIMES = np.linspace(0, 6, 61)  # s is at most 6: proxy differences count at most sixfold
SEEDS = range(20)


def regrets() -> pd.DataFrame:
    """Regret (points) and √KL at the end, one row per coupling, coverage, error, β and seed."""
    rows = []
    for error in ERRORS:
        for covered in (True, False):
            for seed in SEEDS:
                world = draw_world(np.random.default_rng(seed), 256, error=error, covered=covered)
                for beta in BETAS:
                    start = dpo_optimum(world, beta)
                    for coupling, kappa in COUPLINGS.items():
                        path = adapt(world, start, kappa(beta), TIMES)
                        rows.append(
                            {
                                "coupling": coupling,
                                "pairs": "cover nonsense" if covered else "never show nonsense",
                                "error": error,
                                "beta": beta,
                                "seed": seed,
                                "start": 100 * path.truth[0],
                                "end": 100 * path.truth[-1],
                                "regret": 100 * (path.truth.max() - path.truth[-1]),
                                "distance": np.sqrt(path.kl[-1]),
                            }
                        )
    return pd.DataFrame(rows)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: regret at the smallest, worst and largest β, and which β was the worst."""
    means = rows.pivot_table("regret", ["coupling", "pairs", "error"], "beta", sort=False)
    return pd.DataFrame(
        {
            f"regret at β = {BETAS[0]:g}": means.iloc[:, 0].round(1),
            "largest regret": means.max(axis=1).round(1),
            "at β": [f"{BETAS[k]:.2g}" for k in means.to_numpy().argmax(axis=1)],
            f"regret at β = {BETAS[-1]:g}": means.iloc[:, -1].round(1),
        }
    ).reset_index()


def figure(rows: pd.DataFrame) -> alt.FacetChart:
    means = rows.pivot_table("regret", ["coupling", "pairs", "error", "beta"]).reset_index()
    lines = (
        alt.Chart(means, width=230, height=150)
        .mark_line(point=True)
        .encode(
            alt.X("beta:Q", title="β of the offline phase").scale(type="log").axis(values=[0.1, 0.3, 1, 3, 10]),
            alt.Y("regret:Q", title="regret (points)"),
            alt.Color("error:O", title="proxy error on nonsense (nats)")
            .scale(scheme="viridis")
            .legend(orient="bottom"),
        )
    )
    return lines.facet(
        row=alt.Row("pairs:N", title="the preference pairs"),
        column=alt.Column("coupling:N", title=None, sort=list(COUPLINGS)),
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("exact-policy")
    folder.mkdir(parents=True, exist_ok=True)
    rows = regrets()
    rows.to_csv(folder / "map.csv", index=False)
    figure(rows).save(str(folder / "map.svg"))
    print(table(rows).to_string(index=False))
