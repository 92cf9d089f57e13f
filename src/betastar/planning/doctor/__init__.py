"""What this machine can do for betastar: one check each, with a remedy if something is missing.

Nothing here waits long: the hub is asked once, in the background; if it does not answer, models and datasets are looked
up in the local caches only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from betastar.errors import BetastarError
from betastar.planning.doctor.hub import HUB_SECONDS, caches_only, hub_address, hub_fault, in_background, within
from betastar.planning.doctor.nf4 import NF4Check
from betastar.settings.config import Config
from betastar.settings.sections import DatasetPreferences, DatasetSource, DatasetTask, PretrainedBase

if TYPE_CHECKING:
    from betastar.planning.plan import Plan

Level = Literal["ok", "warning", "failure"]

GIB = 2**30
NEEDED = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "safetensors", "pandas", "altair")
LARGE = 1e9  # weights
LITTLE_DISK = 5 * GIB
PUBLISHED_BYTES = 2  # of a weight on the hub, where bfloat16 is usual
LOOKUP_SECONDS = 15  # for all models and datasets together, once the hub has answered


class Finding(NamedTuple):
    """What was looked at, how it is, what was found, and what to do about it (empty where nothing)."""

    what: str
    level: Level
    found: str
    remedy: str = ""


def examine(config: Config | None, folder: Path) -> Iterator[Finding]:
    """All checks, one after the other. With a `config`, what it needs and lacks is a failure; without, a warning.
    `folder` is where runs are to be written."""
    hub = in_background(hub_fault)
    nf4 = NF4Check.started()
    bases = _bases(config)
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    math = config is not None and isinstance(config.task, DatasetTask) and config.task.grader == "math"
    yield from map(_package, (*NEEDED, *(["math-verify"] if math else [])))
    import torch  # noqa: F401 - takes a second or two, in which the hub may answer

    fault = within(hub, HUB_SECONDS, f"no answer within {HUB_SECONDS} s")
    with caches_only(fault is not None):
        named = _looked_up(config, reachable=fault is None)
    with caches_only(fault is not None or any(item.late for item in named)):
        plan, why = _plan(config)
        yield _device(config, large=plan is not None and plan.facts.policy.parameters > LARGE)
        if plan is not None:
            yield _memory(plan)
        elif config is not None:
            assert why is not None  # what else would be in the way of a plan
            yield Finding("memory", "warning", f"not estimated ({why.found})", _remedy(why))
        yield _disk(folder)
        yield _quantisation(nf4, needed=any(base.quantization == "nf4" for base in bases))
        if any(base.gguf_file is not None for base in bases):
            yield _gguf()
        yield _hub(fault, needed=any(item.on_hub and item.finding.level == "failure" for item in named))
        yield from (item.finding for item in named)
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
    return Finding(name, "failure", f"{version}, but {least} is needed", f"pip install --upgrade {name}")


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
    remedy = "run it on a machine with a GPU, as a model with billions of weights is too slow on a CPU" if large else ""
    return Finding("device", "warning" if large else "ok", found, remedy)


def _free_ram() -> float:
    """Bytes that programs may still take: Linux counts what it could drop from its caches as free."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
        return os.sysconf(free) * os.sysconf("SC_PAGE_SIZE")


def _plan(config: Config | None) -> tuple[Plan | None, BetastarError | None]:
    """The plan, or why there is none."""
    if config is None:
        return None, None
    from betastar.planning.plan import make_plan

    try:
        return make_plan(config), None
    except BetastarError as error:
        return None, error


def _memory(plan: Plan) -> Finding:
    need, have = plan.largest.total / GIB, plan.memory
    found = f"{plan.largest.name} needs about {need:.1f} GiB; {have.name}: {have.total:.1f} GiB"
    if plan.fits:
        return Finding("memory", "ok", found)
    remedy = "`betastar plan` shows where it goes; lower compute.rows_per_decode or compute.tokens_per_forward first"
    return Finding("memory", "warning", found, remedy)


def _disk(folder: Path) -> Finding:
    place = _existing(folder)
    if not os.access(place, os.W_OK):
        return Finding(
            "disk", "failure", f"{place} cannot be written to", "run elsewhere, or give another folder with --out"
        )
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.0f} GiB free in {place}"
    if free < LITTLE_DISK:
        return Finding("disk", "warning", found, "free some space; finished work is kept if the disk fills up")
    return Finding("disk", "ok", found)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())


