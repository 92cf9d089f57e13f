"""Code that uses the library, seen by a type checker as its author's editor sees it: strictly, and with real types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyright", reason="types are checked with pip install 'betastar[test]'")
PACKAGE = Path(__file__).resolve().parents[1] / "src"

USER = """\
from pathlib import Path

import betastar as bs

results = bs.run("micro", seeds=[0, 1], out="runs/micro", overrides={"online.steps": 4}, progress=False)
reveal_type(results)
reveal_type(results.points)
reveal_type(results.warnings)
reveal_type(results.plot.rewards())
reveal_type(bs.load(Path("runs/micro")))
reveal_type(bs.load("both.html", kind="comparison").differences)
reveal_type(bs.analyze("sweep.csv", beta="lam", true_unit="percent"))
reveal_type(bs.plan("micro").fits)
reveal_type(bs.stats.page_trend([[1.0, 2.0, 3.0], [2.0, 2.5, 4.0]]).p_greater)
reveal_type(bs.load_config("micro").online.steps)
try:
    bs.compare("a", "b")
except bs.BetastarError as error:
    reveal_type(error)
"""
TYPES = [
    "Results",
    "DataFrame",
    "list[str]",
    "VConcatChart",
    "Results",
    "DataFrame",
    "Results",
    "bool",
    "float",
    "int",
    "BetastarError",
]
MISTAKES = {
    'bs.run("micro", seed=[0])': "reportCallIssue",
    'bs.run("micro", seeds="01")': "reportArgumentType",
    'bs.load("x", kind="runs")': "reportArgumentType",
    'bs.load("x").plot.reward()': "reportAttributeAccessIssue",
    'bs.load("x").table_1("html")': "reportArgumentType",
    'bs.analyze("x", true_unit="percents")': "reportArgumentType",
    "bs.analyse": "reportAttributeAccessIssue",
    "bs.stats.page_trends": "reportAttributeAccessIssue",
}


def checked(folder: Path, text: str) -> list[dict[str, Any]]:
    """What pyright says about a script, strictly."""
    (folder / "script.py").write_text(text, encoding="utf-8")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(PACKAGE)], "reportUnusedExpression": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(folder)]
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, done.stderr
    return report["generalDiagnostics"]


@pytest.mark.thorough
def test_a_user_s_script_has_real_types_and_its_mistakes_are_found(tmp_path: Path) -> None:
    """One call of pyright, as each takes seconds: sound lines first, then one mistake in each line."""
    found = checked(tmp_path, USER + "\n".join(MISTAKES) + "\n")
    first = len(USER.splitlines())
    revealed = [entry["message"].rpartition(' is "')[2] for entry in found if entry["severity"] == "information"]
    assert revealed == [f'{kind}"' for kind in TYPES]
    faults = {entry["range"]["start"]["line"]: entry for entry in found if entry["severity"] == "error"}
    assert [faults[line] for line in faults if line < first] == []
    for line, (code, rule) in enumerate(MISTAKES.items(), first):
        assert line in faults, f"not found: {code}"
        assert faults[line]["rule"] == rule, faults[line]["message"]
