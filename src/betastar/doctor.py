"""What this machine can do for betastar: one check each, with a remedy where something is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from betastar.config import Config
from betastar.errors import BetastarError
from betastar.sections import DatasetPreferences, DatasetSource, DatasetTask, PretrainedBase

if TYPE_CHECKING:
    from betastar.planning.plan import Plan

Level = Literal["ok", "warning", "failure"]

GIB = 2**30
NEEDED = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "safetensors", "pandas", "altair")
LARGE = 1e9  # weights
LITTLE_DISK = 5 * GIB
PUBLISHED_BYTES = 2  # of a weight on the hub, where bfloat16 is usual
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
    bases = _bases(config)
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    math = config is not None and isinstance(config.task, DatasetTask) and config.task.grader == "math"
    yield from map(_package, (*NEEDED, *(["math-verify"] if math else [])))
    plan, why = _plan(config)
    yield _device(config, large=plan is not None and plan.facts.policy.parameters > LARGE)
    if plan is not None:
        yield _memory(plan)
    elif config is not None:
        found, remedy = _split(why)
        yield Finding("memory", "warning", f"not estimated ({found})", remedy)
    yield _disk(folder)
    yield _quantisation(needed=any(base.quantization == "nf4" for base in bases))
    if any(base.gguf_file is not None for base in bases):
        yield _gguf()
    named = list(_named(config))
    yield _hub(needed=any(on_hub and finding.level == "failure" for on_hub, finding in named))
    yield from (finding for _, finding in named)
    if plan is not None:
        yield from _downloads(plan)


def _bases(config: Config | None) -> list[PretrainedBase]:
    return [] if config is None else [b for b in (config.base, config.reward_base) if isinstance(b, PretrainedBase)]


def _package(name: str) -> Finding:
    from packaging.requirements import Requirement

    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "failure", "not installed", f"pip install {name}")
    wanted = (Requirement(line) for line in importlib.metadata.requires("betastar") or ())
    least = next((r.specifier for r in wanted if r.name.lower() == name), None)
    if least is None or least.contains(version, prereleases=True):
        return Finding(name, "ok", version)
    return Finding(name, "failure", f"{version}, where {least} is needed", f"pip install --upgrade {name}")


def _device(config: Config | None, large: bool) -> Finding:
    import torch

    from betastar.planning.machine import ram

    wanted = "auto" if config is None else config.compute.device
    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
            names.append(f"{torch.cuda.get_device_name(index)}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, {bf16}")
        return Finding("device", "ok", "; ".join(names))
    free = f"{min(_free_ram(), ram()) / GIB:.0f} of {ram() / GIB:.0f} GiB of memory free"
    found = f"CPU, {os.cpu_count()} cores, {free}; no GPU that torch {torch.__version__} can use"
    if wanted.startswith("cuda"):
        return Finding(
            "device", "failure", found, "install a CUDA build of torch and the GPU's driver, or set device: cpu"
        )
    remedy = "a model of billions of weights needs a GPU" if large else ""
    return Finding("device", "warning" if large else "ok", found, remedy)


def _free_ram() -> float:
    """Bytes that programs may still take: Linux counts what it could drop from its caches as free."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
        return os.sysconf(free) * os.sysconf("SC_PAGE_SIZE")


def _plan(config: Config | None) -> tuple[Plan | None, str]:
    """The plan, or why there is none."""
    if config is None:
        return None, ""
    from betastar.planning.plan import make_plan

    try:
        return make_plan(config), ""
    except BetastarError as error:
        return None, str(error)


def _memory(plan: Plan) -> Finding:
    need, have = plan.largest.total / GIB, plan.memory
    found = f"{plan.largest.name} needs about {need:.1f} GiB; {have.name}: {have.total:.1f} GiB"
    if plan.fits:
        return Finding("memory", "ok", found)
    remedy = "`betastar plan` says what takes it; lower compute.rows_per_decode or compute.tokens_per_forward first"
    return Finding("memory", "warning", found, remedy)


def _disk(folder: Path) -> Finding:
    place = _existing(folder)
    if not os.access(place, os.W_OK):
        return Finding("disk", "failure", f"{place} cannot be written to", "run elsewhere, or give a folder with --out")
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.0f} GiB free in {place}"
    if free < LITTLE_DISK:
        return Finding("disk", "warning", found, "free some; finished work is kept when a disk fills up")
    return Finding("disk", "ok", found)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())


def _quantisation(needed: bool) -> Finding:
    """Really quantises a small layer and compares it with itself."""
    missing: Level = "failure" if needed else "warning"
    if importlib.util.find_spec("bitsandbytes") is None:
        return Finding("4-bit NF4", missing, "bitsandbytes is not installed", "pip install 'betastar[gpu]'")
    import torch

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises packages that only make it faster

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


def _gguf() -> Finding:
    if importlib.util.find_spec("gguf") is None:
        return Finding("GGUF", "failure", "the package gguf is not installed", "pip install 'betastar[gguf]'")
    return Finding("GGUF", "ok", f"gguf {importlib.metadata.version('gguf')}")


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


def _named(config: Config | None) -> Iterator[tuple[bool, Finding]]:
    """The models and datasets that a configuration names, opened without reading weights or rows; and of each whether
    it is one of the hub."""
    from betastar.models.hub import is_local, locate

    for base in _bases(config):
        found = _opened("model", base.model, lambda base=base: locate(base.model, base.revision, base.gguf_file))
        yield not is_local(base.model), found
    if config is None:
        return
    from betastar.data.sources import is_local as is_local_dataset
    from betastar.data.sources import open_rows

    for setting, source in _datasets(config):
        found = _opened("data", source.dataset, lambda s=source, name=setting: open_rows(s, name))
        yield not is_local_dataset(source), found


def _datasets(config: Config) -> Iterator[tuple[str, DatasetSource]]:
    if isinstance(config.preferences, DatasetPreferences):
        yield "preferences.source", config.preferences.source
    if isinstance(config.task, DatasetTask):
        yield "task.train", config.task.train
        yield "task.test", config.task.test


def _opened(what: str, name: str, opening: Callable[[], object]) -> Finding:
    try:
        opening()
    except BetastarError as error:
        return Finding(what, "failure", *_split(str(error)))
    return Finding(what, "ok", f"{name} is there")


def _split(sentence: str) -> tuple[str, str]:
    """What is wrong, and what to do."""
    found, _, remedy = sentence.rstrip(".").partition("; ")
    return found, remedy


def _downloads(plan: Plan) -> Iterator[Finding]:
    """Whether the hub's models that are not here yet fit the disk that they go to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from betastar.models.hub import has_weights, is_local

    missing = {
        (base.model, base.revision): model.parameters
        for base, model in ((plan.config.base, plan.facts.policy), (plan.config.reward_base, plan.facts.reward))
        if isinstance(base, PretrainedBase)
        and not (is_local(base.model) or has_weights(base.model, base.revision, base.gguf_file))
    }
    size = PUBLISHED_BYTES * sum(missing.values())
    if not size:
        return
    place = _existing(Path(HF_HUB_CACHE))
    free = shutil.disk_usage(place).free
    found = f"about {size / GIB:.3g} GiB of weights to download, {free / GIB:.0f} GiB free in {place}"
    remedy = "" if free > size else "free some, or set HF_HOME to a folder on a larger disk"
    yield Finding("download", "failure" if remedy else "ok", found, remedy)
