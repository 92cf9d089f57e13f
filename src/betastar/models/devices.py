"""The device that computes: chosen, checked, set up so that its faults are known ones; and its memory running out."""

from __future__ import annotations

import os
import warnings

import torch

from betastar.errors import BetastarError

OLDEST = (
    7,
    0,
)  # compute capability: Volta, the first for which this project's kernels are compiled and tested upstream


def choose_device(wanted: str, *, deterministic: bool = False) -> torch.device:
    """The device that `compute.device` names, tried and set up; `auto` takes a GPU if there is one.

    With `deterministic`, a GPU takes only algorithms that give the same bits at every run. Raises BetastarError for a
    device that is not there or cannot be used by this build of torch.
    """
    set_up(deterministic)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # torch only warns of a driver that is too old, and goes on without the GPU
        there = torch.cuda.is_available()
    if wanted == "auto":
        wanted = "cuda" if there else "cpu"
    if wanted.startswith("cuda") and not there:
        raise BetastarError(f"compute.device: {wanted} cannot be used ({_why_no_gpu(list(said))}); {_remedy()}")
    try:
        device = torch.zeros(1, device=wanted).device
        if device.type == "cuda":
            _check_card(device)
            # Any kernel will do: a build without code for this card fails at the first.
            (torch.ones(2, device=device) + 1).sum().item()
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().split("\n")[0].rstrip(".")
        if "no kernel image" in first:
            first, remedy = f"torch {torch.__version__} has no code for this GPU", _remedy()
        else:
            remedy = "choose cpu or auto."
        raise BetastarError(f"compute.device: {wanted} cannot be used ({first}); {remedy}") from None
    return device


ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def _set_allocator(settings: str) -> None:
    """Settings of the allocator, from now on. torch reads its environment variables but once, which may have been when
    it was imported (c10/core/AllocatorConfig.cpp), so that to set them now would come too late."""
    change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)  # from torch 2.10; before, of CUDA alone
    (change or torch.cuda.memory._set_allocator_settings)(settings)


def set_up(deterministic: bool = False) -> None:
    """Settings of torch that hold for the process, whichever engine trains; call it before the GPU is first used.

    cuDNN's attention, which recent versions prefer on Hopper, is off: its backward pass can give NaN with an explicit
    mask, and it builds a plan for every new shape, which decoding meets at each token. Allocated segments may grow, so
    that shapes that keep changing leave no gaps; what the user says of the allocator goes before.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if torch.version.cuda is not None and not any(os.environ.get(name) for name in ALLOCATOR_VARIABLES):
        _set_allocator("expandable_segments:True")
    if not deterministic:
        return
    if not torch.cuda.is_initialized():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Otherwise every new tensor would be filled with NaN first, to find reads of what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def computes_bfloat16() -> bool:
    """Whether the GPU has bfloat16 in hardware; torch by default also counts cards that emulate it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _check_card(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        raise BetastarError(
            f"compute.device: {torch.cuda.get_device_name(device)} has compute capability {capability[0]}."
            f"{capability[1]}, and betastar needs {OLDEST[0]}.{OLDEST[1]} or newer; set device: cpu or use another GPU."
        )


def _why_no_gpu(said: list[warnings.WarningMessage]) -> str:
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"torch {torch.__version__} is built without CUDA"
    for warning in said:
        first = str(warning.message).strip().split("\n")[0]
        if "driver" in first.lower() or "CUDA" in first:
            return first.rstrip(".")
    return "no GPU is visible to this process"


def _remedy() -> str:
    return "install the build of torch for your driver (https://pytorch.org/get-started), or set device: cpu or auto."


FULL = "Out of memory while training with TRL."


class OutOfMemory(BetastarError):
    """There was no room for a piece of work, which may fit in smaller pieces."""


SIGNS = ("out of memory", "allocate memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA and MPS say so by a class or a text of their own, the CPU's allocator by another text, and CUDA's libraries
    by the status of the handle or workspace that they could not allocate."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in text for sign in SIGNS)
