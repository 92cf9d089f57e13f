"""The map of the paper and the errata name only what exists, and leave no part of the paper out."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import string
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis.test_results import point
from test_docs import ROOT, WRITTEN_BY_A_RUN

from betastar.analysis.results import build_results
from betastar.cli import app
from betastar.planning.derive import hyperparameters
from betastar.record.files import to_json
from betastar.report.figures import all_figures
from betastar.settings.config import load_config, preset_names

MAP, ERRATA = ROOT / "docs" / "paper_map.md", ROOT / "docs" / "errata.md"
NOTHING = "—"
# Numbers that the paper gives to one and the same formula.
SAME = {"4": "B.1"}


def rows(page: Path) -> list[list[str]]:
    """Cells of every row of the page's tables with four columns, headings left out."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == 4 and row[0] not in ("paper", "---")]


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def found(name: str) -> Any:
    """The module, class, function or value `betastar.<name>`. Raises ImportError or AttributeError."""
    parts = ["betastar", *name.split(".")]
    value: Any = None
    for i, part in enumerate(parts):
        try:
            value = importlib.import_module(".".join(parts[: i + 1]))
        except ModuleNotFoundError:
            value = getattr(value, part)
    return value


def is_code(name: str) -> bool:
    try:
        found(name)
    except (ImportError, AttributeError):
        return False
    return True


def is_setting(name: str) -> bool:
    """A setting of some preset, by its dotted name."""
    return any(has(load_config(preset).model_dump(), name.split(".")) for preset in preset_names())


def has(value: Any, path: list[str]) -> bool:
    """Whether a path leads somewhere in nested dictionaries and lists; list indices are left out of it."""
    if not path:
        return True
    if isinstance(value, list | tuple):
        return any(has(item, path) for item in value)
    if not isinstance(value, Mapping):
        return False
    heads = (".".join(path[:i]) for i in range(1, len(path) + 1))  # some keys have dots themselves
    return any(head in value and has(value[head], path[i:]) for i, head in enumerate(heads, start=1))


@cache
def results() -> dict[str, Any]:
    """A `results.json` as far as it is made of evaluation points and settings."""
    points = [
        {**point("paper", beta, seed, step, 4.0 + beta * step, 5), "disagreement_centred": 0.1}
        for beta in (0.1, 1.0, 10.0)
        for seed in (0, 1)
        for step in (0, 2, 4)
    ]
    again = {"proxy": 4.0, "true_strict": 0.5, "true_lenient": 0.5, "disagreement": 0.5}
    alignment = {"pair_accuracy": 0.6, "test_pairs": 10, "win_rate": 0.5, "judge": "annotator"}
    extras = {(beta, seed): {"alignment": alignment, "again": again} for beta in (0.1, 1.0, 10.0) for seed in (0, 1)}
    context = {"hyperparameters": hyperparameters(load_config("micro"), []), "root_seed": 0}
    return build_results(pd.DataFrame(points), extras, context, trade_off=1.0)


@cache
def record() -> dict[str, Any]:
    """The same, where by-variant parts hold the variant's."""
    made = results()
    return {**made, "summary": made["summary"]["paper"], "chain": made["chain"]["paper"]}


def is_field(name: str) -> bool:
    """A path in the record, or a name of docs/results.md, part by part, for what a run adds about its data."""
    page = (ROOT / "docs" / "results.md").read_text()
    documented = {part for names in re.findall(r"`([\w.]+)`", page) for part in names.split(".")}
    return has(record(), name.split(".")) or (
        name.split(".")[0] not in record() and all(part in documented for part in name.split("."))
    )


def is_chart(name: str) -> bool:
    """A figure that a run writes."""
    return name in {f"figures/{figure.key}.png" for figure in all_figures(json.loads(to_json(results())))}


def is_path(name: str) -> bool:
    return (ROOT / name).exists() or name in WRITTEN_BY_A_RUN


