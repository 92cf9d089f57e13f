"""Choosing and setting up a device; what a GPU would say is stood in for."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

from betastar.errors import BetastarError
from betastar.models import devices
from betastar.models.devices import choose_device
from betastar.models.loading import weights_dtype


class Card:
    """A torch.cuda with one GPU, on which tensors are really made on the CPU."""

    def __init__(self, patch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0), error: str | None = None):
        zeros, ones = torch.zeros, torch.ones
        self.error = error

        def made(maker: Any) -> Any:
            def make(*size: int, device: Any = None) -> Any:
                if self.error and maker is ones:
                    raise RuntimeError(self.error)
                return type("OnCard", (), {"device": torch.device("cuda", 0)})() if maker is zeros else maker(*size)

            return make

        patch.setattr(torch, "zeros", made(zeros))
        patch.setattr(torch, "ones", made(ones))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
    Card(monkeypatch)
    assert choose_device("auto").type == "cuda"


def test_a_card_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, capability=(6, 1))
    with pytest.raises(BetastarError, match=r"Some GPU has compute capability 6\.1, and betastar needs 7\.0 or newer"):
        choose_device("auto")


def test_a_build_without_code_for_the_card_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, error="CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors…")
    with pytest.raises(BetastarError, match=r"cuda cannot be used \(torch .* has no code for this GPU\); install the"):
        choose_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.version.cuda is None:
        with pytest.raises(BetastarError, match=r"device: cuda cannot be used \(torch .* is built without CUDA"):
            choose_device("cuda")

    def too_old() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).", stacklevel=2
        )
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(BetastarError, match="no GPU is visible to this process"):
        choose_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    with pytest.raises(BetastarError, match=r"driver on your system is too old .*install the build of torch for your"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize("wanted", ["no-such-device", "cuda:a"])
def test_a_name_that_torch_does_not_know(wanted: str) -> None:
    with pytest.raises(BetastarError, match=rf"^compute\.device: {wanted} cannot be used \("):
        choose_device(wanted)


@pytest.mark.thorough
def test_cudnns_attention_is_off_in_both_engines() -> None:
    """On Hopper it can give NaN gradients with an explicit mask, and plans anew for every shape. A process of its own
    for each engine: the setting is global."""
    for call in (
        "from betastar.models.devices import choose_device; choose_device('cpu')",
        "from betastar.models.trl import worker as w; w.read_job = lambda folder: (None, {'deterministic': False, "
        "'cpu': True}); w.make_trainer = None\ntry: w.run(None, None)\nexcept Exception: pass",
    ):
        code = f"import torch\nassert torch.backends.cuda.cudnn_sdp_enabled()\n{call}\n"
        check = "assert not torch.backends.cuda.cudnn_sdp_enabled()\nassert torch.backends.cuda.flash_sdp_enabled()"
        subprocess.run([sys.executable, "-c", code + check], check=True)


PROCESS = """
import os, torch
from betastar.models import devices
asked = []
if torch.version.cuda is None:  # a build for the CPU alone: what would be asked of the allocator
    torch.version.cuda, devices._set_allocator = "13.0", asked.append
devices.set_up()
assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
assert not torch.are_deterministic_algorithms_enabled()
if torch.cuda.is_available():
    torch.zeros(1, device="cuda")
    grows = torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"]
else:
    grows = asked == ["expandable_segments:True"]
assert grows == (os.environ.get("PYTORCH_CUDA_ALLOC_CONF") is None)
"""
DETERMINISTIC = """
import os, torch
from betastar.models import devices
devices.set_up(deterministic=True)
assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
assert torch.are_deterministic_algorithms_enabled()
assert not torch.utils.deterministic.fill_uninitialized_memory
"""


@pytest.mark.parametrize(
    ("code", "more"),
    [(PROCESS, {}), (PROCESS, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}), (DETERMINISTIC, {})],
    ids=["allocator", "the user's own stays", "deterministic"],
)
@pytest.mark.thorough
def test_settings_of_the_process(code: str, more: dict[str, str]) -> None:
    """In a process of its own, in which nobody has used a GPU: the settings are global, and CUDA reads one of them
    only once."""
    names = (*devices.ALLOCATOR_VARIABLES, "CUBLAS_WORKSPACE_CONFIG")
    environment = {name: value for name, value in os.environ.items() if name not in names} | more
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.skipif(not hasattr(torch._C, "_accelerator_setAllocatorSettings"), reason="an older torch")
@pytest.mark.skipif(
    not hasattr(torch._C, "_accelerator_getAllocatorSettings"), reason="this torch does not tell its settings"
)
def test_the_allocator_hears_of_it() -> None:
    code = "import torch; from betastar.models.devices import _set_allocator as s; s('expandable_segments:True'); "
    said = subprocess.check_output([sys.executable, "-c", code + "print(torch._C._accelerator_getAllocatorSettings())"])
    assert said.decode().strip() == "expandable_segments:True"


def test_emulated_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Turing card: torch says it supports bfloat16, by emulation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    gpu = torch.device("cuda")
    assert not devices.computes_bfloat16()
    assert weights_dtype("auto", gpu) == torch.float32
    assert weights_dtype("bfloat16", gpu) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert weights_dtype("auto", gpu) == torch.bfloat16
