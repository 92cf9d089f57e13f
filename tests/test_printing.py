"""What reaches a terminal, a spreadsheet or a page of Markdown: no text of others acts there."""

from __future__ import annotations

import ast
import copy
import csv
import io
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from report.records import record, run_folder

from betastar.api import Results
from betastar.cli import main
from betastar.live.status import Status
from betastar.printing import UNSEEN, Filtered, console, say_json, visible
from betastar.record.files import Run

SOURCE = Path(__file__).resolve().parents[1] / "src" / "betastar"
EVIL = {
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "link": "\x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\",
    "cursor": "\x1b[2J\x1b[1;1H\x1b[31mred",
    "eight bits": "\x9b31m\x9d52;c;ZQ==\x9c",
    "bidirectional": "\u202egnp.exe\u2066x\u2069",
    "backspace": "safe\x08\x08\x08\x08evil\r",
    "zero width": "\u200b\u2060\ufeff\u3164",
    "tags": "\U000e0041\U000e0101",
    "bell": "\x07\x00\x7f",
    "rich": "[red]red[/red] [link=https://evil.example]x[/link]",
}
ALL = "".join(EVIL.values())


def unseen(text: str) -> list[str]:
    return [c for c in text if c not in "\n\t" and unicodedata.category(c) in UNSEEN]


def renamed(found: Any, old: str, new: str) -> Any:
    """A record with one name in place of another, keys included."""
    if isinstance(found, dict):
        return {new if key == old else key: renamed(part, old, new) for key, part in found.items()}
    if isinstance(found, list):
        return [renamed(part, old, new) for part in found]
    return new if found == old else found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which every text that others choose is hostile."""
    found = renamed(copy.deepcopy(record()), "fixed", ALL)
    found |= {"name": ALL, "warnings": [f"one {ALL}"], "betastar": ALL}
    folder = run_folder(tmp_path / "run", {ALL: ALL}, found)
    status = Status(name=ALL, state="failed", message=ALL, command=ALL, directory=ALL, host=ALL, began=0, updated=1)
    status.stages[0].note = ALL
    status.stages[0].began = 0
    (folder / "status.json").write_text(status.model_dump_json())
    return folder


def printed(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """All that a command prints, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["betastar", *map(str, arguments)])
        patch.setattr(sys, "excepthook", sys.excepthook)
        with pytest.raises(SystemExit):
            main()
    done = capfd.readouterr()
    return done.out + done.err


@pytest.mark.parametrize(
    "command",
    [
        ["export", "RUN"],
        ["export", "RUN", "--format", "csv"],
        ["export", "RUN", "--format", "latex"],
        ["watch", "RUN", "--once"],
        ["export", ALL.replace("\0", "")],
        ["report", ALL.replace("\0", "")],
        ["compare", "RUN", "RUN", "--out", f"{EVIL['clipboard']}.html"],
        ["run", f"{EVIL['cursor']}"],
        ["run", "micro", "--set", f"online.{EVIL['clipboard']}=1"],
        ["run", "micro", "--set", f'name="{EVIL["bidirectional"]}"'],
        ["run", "micro", "--set", f"{{{EVIL['link']}: [}}=1"],
        ["analyze", f"no/{EVIL['bidirectional']}"],
        ["plan", "micro", "--json", f"{EVIL['clipboard']}/x/y"],
        ["plan", "micro", "--tokens", EVIL["cursor"]],
    ],
    ids=lambda command: " ".join(command)[:20].encode("ascii", "replace").decode(),
)
def test_no_command_prints_what_acts_on_a_terminal(run: Path, command: list[str], capfd) -> None:
    out = printed(capfd, *[str(run) if part == "RUN" else part for part in command])
    assert out
    assert not unseen(out)
    assert "Traceback" not in out


@pytest.mark.parametrize("details", [False, True])
def test_a_result_is_shown_without_what_acts_on_a_terminal(run: Path, details: bool, capfd) -> None:
    found = json.loads((run / "results.json").read_text())
    Results(Run(found, [], {}, []), run).show(details)
    out = capfd.readouterr().out
    assert "␛]52;c;ZXZpbA==" in out
    assert "[red]red[/red]" in out
    assert not unseen(out)