def is_command(name: str) -> bool:
    """`betastar COMMAND`, or `pytest FILE -k WORD` with a test that it selects."""
    program, *words = name.split()
    if program == "betastar":
        return words[0] in [command.name or command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]
    if program != "pytest" or len(words) != 3 or words[1] != "-k" or not (ROOT / words[0]).exists():
        return False
    return any(
        words[2].lower() in test.lower() for test in re.findall(r"^def (test_\w+)", (ROOT / words[0]).read_text(), re.M)
    )


def is_choice(name: str) -> bool:
    """A preset, or a value of a setting that a preset sets."""
    kinds = {
        load_config(preset).variant(v).kl.coupling for preset in preset_names() for v in load_config(preset).variants
    }
    return name in preset_names() or name in kinds


@pytest.mark.parametrize("row", rows(MAP), ids=lambda row: row[0].split(",")[0])
def test_every_name_of_a_row_exists(row: list[str]) -> None:
    _, code, field, departs = row
    assert code == NOTHING or in_backticks(code) or code.startswith("as ")
    for name in in_backticks(code):
        assert is_code(name) or is_command(name), f"no such code: {name}"
    assert field == NOTHING or in_backticks(field)
    for name in in_backticks(field):
        assert is_field(name) or is_chart(name), f"no such field or chart: {name}"
    for name in in_backticks(departs):
        assert is_code(name) or is_field(name) or is_setting(name) or is_path(name), f"nothing is called {name}"


@pytest.mark.parametrize("page", [MAP, ERRATA], ids=["map", "errata"])
def test_every_name_of_the_text_exists(page: Path) -> None:
    known = (is_code, is_field, is_setting, is_path, is_command, is_choice, is_chart)
    text = "\n".join(line for line in page.read_text().splitlines() if page is ERRATA or not line.startswith("|"))
    names = [name for name in in_backticks(text) if name != "betastar"]
    assert len(names) > 5
    for name in names:
        # A field of a condition may stand without its prefix.
        assert any(kind(name) for kind in known) or is_field(f"conditions.{name}") or in_summary(name), name


def in_summary(name: str) -> bool:
    return is_field(f"summary.standardised.{name}")


def test_what_does_not_exist_is_refused() -> None:
    assert not is_code("maths.goodhart.nothing")
    assert not is_code("nothing.paper_gap")
    assert not is_field("conditions.nothing")
    assert not is_field("nothing.coverage")
    assert not is_chart("figures/nothing.png")
    assert not is_setting("online.nothing")
    assert not is_path("src/nothing")
    assert not is_command("betastar nothing")
    assert not is_command("pytest tests/test_errata.py -k E99_")
    assert not is_choice("nothing")


def numbered() -> Iterator[str]:
    """What the paper numbers: its equations, its propositions, the lines of Algorithm 1, and so on."""
    yield from (f"Eq. {i}" for i in range(1, 16))
    yield from (f"Eq. {letter}.{i}" for letter, last in (("A", 6), ("B", 7), ("C", 3)) for i in range(1, last + 1))
    yield from (f"Definition {number}" for number in ("3.1", "3.2", "6.1"))
    yield from ("Proposition 5.1", "Proposition 6.2", "Remark A.1", "Table 1", "E:", "G:")
    yield from (f"line {i}" for i in range(1, 27))
    yield from (f"Figure {i}" for i in range(1, 7))
    yield from (f"C.{i}" for i in range(1, 8))
    yield from (f"F.{i}" for i in range(1, 11))
    yield from (f"F ({letter})" for letter in string.ascii_lowercase[:4])


def named(first_cell: str) -> set[str]:
    """`lines 5, 9, …` names line 5 and line 9; `Eq. A.5, A.6, …` both equations."""
    number = r"(?:[A-C]\.)?\d+(?:\.\d+)?"
    found: set[str] = set()
    for word, listed in re.findall(
        rf"^(Eq\.|lines?|Definition|Proposition|Remark|Table|Figure) ({number}(?:, {number})*)", first_cell
    ):
        found |= {f"{word.rstrip('s')} {one}" for one in listed.split(", ")}
    found |= set(re.findall(r"\b[CF]\.\d+|^F \([a-d]\)|^[EG]:", first_cell))
    return found


