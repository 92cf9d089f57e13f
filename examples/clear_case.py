"""A made-up clear case: 35 runs, 7 values of β × 5 seeds, in which a larger β makes hacking worse.

    python examples/clear_case.py FOLDER

writes the report of these runs into FOLDER. Compare your own report with it: this is what a clear answer looks like.
No model is trained. The truth first rises, then falls the deeper the larger β is; the proxy rises all the while.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import betastar as bs

BETAS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0)
SEEDS = range(5)
STEPS = np.arange(0, 101, 10)
PROBLEMS = 1319  # as many as in the test split of GSM8K
GAIN, LOSS = 0.10, 0.20  # of the true reward: what adaptation gives, and what hacking takes at β = 1


def logs() -> pd.DataFrame:
    """One row per β, seed and evaluation point, as a training script would log it."""
    noise = np.random.default_rng(0)
    rows = []
    for beta in BETAS:
        for seed in SEEDS:
            luck = noise.normal(0, 0.02)  # of this checkpoint
            speed = noise.normal(1, 0.08)  # how fast this run hacks
            for step in STEPS:
                t = step / STEPS[-1]
                truth = 0.55 + luck + GAIN * (1 - np.exp(-6 * t)) - LOSS * speed * beta**0.9 * t**2
                proxy = 1.0 + 1.0 * (1 - np.exp(-2.5 * t)) + 0.3 * beta**0.9 * t
                rows.append(
                    {
                        "beta": beta,
                        "seed": seed,
                        "step": step,
                        "proxy": proxy + noise.normal(0, 0.8 / np.sqrt(PROBLEMS)),
                        "proxy_std": 0.8,
                        "true": noise.binomial(PROBLEMS, truth) / PROBLEMS,
                        "kl": 25 * t * (1 + 0.2 * np.log10(beta)),
                    }
                )
    return pd.DataFrame(rows)


def analysis(folder: Path | None = None) -> bs.Results:
    """The results of these logs; with a folder, its report is written there."""
    return bs.analyze(logs(), true="true", proxy="proxy", n=PROBLEMS, name="a made-up clear case", out=folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("clear-case")
    analysis(folder).show()
