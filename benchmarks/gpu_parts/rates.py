"""Versions and settings, and the card's best: what later parts are held against."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from typing import Any

import torch

from gpu_parts.check import Check
from gpu_parts.device import copy_bandwidth, product_rate, seconds

DELIVERS = (
    "device",
    "versions",
    "missing packages",
    "allocator",
    "cuDNN attention",
    "copy bandwidth",
    "bfloat16 product",
    "float32 product",
    "kernel launch",
)
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "pydantic", "trl", "datasets", "gguf")


def run(check: Check) -> None:
    cuda = check.device == "cuda"
    check.record("device", torch.cuda.get_device_name() if cuda else platform.processor() or "CPU", case=driver())
    found = {name: version(name) for name in PACKAGES}
    shown = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    check.record("versions", shown, case=f"Python {platform.python_version()}, CUDA {torch.version.cuda}")
    absent = [name for name, number in found.items() if not number]
    check.record("missing packages", ", ".join(absent) or "none", limit="what needs them is not measured")
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        free, total = (n / 2**30 for n in torch.cuda.mem_get_info())
        check.record(
            "memory",
            total,
            "GiB",
            case=f"{properties.multi_processor_count} multiprocessors",
            compared=f"{free:.1f} free",
        )
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        check.record("bfloat16", "in hardware" if real else "emulated", limit="in hardware", ok=real)
    before, after = torch.backends.cuda.cudnn_sdp_enabled(), after_betastar(check)
    grows = cuda and allocator_settings()["expandable_segments"]
    check.record(
        "allocator",
        "expandable segments" if grows else "default settings",
        case=f"{torch.cuda.get_allocator_backend() if cuda else 'CPU'}, once betastar has chosen its device",
        limit="expandable segments" if cuda else "",
        ok=None if after is None or not cuda else bool(grows),
    )
    check.record(
        "cuDNN attention",
        "off" if after is False else "on" if after else "unknown",
        case="once betastar has chosen its device",
        compared=f"torch's default: {'on' if before else 'off'}",
        limit="off",
        ok=None if after is None or not cuda else not after,
    )
    check.record(
        "copy bandwidth",
        copy_bandwidth(check) / 1e9,
        "GB/s",
        case="read and written",
        compared="3 350 on paper (H100 SXM)",
    )
    for name, dtype, paper in (("bfloat16", torch.bfloat16, 989), ("float32", torch.float32, 67)):
        rate = product_rate(check, dtype)
        check.record(
            f"{name} product",
            rate / 1e12,
            "TFLOP/s",
            case="large square matrices of random numbers",
            compared=f"{paper} on paper (H100 SXM)",
        )
    x = torch.zeros(1, device=check.device)
    seconds(check.device, lambda: x.add_(1), 20)
    check.record("kernel launch", seconds(check.device, lambda: x.add_(1), 2000) * 1e6, "µs", case="add to one number")


def allocator_settings() -> dict[str, Any]:
    """What CUDA's allocator says of itself, whoever set it."""
    snapshot: Any = torch.cuda.memory._snapshot()  # its type names fewer entries than it has
    return snapshot["allocator_settings"]


def version(package: str) -> str | None:
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
    except subprocess.TimeoutExpired:
        return "nvidia-smi does not answer"
    return f"driver {answer.strip()}"


def after_betastar(check: Check) -> bool | None:
    """Whether cuDNN's attention is still on once betastar has set up the device; None where betastar cannot load."""
    try:
        from betastar.experiment.runtime import Runtime
        from betastar.progress import Reporter
        from betastar.settings.config import load_config
    except ModuleNotFoundError as error:
        check.record("not measured", f"{error.name} is not installed", case="what betastar sets on this device")
        return None
    config = load_config("micro", [f"compute.device={check.device}"])
    _ = Runtime(config, Reporter()).device
    return torch.backends.cuda.cudnn_sdp_enabled()