def _quantisation(check: NF4Check | None, needed: bool) -> Finding:
    missing: Level = "failure" if needed else "warning"
    if check is None:
        return Finding("4-bit NF4", missing, "bitsandbytes is not installed", "pip install 'betastar[gpu]'")
    problem = check.problem()
    if problem is None:
        return Finding("4-bit NF4", "ok", f"bitsandbytes {importlib.metadata.version('bitsandbytes')}")
    return Finding("4-bit NF4", missing, f"bitsandbytes does not work here ({problem})", "reinstall bitsandbytes")


def _gguf() -> Finding:
    if importlib.util.find_spec("gguf") is None:
        return Finding("GGUF", "failure", "the package gguf is not installed", "pip install 'betastar[gguf]'")
    return Finding("GGUF", "ok", f"gguf {importlib.metadata.version('gguf')}")


def _hub(fault: object, needed: bool) -> Finding:
    if fault is None:
        return Finding("hub", "ok", hub_address())
    return Finding(
        "hub",
        "failure" if needed else "warning",
        f"{hub_address()} cannot be reached ({fault})",
        "connect to the internet, set HF_ENDPOINT to a mirror, or download models and data elsewhere and give their "
        "folders",
    )


class Named(NamedTuple):
    """A model or dataset that a configuration names, and how it is opened without reading weights or rows."""

    what: str
    name: str
    on_hub: bool
    opening: Callable[[], object]


class LookedUp(NamedTuple):
    """What became of it. `late`: no answer in time."""

    on_hub: bool
    finding: Finding
    late: bool


def _looked_up(config: Config | None, reachable: bool) -> list[LookedUp]:
    """All that a configuration names, at once and within one time limit."""
    named = list(_named(config, reachable))
    if reachable and any(item.on_hub for item in named):
        import datasets  # noqa: F401 - here, as threads that import it side by side may see half of it
        import huggingface_hub  # noqa: F401
    running = [in_background(lambda i=item: _opened(i)) if item.on_hub and reachable else None for item in named]
    end = time.monotonic() + LOOKUP_SECONDS
    found = []
    for item, result in zip(named, running, strict=True):
        finding = _opened(item) if result is None else within(result, end - time.monotonic(), None)
        found.append(LookedUp(item.on_hub, finding or _late(item), late=finding is None))
    return found


def _late(item: Named) -> Finding:
    found = f"{item.name}: the hub did not answer within {LOOKUP_SECONDS} s"
    return Finding(item.what, "failure", found, "try again later, or download it elsewhere and give its folder")


def _named(config: Config | None, reachable: bool) -> Iterator[Named]:
    if config is None:
        return
    from betastar.data.sources import is_local as is_local_dataset
    from betastar.data.sources import may_be_kept, open_rows, unreachable
    from betastar.models.hub import is_local, locate

    for base in _bases(config):
        yield Named(
            "model", base.model, not is_local(base.model), lambda b=base: locate(b.model, b.revision, b.gguf_file)
        )
    for setting, source in _datasets(config):
        on_hub = not is_local_dataset(source)

        def opened(source: DatasetSource = source, setting: str = setting, on_hub: bool = on_hub) -> object:
            if on_hub and not reachable and not may_be_kept(source.dataset):
                raise unreachable(source, setting)
            return open_rows(source, setting)

        yield Named("data", source.dataset, on_hub, opened)


def _datasets(config: Config) -> Iterator[tuple[str, DatasetSource]]:
    if isinstance(config.preferences, DatasetPreferences):
        yield "preferences.source", config.preferences.source
    if isinstance(config.task, DatasetTask):
        yield "task.train", config.task.train
        yield "task.test", config.task.test


def _opened(item: Named) -> Finding:
    try:
        item.opening()
    except BetastarError as error:
        return Finding(item.what, "failure", error.found, _remedy(error))
    return Finding(item.what, "ok", f"{item.name} is available")


def _remedy(error: BetastarError) -> str:
    """What to do. That the hub's offline mode be unset is left out where it was our choice, not the user's."""
    return error.remedy if "HF_HUB_OFFLINE" in os.environ else error.remedy.removeprefix("unset HF_HUB_OFFLINE and ")


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
    remedy = "" if free > size else "free some space, or set HF_HOME to a folder on a larger disk"
    yield Finding("download", "failure" if remedy else "ok", found, remedy)
