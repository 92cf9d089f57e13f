"""Run directories for the tests of the report: numbers by a simple rule, responses as given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from analysis.test_results import point

from betastar.analysis.results import build_results
from betastar.record.files import read_run, to_json
from betastar.report import drawing
from betastar.report.drawing import drawn
from betastar.report.figures.trajectories import rewards
from betastar.report.page import page
from betastar.settings.config import load_config

BETAS, SEEDS, STEPS = (0.1, 0.5, 1.0, 5.0, 20.0), (0, 1, 2), (0, 2, 4)
REWARDS = {
    part: {
        "pairs": 100,
        "member_mean": [0.0, 0.1],
        "member_accuracy": [0.6, 0.7],
        "member_margin": [0.5, 0.9],
        "mean_accuracy": 0.7,
        "sign_disagreement": 0.1,
    }
    for part in ("validation", "test")
} | {"members": 2}
HOSTILE = {
    "script": "<script>window.hacked = 1</script>",
    "closing": '</script></div></textarea>--><img src=x onerror="window.hacked = 2">',
    "comment": "<!-- <script> ]]> <![CDATA[",
    "control": "a\x00b\x07c\x1b[31md\x7fe\x85f\r\ng",
    "bidirectional": "user\u202egnp.exe \u2066x\u2069 \u200bzero \ufeffmark",
    "surrogate": "half \ud83d of \udc00 a pair",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7}",
    "right to left": "שלום olam مرحبا",
    "marks": "e" + "\u0301" * 500,
}


@cache
def record() -> dict[str, Any]:
    """`results()`, made once."""
    return results()


def results(
    rise: Any = lambda beta: beta**0.5, variants: Sequence[str] = ("paper", "fixed"), **context: Any
) -> dict[str, Any]:
    """Conditions in which the proxy rises by `rise(β)` per step from 4, with standard deviation 2, and five, then four,
    then three of ten answers are right; seeds differ a little."""
    rows = [
        point(variant, beta, seed, step, 4.0 + rise(beta) * (1 + seed / 10) * step, 5 - step // 2)
        for variant in variants
        for beta in BETAS
        for seed in SEEDS
        for step in STEPS
    ]
    given = {"name": "hand", "rewards": REWARDS, **context}
    return json.loads(to_json(build_results(rows, {}, given, primary="augc_standardised")))


def responses(texts: Mapping[str, str], variants: Sequence[str] = ("paper", "fixed")) -> list[dict[str, Any]]:
    """A right answer at the start and these texts, wrong, later: one problem each, for every condition."""
    return [
        {
            "variant": variant,
            "beta": beta,
            "seed": seed,
            "step": step,
            "problem": number,
            "question": f"What about {name} ?",
            "gold": "#### 4",
            "response": "2 + 2 = 4 . #### 4" if step == 0 else f"2 + 2 = 5 . {text}",
            "proxy": 0.25 + step,
            "disagreement": 0.5,
            "strict": step == 0,
            "lenient": step == 0,
            "tokens": 7,
        }
        for variant in variants
        for beta in BETAS
        for seed in SEEDS
        for step in STEPS
        for number, (name, text) in enumerate(texts.items())
    ]


def run_folder(folder: Path, texts: Mapping[str, str], numbers: dict[str, Any] | None = None) -> Path:
    """A run directory as far as a report reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = numbers or record()
    (folder / "results.json").write_text(json.dumps(numbers))
    lines = [json.dumps(row) + "\n" for row in responses(texts, list(numbers["summary"]))]
    (folder / "samples.jsonl").write_text("".join(lines))
    config = load_config("micro", ["online.steps=7"]).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = {
        "stage": "base",
        "machine": "Linux, 2 cores",
        "python": "3.11.7",
        "finished": "2026-01-01T00:00:00Z",
        "write_seconds": 12.5,
    }
    (folder / "store" / "base" / "0").mkdir(parents=True, exist_ok=True)
    (folder / "store" / "base" / "0" / "manifest.json").write_text(json.dumps(manifest))
    return folder


@contextmanager
def unprinted() -> Iterator[None]:
    """Reports and comparisons are their page alone: figures as files take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "print_figures", lambda *_: [])
        yield


def page_of(folder: Path) -> str:
    """The page of a run directory with its first figure only, without figures on paper."""
    run = read_run(folder)
    return page([(run, [drawn(rewards(run.results))])])
