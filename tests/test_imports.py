"""The shape of the package: imports point one way, and a command that needs no model waits for none."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "betastar"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
HEAVY = {"torch", "transformers", "peft", "pandas", "altair"}

# What each module or folder of the package imports from it, beside itself. A new one needs a line here.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "randomness": set(),
    "progress": set(),
    "printing": set(),
    "disk": {"errors"},
    "plugins": {"errors", "disk"},
    "maths": {"errors", "randomness"},
    "record": {"disk", "errors"},
    "settings": {"errors", "maths"},
    "data": {"errors", "randomness", "disk", "plugins", "record", "settings"},
    "models": {"errors", "randomness", "disk", "maths", "record", "settings"},
    "planning": {"errors", "randomness", "maths", "record", "settings", "data", "models"},
    "analysis": {"errors", "randomness", "maths", "record"},
    "live": {"errors", "progress", "printing", "disk", "maths", "settings"},
    "monitor": {"errors", "randomness", "disk", "maths", "record", "data", "analysis"},
    "report": {"errors", "progress", "printing", "disk", "maths", "record", "settings", "analysis", "live"},
    "experiment": {
        "errors",
        "randomness",
        "progress",
        "disk",
        "plugins",
        "maths",
        "record",
        "settings",
        "data",
        "models",
        "planning",
        "analysis",
        "live",
        "monitor",
        "report",
    },
    "stats": {"maths"},
    "api": {
        "errors",
        "progress",
        "disk",
        "record",
        "settings",
        "data",
        "models",
        "planning",
        "analysis",
        "live",
        "report",
        "experiment",
    },
    "cli": {"errors", "printing", "api"},
    "__main__": {"cli", "printing"},
}
# Imports for annotations alone, which no program runs.
MAY_NAME = {
    "__init__": {"api", "settings", "errors", "monitor", "stats"},
    "cli": {"settings", "models", "planning"},
}


def home(path: Path) -> str:
    """The module or folder of the package in which a file is."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """Full dotted names of everything that a file imports, wherever in it."""
    package = ["betastar", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def for_annotations(tree: ast.AST) -> list[ast.If]:
    """The `if TYPE_CHECKING:` blocks of a file."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]


def own(names: Iterator[str]) -> set[str]:
    """Of imported names, the modules and folders of the package."""
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "betastar" and len(part) > 1 and not part[1].startswith("__")}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_point_one_way(path: Path) -> None:
    here = home(path)
    assert here in MAY_IMPORT or here == "__init__", f"{here} is new: say in MAY_IMPORT what it may import"
    tree = parsed(path)
    named = set().union(*(own(imports(path, block)) for block in for_annotations(tree)))
    for block in for_annotations(tree):
        block.body = [ast.Pass()]
    assert own(imports(path, tree)) - {here} <= MAY_IMPORT.get(here, set())
    assert named - {here} <= MAY_IMPORT.get(here, set()) | MAY_NAME.get(here, set())


def test_the_order_of_the_layers_has_no_circle() -> None:
    left = {name: allowed - {name} for name, allowed in MAY_IMPORT.items()}
    while ready := {name for name, allowed in left.items() if not allowed & left.keys()}:
        left = {name: allowed for name, allowed in left.items() if name not in ready}
    assert left == {}
    assert set().union(*MAY_IMPORT.values()) <= MAY_IMPORT.keys()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_is_allowed_what_it_uses_and_no_more(room: str) -> None:
    mine = [path for path in FILES if home(path) == room]
    used = set().union(*(own(imports(path, parsed(path))) for path in mine)) - {room}
    assert MAY_IMPORT[room] <= used


def test_no_files_import_one_another_in_a_circle() -> None:
    """Not even for annotations, and not inside a function."""
    names = {"betastar." + n.removesuffix(".py").removesuffix("/__init__").replace("/", "."): n for n in NAMES}
    arrows: dict[str, set[str]] = {}
    for path, name in zip(FILES, NAMES, strict=True):
        wanted = set()
        for dotted in imports(path, parsed(path)):
            module = dotted if dotted in names else dotted.rpartition(".")[0]
            wanted |= {names[module]} if module in names else set()
        arrows[name] = wanted - {name, "__init__.py"}
    while ready := {name for name, wanted in arrows.items() if not wanted & arrows.keys()}:
        arrows = {name: wanted for name, wanted in arrows.items() if name not in ready}
    assert arrows == {}