def test_the_map_leaves_no_numbered_part_of_the_paper_out() -> None:
    listed = set().union(*(named(row[0]) for row in rows(MAP)))
    assert set(numbered()) - listed == set()


def equations_of(source: str) -> set[str]:
    """Equation numbers that a source names: `Eq. 8-10`, `Eq. 2, 7, 9 and 10`, `Eq. C.1 to C.3`."""
    number = r"(?:[A-C]\.)?\d+"
    found: set[str] = set()
    for text in re.findall(rf"Eq\. ({number}(?:(?:, | and | to |-|–|: )(?={number}){number})*)", source):
        numbers = re.findall(number, text)
        found |= set(numbers)
        for first, last in re.findall(rf"({number})(?: to |-|–)({number})", text):
            letter = first[:-1].rstrip(string.digits)
            start, end = (int(n.rpartition(".")[2]) for n in (first, last))
            found |= {f"{letter}{i}" for i in range(start, end + 1)}
    return found


def test_the_code_of_an_equation_names_that_equation() -> None:
    """Where formulas are pure functions, their sources say which equation they are: the map must agree with them."""
    checked = 0
    for first, code, *_ in rows(MAP):
        equations = {name.removeprefix("Eq. ") for name in named(first) if name.startswith("Eq. ")}
        formulas = [found(name) for name in in_backticks(code) if name.startswith(("maths.", "models.logprobs"))]
        if not equations or not formulas:
            continue
        # The start of the fit is in a helper of the function that the map names.
        whole = any(equation.startswith("C.") for equation in equations)
        sources = "\n".join(inspect.getsource((whole and inspect.getmodule(f)) or f) for f in formulas)
        assert {SAME.get(e, e) for e in equations} - equations_of(sources) <= {"A.2", "A.3"}, first
        checked += len(equations)
    assert checked > 25


def test_the_reader_of_equations_reads_lists_and_ranges() -> None:
    assert equations_of("(arXiv:2606.30627 Eq. 8-10, Algorithm 1)") == {"8", "9", "10"}
    assert equations_of("the ε of Eq. 2, 7, 9 and 10.") == {"2", "7", "9", "10"}
    assert equations_of("# Eq. C.1 to C.3") == {"C.1", "C.2", "C.3"}
    assert equations_of("Eq. 14–15, Def. 6.1") == {"14", "15"}
    assert named("lines 10, 23, loop over β") == {"line 10", "line 23"}
    assert named("C.1 rank, C.2 dropout") == {"C.1", "C.2"}


def test_links_between_the_pages_lead_to_a_finding() -> None:
    headings = re.findall(r"^## (E\d+)$", ERRATA.read_text(), re.MULTILINE)
    assert headings == [f"E{i}" for i in range(1, 22)]
    for page in (MAP, ERRATA):
        for label, anchor in re.findall(r"\[(\w+)\]\((?:errata\.md)?#(\w+)\)", page.read_text()):
            assert label in headings
            assert anchor == label.lower()
    linked = set(re.findall(r"errata\.md#(e\d+)", MAP.read_text()))
    assert linked == {heading.lower() for heading in headings}


def test_every_finding_has_its_parts_and_a_check_that_selects_its_own_tests_alone() -> None:
    tests = re.findall(r"^def (test_\w+)", (ROOT / "tests" / "test_errata.py").read_text(), re.MULTILINE)
    selected: list[str] = []
    for section in re.split(r"^## ", ERRATA.read_text(), flags=re.MULTILINE)[1:]:
        finding = section.split("\n")[0]
        for part in ("*Paper.*", "*Evidence.*", "*Here.*", "*Check.*"):
            assert f"\n{part} " in section, (finding, part)
        assert "\n*Wrong.* " in section or "\n*Silent.* " in section
        assert f"`pytest tests/test_errata.py -k {finding}_`" in section
        selected += [test for test in tests if f"{finding}_".lower() in test.lower()]
    assert sorted(selected) == sorted(tests)
