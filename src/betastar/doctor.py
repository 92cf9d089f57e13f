"""What this machine can do for betastar: one check each, with a remedy where something is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from betastar.config import Config
from betastar.sections import PretrainedBase

Level = Literal["ok", "warning", "failure"]

GIB = 2**30
NEEDED = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "safetensors", "pandas", "altair")
LITTLE_DISK = 5 * GIB
SECONDS = 5  # to wait for the hub


class Finding(NamedTuple):
    """What was looked at, how it is, what was found, and what to do about it (empty where nothing)."""

    what: str
    level: Level
    found: str
    remedy: str = ""


def examine(config: Config | None, folder: Path) -> Iterator[Finding]:
    """All checks, one after the other. With a `config`, what it needs and lacks is a failure; without, a warning.
    `folder` is where runs are to be written."""
    bases = [] if config is None else [b for b in (config.base, config.reward_base) if isinstance(b, PretrainedBase)]
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    yield from _packages()
    yield _device(config)
    yield _disk(folder)
    yield _quantisation(needed=any(base.quantization == "nf4" for base in bases))
    yield _hub(needed=any(not Path(base.model).expanduser().exists() for base in bases))


def _packages() -> Iterator[Finding]:
    for name in NEEDED:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "failure", "not installed", f"pip install {name}")


def _device(config: Config | None) -> Finding:
    import torch

    wanted = "auto" if config is None else config.compute.device
    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
            names.append(f"{torch.cuda.get_device_name(index)}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, {bf16}")
        return Finding("device", "ok", "; ".join(names))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    found = f"CPU, {os.cpu_count()} cores, {memory:.0f} GiB of memory; no GPU that torch {torch.__version__} can use"
    if wanted.startswith("cuda"):
        return Finding(
            "device", "failure", found, "install a CUDA build of torch and the GPU's driver, or set device: cpu"
        )
    large = config is not None and isinstance(config.base, PretrainedBase)
    remedy = "a model of billions of weights needs a GPU; `betastar plan` says how much memory" if large else ""
    return Finding("device", "warning" if large else "ok", found, remedy)


def _disk(folder: Path) -> Finding:
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not os.access(place, os.W_OK):
        return Finding("disk", "failure", f"{place} cannot be written to", "run elsewhere, or give a folder with --out")
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.0f} GiB free in {place}"
    if free < LITTLE_DISK:
        return Finding("disk", "warning", found, "free some; finished work is kept when a disk fills up")
    return Finding("disk", "ok", found)


def _quantisation(needed: bool) -> Finding:
    """Really quantises a small layer and compares it with itself."""
    missing: Level = "failure" if needed else "warning"
    if importlib.util.find_spec("bitsandbytes") is None:
        return Finding("4-bit NF4", missing, "bitsandbytes is not installed", "pip install 'betastar[gpu]'")
    import torch

    def error_of_a_layer() -> float:
        from bitsandbytes import functional

        device = "cuda" if torch.cuda.is_available() else "cpu"
        weight = torch.linspace(-1, 1, 64 * 64, device=device).view(64, 64)
        packed, state = functional.quantize_4bit(weight, quant_type="nf4")
        return float((functional.dequantize_4bit(packed, state) - weight).abs().max())

    error = _attempt(error_of_a_layer)
    if isinstance(error, float) and error < 0.2:  # the widest step of NF4 is 0.30 of a block's largest weight
        return Finding("4-bit NF4", "ok", f"bitsandbytes {importlib.metadata.version('bitsandbytes')}")
    return Finding("4-bit NF4", missing, f"bitsandbytes does not work here ({error})", "reinstall bitsandbytes")


def _attempt(work: Callable[[], float]) -> float | str:
    try:
        return work()
    except Exception as error:  # whatever a broken installation raises is the finding
        return str(error).split("\n")[0] or type(error).__name__


def _hub(needed: bool) -> Finding:
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            "hub",
            "failure" if needed else "warning",
            f"{address} cannot be reached ({reason})",
            "connect, set HF_ENDPOINT to a mirror, or download models and data elsewhere and give their folders",
        )
    return Finding("hub", "ok", address)
