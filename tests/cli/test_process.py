"""The process around the commands: Ctrl-C while it still loads, outputs that cannot take what is printed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from report.records import run_folder

from betastar import printing
from betastar.__main__ import _is_importing

COMMAND = [sys.executable, "-m", "betastar"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "run", {"plain": "text"})


# A module that takes its time, and swallows what is raised in it, as some libraries do.
SLOW = """
import time
open("loading", "w").close()
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        time.sleep(0.01)
    except:
        pass
import sys
sys.path.remove(FOLDER)
del sys.modules["typer"]
import typer
"""


@pytest.mark.parametrize("command", [["presets"], ["run", "micro"], ["plan", "micro"]])
@pytest.mark.thorough
def test_an_interrupt_within_an_import_ends_the_program_when_that_is_over(tmp_path: Path, command: list[str]) -> None:
    """In place of a library of the command line's, one that is slow to load."""
    (tmp_path / "typer.py").write_text(SLOW.replace("FOLDER", repr(str(tmp_path))))
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}{os.pathsep}{Path(printing.__file__).parents[1]}"
    started = subprocess.Popen(
        [*COMMAND, *command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "loading").exists():
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert "Traceback" not in said
    assert len(said.split()) < 15  # "betastar: stopped", or what the command itself says of it
    assert started.returncode in (130, -signal.SIGINT)  # both are 130 to a shell


def test_what_an_import_is() -> None:
    assert not _is_importing(sys._getframe())
    assert not _is_importing(None)


def printed(folder: Path, *arguments: str, **given: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(printing.__file__).parents[1]), **given}
    return subprocess.run([*COMMAND, *arguments], cwd=folder, env=env, capture_output=True, timeout=120)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.thorough
def test_an_encoding_without_greek_is_said_first_and_ends_nothing(run: Path, encoding: str) -> None:
    done = printed(run.parent, "export", str(run), PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.startswith(b"| variant | ? | n |")
    assert done.stderr.startswith(b"betastar: the encoding of the output is ")
    assert b"set PYTHONUTF8=1 for UTF-8" in done.stderr.splitlines()[0]
    done = printed(run.parent, "export", str(run), PYTHONIOENCODING="utf-8")
    assert done.stdout.startswith("| variant | β | n |".encode())
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("output", "said", "code"),
    [
        (">&-", "betastar: standard output is closed, so nothing will be printed; the results are in files\n", 0),
        (">/dev/full", "betastar: standard output cannot be written (no space left on device)\n", 1),
    ],
)
@pytest.mark.parametrize("command", ["presets", "export run", "watch run"])
def test_an_output_that_takes_nothing_is_one_sentence(
    run: Path, command: str, output: str, said: str, code: int
) -> None:
    line = f"{sys.executable} -m betastar {command} {output}"
    env = {**os.environ, "PYTHONPATH": str(Path(printing.__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(["sh", "-c", line], cwd=run.parent, env=env, capture_output=True, text=True, timeout=120)
    assert (done.stderr, done.returncode) == (said, code)


def test_a_closed_output_is_replaced_so_that_no_file_takes_its_place(run: Path) -> None:
    """Without that, the first file that is opened has number 1, and what a library prints goes into it."""
    lines = (
        "import os; from betastar.printing import prepare_output; prepare_output(); "
        "number = os.open('file', os.O_CREAT | os.O_WRONLY); os.write(2, str(number > 2).encode()); print('lost')"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(printing.__file__).parents[1])}
    shell = ["sh", "-c", f'{sys.executable} -c "{lines}" <&- >&-']
    done = subprocess.run(shell, cwd=run, env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("True")
    assert (run / "file").read_bytes() == b""


@pytest.mark.parametrize("name", ["adapters", "figures", "store"])
@pytest.mark.thorough
def test_a_file_in_the_place_of_a_folder_is_refused_before_training(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    done = printed(tmp_path, "run", "micro", "--out", "run")
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.decode().splitlines() if not line.startswith("betastar micro →")]
    assert name in said
    assert (tmp_path / "run" / name).read_text() == "mine"
    assert not (tmp_path / "run" / "status.json").exists()