def test_the_page_on_the_design_lists_the_rooms_in_the_order_of_their_imports() -> None:
    page = (PACKAGE.parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+)(?:/|\.py) ", page.split("```")[1], re.MULTILINE)
    assert set(listed) == MAY_IMPORT.keys() - {"__main__"}
    for i, room in enumerate(listed):
        assert MAY_IMPORT[room] <= set(listed[i + 1 :]), room


def test_no_stage_imports_another_stage() -> None:
    stages = [path for path in FILES if path.parent.name == "stages" and path.stem != "__init__"]
    assert len(stages) > 5
    for path in stages:
        others = [name for name in imports(path, parsed(path)) if name.startswith("betastar.experiment.stages")]
        assert not others, path.name


# What shows progress and tables to whoever asks for them, at the command line or in Python.
VOICES = {"__main__.py", "live/reporters.py", "report/terminal.py", "printing.py"}


@pytest.mark.parametrize(
    "path",
    [p for p, name in zip(FILES, NAMES, strict=True) if home(p) != "cli" and name not in VOICES],
    ids=[n for n in NAMES if not n.startswith("cli/") and n not in VOICES],
)
def test_only_the_command_line_prints_asks_or_exits(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        where = f"{path.name}, line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"print", "input", "exit", "quit", "breakpoint", "SystemExit"}, where
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in {"sys.exit", "sys.stdout", "sys.stderr", "os._exit", "os.abort"}, where
        if isinstance(node, ast.ImportFrom) and node.module in ("sys", "os"):
            assert not {alias.name for alias in node.names} & {"exit", "_exit", "abort", "stdout", "stderr"}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_has_a_purpose_and_fits_on_a_few_screens(path: Path) -> None:
    assert not {"utils", "util", "helpers", "misc", "common"} & {path.stem, *path.relative_to(PACKAGE).parts}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600
    assert ast.get_docstring(parsed(path)), "a module begins with what it is for"


def test_no_pickle_and_no_code_from_a_model_folder() -> None:
    for path in FILES:
        tree = parsed(path)
        assert not {name.split(".")[0] for name in imports(path, tree)} & {"pickle", "joblib", "dill"}, path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", path.name
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.load", "torch.save"), path.name


@pytest.mark.parametrize(
    "module", ["betastar", "betastar.errors", "betastar.settings.config", "betastar.experiment.store", "betastar.cli"]
)
def test_what_needs_no_model_loads_none(module: str) -> None:
    assert not loaded_by(module) & HEAVY


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("betastar.experiment.pipeline", {"scipy", "transformers", "pandas", "altair"}),
        ("betastar.report.folders, betastar.report.page, betastar.report.figures", {"scipy", "torch"}),
    ],
)
def test_a_finished_run_and_a_report_load_nothing_slow_that_they_do_not_need(module: str, slow: set[str]) -> None:
    assert not loaded_by(module) & slow


def loaded_by(modules: str) -> set[str]:
    """The packages that are loaded after `import modules`."""
    script = f"import sys, {modules}; print(*sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "betastar" in loaded
    return loaded


def test_the_tests_above_see_what_they_look_for() -> None:
    path = PACKAGE / "maths" / "x.py"
    tree = ast.parse(
        "from .constants import A\nfrom .. import store\nfrom betastar import config\nimport betastar.cli\n"
        "import torch.nn\ndef f():\n  from betastar.data.chat import decode\n"
        "if TYPE_CHECKING:\n  from betastar.models import bank\n"
    )
    assert own(imports(path, tree)) == {"maths", "store", "config", "cli", "data", "models"}
    assert [own(imports(path, block)) for block in for_annotations(tree)] == [{"models"}]