def test_columns_and_values_of_a_log_are_printed_harmless(tmp_path: Path, capfd) -> None:
    head = ["step", "proxy", f"tr{EVIL['cursor']}ue", f"x{EVIL['bidirectional']}"]
    table = io.StringIO()
    csv.writer(table).writerows([head, *([step, 1 + step, 0.5, EVIL["link"]] for step in range(3))])
    (tmp_path / "log.csv").write_text(table.getvalue())
    for options in (["--true", "nothing"], ["--beta", head[3]], ["--true", head[2], "--json"]):
        arguments = ["analyze", tmp_path / "log.csv", "--proxy", "proxy", *options, "--out", tmp_path / "out"]
        try:
            out = printed(capfd, *arguments)
        except AssertionError as error:
            pytest.fail(f"{options}: {error}")
        assert out
        assert not unseen(out)


def test_json_for_a_terminal_reads_the_same(capfd) -> None:
    say_json(json.dumps({ALL: [ALL, "half \ud83d", "👍"]}, ensure_ascii=False))
    out = capfd.readouterr().out
    assert not unseen(out)
    assert json.loads(out) == {ALL: [ALL, "half \ud83d", "👍"]}


@pytest.mark.parametrize("name", EVIL)
def test_colours_of_ours_stay_and_theirs_do_not(name: str) -> None:
    """On a real terminal rich writes sequences of its own; the text between them is filtered."""
    out = io.StringIO()
    terminal = console(file=out, force_terminal=True, color_system="standard", width=200)
    terminal.print(EVIL[name], style="bold", markup=False)
    terminal.print(Filtered(EVIL[name].replace("[", "(")))
    ours = re.compile(r"\x1b\[[0-9;]*m")
    assert "\x1b[1m" in out.getvalue()
    assert not unseen(ours.sub("", out.getvalue()))
    theirs = visible(re.sub("[\x07\x08\x0b\x0c\r]", "", EVIL[name]))  # rich drops these itself
    assert theirs in ours.sub("", out.getvalue())


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =HYPERLINK(1)"])
def test_no_cell_of_a_csv_is_a_formula(start: str) -> None:
    found = renamed(copy.deepcopy(record()), "fixed", start)
    text = Results(Run(found, [], {}, []), None).table_1("csv")
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert any(cell.startswith("'") for cell in cells)
    for cell in cells:
        if cell.lstrip()[:1] in ("=", "+", "-", "@"):
            float(cell)


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "![x](https://evil.example/pixel.png)",
        "[x]: https://evil.example",
        "`code` **bold** | cell ~~gone~~",
        "# title",
    ],
)
def test_no_text_is_markup_in_markdown(evil: str) -> None:
    found = renamed(copy.deepcopy(record()), "fixed", evil)
    found |= {"warnings": [evil], "name": evil}
    for text in (Results(Run(found, [], {}, []), None).table_1(), Results(Run(found, [], {}, []), None).markdown):
        own = text.replace("<sub>", "").replace("</sub>", "")
        assert not re.search(r"(?<!\\)<[a-z!/]", own), own
        assert not re.search(r"(?<!\\)\]\(", own)
        assert not re.search(r"(?<!\\)!\[", own)
        assert not re.search(rf"(?<!\\){re.escape(evil)}", text)


def test_everything_is_printed_through_the_filter() -> None:
    """Nothing else calls print, or makes a console of rich."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                base = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
                bare = isinstance(node.func, ast.Name) and called == "print"
                if bare or called == "Console" or (base in ("sys.stdout", "sys.stderr") and called == "write"):
                    found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert [place for place in found if not place.startswith("printing.py")] == []


def test_an_error_of_ours_is_printed_harmless(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(ALL)

    monkeypatch.setattr("betastar.api.load_config", fail)
    monkeypatch.setattr(sys, "argv", ["betastar", "config"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(RuntimeError) as error:
        main()
    sys.excepthook(error.type, error.value, error.tb)
    out = capfd.readouterr().err
    assert "RuntimeError" in out
    assert not unseen(out)
