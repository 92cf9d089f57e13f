"""The doctor finds what is there and what is missing, and says what to do."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from betastar.config import load_config
from betastar.doctor import Finding, examine


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


def by_name(preset: str | None, folder: Path, *overrides: str) -> dict[str, Finding]:
    config = load_config(preset, overrides) if preset else None
    return {finding.what: finding for finding in examine(config, folder)}


def test_versions_disk_and_a_hub_that_answers(hub: HTTPServer, tmp_path: Path) -> None:
    found = by_name(None, tmp_path / "not" / "yet" / "there")
    assert found["torch"].found == importlib.metadata.version("torch")
    assert found["disk"].found.endswith(f"free in {tmp_path}")
    assert found["hub"] == ("hub", "ok", f"http://127.0.0.1:{hub.server_port}", "")


def test_what_a_preset_needs_is_a_failure_and_else_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert by_name("micro", tmp_path)["hub"].level == "warning"
    needed = by_name("paper", tmp_path)["hub"]
    assert needed.level == "failure"
    assert "give their folders" in needed.remedy
    local = by_name("files", tmp_path, f"base.model={tmp_path}")
    assert local["hub"].level == "warning"


def test_a_gpu_that_is_asked_for_and_not_there(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = by_name("micro", tmp_path, "compute.device=cuda")["device"]
    assert found.level == "failure"
    assert "CUDA build" in found.remedy


def test_four_bits_really_quantise(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    assert by_name(None, tmp_path)["4-bit NF4"].level == "ok"
