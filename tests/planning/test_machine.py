"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from betastar.planning import machine


def test_the_ram_is_what_the_kernel_says() -> None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        pytest.skip("no /proc/meminfo here")
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert machine.ram() <= kilobytes * 1024 * 1.001


def test_a_container_may_have_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "LIMITS", (str(tmp_path / "missing"), str(limit)))
    limit.write_text("1073741824\n")
    assert machine.ram() == 2**30
    assert machine.device_memory("cpu") == ("RAM of this machine", False, 1.0)
    limit.write_text("max\n")
    assert machine.ram() > 2**30


def test_without_a_gpu_the_ram_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("auto", "cpu", "cuda:1"):
        assert not machine.device_memory(device).gpu
