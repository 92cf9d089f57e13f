"""The GPU check without a GPU: every part delivers where packages are missing, and a cut run keeps what it has."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("trl", "datasets", "altair", "vl_convert", "bitsandbytes", "hypothesis", "gguf")
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] in {absent!r} else find_spec(name, *more)
"""


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_check")


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]


def run(out: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def without(packages: tuple[str, ...], folder: Path) -> Path:
    """A folder for PYTHONPATH on which these packages cannot be imported."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK.format(absent=set(packages)))
    return folder


@pytest.mark.thorough
def test_every_part_delivers_on_an_image_without_the_packages_that_may_be_missing(
    gpu_check: ModuleType, tmp_path: Path
) -> None:
    done = run(tmp_path / "out", "--tiny", path=without(ABSENT, tmp_path / "absent"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + log
    rows = rows_of(tmp_path / "out")
    for part in gpu_check.PARTS:
        mine = {row["name"] for row in rows if row["part"] == part.name}
        delivers = importlib.import_module(f"gpu_parts.{part.name}").DELIVERS
        assert delivers
        assert set(delivers) <= mine, part.name
    (absent,) = [row["value"] for row in rows if row["name"] == "missing packages"]
    assert set(absent.split(", ")) >= {"bitsandbytes", "trl", "datasets"}
    assert any(row["name"] == "not measured" and row["value"] == "bitsandbytes is not installed" for row in rows)
    killed = [row for row in rows if row["name"] == "killed and resumed"]
    assert killed
    assert all(row["value"] == "equal bytes" for row in killed)
    table = (tmp_path / "out" / "gpu_check.md").read_text()
    assert table.count("State: done") == len(gpu_check.PARTS)
    assert (
        "killed and resumed | results.json, default settings, SIGKILL at step 3 of stage online | equal bytes" in table
    )


@pytest.mark.thorough
def test_what_needs_pydantic_is_not_measured_without_it(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--tiny", "--only", "rates,micro", path=without(("pydantic",), tmp_path / "absent"))
    assert done.returncode == 0, done.stdout
    rows = rows_of(tmp_path / "out")
    assert next(row["value"] for row in rows if row["part"] == "micro") == "pydantic is not installed"
    assert next(row["value"] for row in rows if row["part"] == "micro" and row["name"] == "state").startswith("not run")
    assert any(row["name"] == "copy bandwidth" and row["value"] > 0 for row in rows)


SLOW_PART = """
import subprocess, sys
DELIVERS = ("first", "second")
def run(check):
    check.record("first", 1.5, "m", case="a | b", compared="2", limit="at most 1", ok=False)
    if check.part == "slow":
        print("child", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
        import time; time.sleep(60)
    if check.part == "broken":
        raise ValueError("a fault")
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.thorough
def test_a_part_that_is_killed_or_fails_keeps_its_measurements_and_harms_no_other(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("slow", "broken", "short")
    folder = tmp_path / "more"
    folder.mkdir()
    for name in names:  # beside the script's own package, which it shadows nothing of
        (folder / f"{name}.py").write_text(SLOW_PART)
    (folder / "sitecustomize.py").write_text(f"import gpu_parts; gpu_parts.__path__.append({str(folder)!r})")
    options = gpu_check.Options(tmp_path / "out", tiny=True, path=[str(folder), str(ROOT / "benchmarks")])
    parts = [gpu_check.Part(name, 2 if name == "slow" else 60, "a part") for name in names]
    monkeypatch.setattr(gpu_check, "LEAST", 1)
    assert not gpu_check.check(parts, options)
    states = {row["part"]: row["value"] for row in rows_of(tmp_path / "out") if row["name"] == "state"}
    assert states["slow"].startswith("**killed at its limit**")
    assert states["broken"].startswith("**failed** (ValueError: a fault)")
    assert states["short"].startswith("**failed** (did not deliver second)")
    table = (tmp_path / "out" / "gpu_check.md").read_text()
    assert table.count("| first | a / b | 1.5 m | 2 | at most 1 | **NO** |") == 3
    assert "0 of 3 limits kept; not kept:" in table
    (child,) = [
        int(line.split()[1]) for line in (tmp_path / "out" / "log.txt").read_text().splitlines() if "child" in line
    ]
    for _ in range(50):
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)  # what the part had started is gone, too


def test_parts_for_which_no_time_is_left_are_named(tmp_path: Path) -> None:
    done = run(tmp_path, "--tiny", "--only", "rates,parity", "--minutes", "0")
    assert done.returncode == 0
    assert [row["value"] for row in rows_of(tmp_path)] == ["not run: no time left"] * 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--tiny", "--only", "rates,rubbish"), "there is no part rubbish; choose from rates, attention"),
        (("--tiny", "--wheels", "nowhere"), "nowhere: no such file or folder"),
        (("--tiny", "--gguf", "no.gguf"), r"no.gguf: no such file or folder"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_line_that_a_kill_cut_short_is_left_out(gpu_check: ModuleType, tmp_path: Path) -> None:
    gpu_check.append(tmp_path, {"part": "a", "value": 1})
    with (tmp_path / "measurements.jsonl").open("a") as file:
        file.write('{"part": "a", "val')
    assert list(gpu_check.records(tmp_path)) == [{"part": "a", "value": 1}]


def write_wheel(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def test_wheels_of_this_python_are_unpacked_and_others_left_out(gpu_check: ModuleType, tmp_path: Path) -> None:
    this = f"cp{sys.version_info.major}{sys.version_info.minor}"
    write_wheel(tmp_path / "pure-1-py3-none-any.whl", {"pure.py": ""})
    write_wheel(tmp_path / f"mine-1-{this}-{this}-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", {"mine.py": ""})
    write_wheel(tmp_path / "other-1-cp38-cp38-manylinux_2_17_x86_64.whl", {"other.py": ""})
    gpu_check.unpack(tmp_path, tmp_path / "there")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["mine.py", "pure.py"]


def test_of_bitsandbytes_one_library_is_kept(gpu_check: ModuleType, tmp_path: Path) -> None:
    wheels = importlib.import_module("gpu_wheels")
    libraries = ["cpu", "cuda118", "cuda128", "cuda130", "cuda132", "rocm70"]
    names = [f"bitsandbytes/libbitsandbytes_{library}.so" for library in libraries]
    record = "".join(f"{name},sha256=x,1\n" for name in [*names, "bitsandbytes/nn.py"])
    wheel = tmp_path / "bitsandbytes-1-py3-none-manylinux_2_24_x86_64.whl"
    write_wheel(wheel, dict.fromkeys(names, "library") | {"bitsandbytes/nn.py": "", "b-1.dist-info/RECORD": record})
    assert wheels.reduced(wheel, 130) == "bitsandbytes/libbitsandbytes_cuda130.so"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist() == [names[3], "bitsandbytes/nn.py", "b-1.dist-info/RECORD"]
        assert archive.read("b-1.dist-info/RECORD").decode().count("\n") == 2
    assert wheels.nearest_library(names, 131) == names[3]  # the newest that is not newer
    assert wheels.nearest_library(names[3:], 126) == names[3]
    with pytest.raises(ValueError, match="holds no CUDA library"):
        wheels.nearest_library(names[:1], 130)


def test_the_wheels_that_must_be_there_are_pinned(gpu_check: ModuleType) -> None:
    wheels = importlib.import_module("gpu_wheels")
    assert set(wheels.MUST) <= wheels.pins(wheels.CONSTRAINTS.read_text()).keys()
