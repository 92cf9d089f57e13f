"""The doctor finds what is there and what is missing, and says what to do."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from experiment.test_files import write_files

from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.planning import doctor
from betastar.planning.doctor import Finding, examine
from betastar.planning.doctor.hub import in_background, within
from betastar.settings.config import load_config
from betastar.settings.sections import Geometry


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is quantised: seconds that only the tests of that need."""

    class Well:
        def problem(self) -> None:
            return None

    monkeypatch.setattr(doctor.NF4Check, "started", Well)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(undone: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody answers, and nothing is in the caches."""
    for switch in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(switch, True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def black_hole() -> Iterator[socket.socket]:
    """Takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener


def connections(listener: socket.socket) -> int:
    """How many have been made so far."""
    listener.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def by_name(preset: str | None, folder: Path, *overrides: str) -> dict[str, Finding]:
    config = load_config(preset, overrides) if preset else None
    return {finding.what: finding for finding in examine(config, folder)}


def test_versions_disk_and_a_hub_that_answers(undone: None, hub: HTTPServer, tmp_path: Path) -> None:
    found = by_name(None, tmp_path / "not" / "yet" / "there")
    assert found["torch"].found == importlib.metadata.version("torch")
    assert found["disk"].found.endswith(f"free in {tmp_path}")
    assert found["hub"] == ("hub", "ok", f"http://127.0.0.1:{hub.server_port}", "")


def test_what_a_preset_needs_is_a_failure_and_else_a_warning(offline: None, tmp_path: Path) -> None:
    assert by_name("micro", tmp_path)["hub"].level == "warning"
    found = list(examine(load_config("paper"), tmp_path))
    needed = next(finding for finding in found if finding.what == "hub")
    assert needed.level == "failure"
    assert "give their folders" in needed.remedy
    lacking = [finding.found.split(": ")[-2] for finding in found if finding.what in ("model", "data")]
    ours = ["Qwen/Qwen3-14B", "Qwen/Qwen3-1.7B", "HuggingFaceH4/ultrafeedback_binarized", *["openai/gsm8k"] * 2]
    assert lacking == ours
    assert all(finding.remedy for finding in found if finding.level != "ok")


def test_files_that_are_there_need_no_hub(offline: None, tmp_path: Path) -> None:
    geometry = Geometry(hidden_size=32, intermediate_size=48, heads=2, key_value_heads=1)
    build_model(geometry, 258, root_seed=0).save_pretrained(tmp_path / "model")
    build_byte_tokenizer().save_pretrained(tmp_path / "model")
    settings = [f"base.model={tmp_path}/model", *write_files(tmp_path)]
    found = list(examine(load_config("files", settings), tmp_path))
    assert [finding.what for finding in found if finding.level != "ok"] == ["hub"]
    (tmp_path / "test.jsonl").unlink()
    bad = [finding for finding in examine(load_config("files", settings), tmp_path) if finding.level == "failure"]
    start = f"correct task.test (relative paths start at {Path.cwd()})"
    assert bad == [("data", "failure", f"{tmp_path}/test.jsonl: no such file", start)]


def test_memory_and_download_are_held_against_what_there_is(
    offline: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(0, 0, 20 * doctor.GIB))
    monkeypatch.setattr("betastar.planning.machine.ram", lambda: 16 * doctor.GIB)
    found = by_name("paper", tmp_path, "compute.device=cpu")
    assert found["memory"].level == "warning"
    assert found["memory"].found.endswith("RAM of this machine: 16.0 GiB")
    # 14.77 and 1.72 billion weights of two bytes are 30.7 GiB.
    assert found["download"][1:3] == (
        "failure", f"about 30.7 GiB of weights to download, 20 GiB free in {tmp_path}"
    )  # fmt: skip
    assert by_name("micro", tmp_path)["memory"].level == "ok"
    assert "download" not in by_name("micro", tmp_path)


def test_old_and_missing_packages_are_named(offline: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "math-verify":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "trl" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = by_name("files", tmp_path, "task={preset: math500}")
    assert found["trl"].found.startswith("0.1, but >=")
    assert found["trl"].remedy == "pip install --upgrade trl"
    assert found["math-verify"] == ("math-verify", "failure", "not installed", "pip install math-verify")
    assert "math-verify" not in by_name("micro", tmp_path)


def test_a_gpu_that_is_asked_for_and_not_there(undone: None, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = by_name("micro", tmp_path, "compute.device=cuda")["device"]
    assert found.level == "failure"
    assert "CUDA build" in found.remedy


@pytest.mark.thorough
def test_four_bits_really_quantise(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    assert by_name(None, tmp_path)["4-bit NF4"].level == "ok"


def test_bitsandbytes_that_does_not_import_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    found = by_name(None, tmp_path)["4-bit NF4"]
    assert found.level == "warning"
    assert found.found.endswith("(OSError: libcudart.so.12: cannot open shared object file)")
    assert found.remedy == "reinstall bitsandbytes"


@pytest.mark.thorough
def test_a_hub_that_never_answers_is_asked_once(black_hole: socket.socket, tmp_path: Path) -> None:
    """In a process of its own, as a user starts it: the hub's libraries read HF_ENDPOINT when they are imported."""
    address = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
    # The published geometry of Qwen models needs no hub; this one's is asked for, and the plan would wait for it.
    command = [sys.executable, "-m", "betastar", "doctor", "paper", "--set", "base.model=meta-llama/Llama-3.2-1B"]
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    seconds = time.monotonic() - started
    assert done.returncode == 1
    assert done.stderr == ""
    assert f"FAILURE  hub           {address} cannot be reached (" in done.stdout
    assert "meta-llama/Llama-3.2-1B: not in the hub's cache here, and the hub cannot be reached" in done.stdout
    assert "HF_HUB_OFFLINE" not in done.stdout
    assert done.stdout.count("FAILURE") == 6  # hub, two models, three datasets
    assert connections(black_hole) == 1
    # Imports alone take about 5 s on an idle machine. Before, this took 76 s.
    assert seconds < 60


def test_lookups_share_one_time_limit(hub: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's front page answers, and nothing behind it does."""
    never = Event()
    monkeypatch.setattr(doctor, "LOOKUP_SECONDS", 0.4)
    monkeypatch.setattr("betastar.models.hub.locate", lambda *args: never.wait(60))
    monkeypatch.setattr("betastar.data.sources.open_rows", lambda *args: never.wait(60))
    import datasets  # noqa: F401 - not part of what is timed

    config = load_config("paper")
    started = time.monotonic()
    named = doctor._looked_up(config, reachable=True)
    seconds = time.monotonic() - started
    never.set()
    assert [item.late for item in named] == [True] * 5
    assert 0.4 <= seconds < 2 * 0.4
    assert named[0].finding == (
        "model",
        "failure",
        "Qwen/Qwen3-14B: the hub did not answer within 0.4 s",
        "try again later, or download it elsewhere and give its folder",
    )


def test_an_error_in_the_background_is_not_lost() -> None:
    with pytest.raises(ZeroDivisionError):
        within(in_background(lambda: 1 // 0), 10, None)
