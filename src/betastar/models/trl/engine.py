"""Engine `trl`: TRL's trainers, one condition after another, on the tokens, order and initial adapters of the bank.

A job is a folder: `job.json` (what to train), `compute.json` (with what), `pairs.parquet` (token ids, in the order of
training) and `initial/` (a PEFT folder). `trl_worker` turns it into `adapter/` (a PEFT folder, for
`peft_io.import_adapter`) and `training.jsonl`, in this process or in those that `compute.launch` starts. `done.json` is
written last. A killed training begins again; conditions that were finished are kept.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from betastar.disk import file_digest, plain_disk_errors, sealed, unsealed, write_atomically
from betastar.errors import BetastarError, InternalError
from betastar.maths.methods import KTO
from betastar.models.bank import Adapters
from betastar.models.devices import FULL, OutOfMemory
from betastar.models.peft_io import export_adapter
from betastar.models.sequences import Pair

if TYPE_CHECKING:
    from betastar.settings.sections import Compute, Numbers, PretrainedBase

GIVEN = ("job.json", "pairs.parquet", "initial/adapter_config.json", "initial/adapter_model.safetensors")
MADE = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "training.jsonl")
SECONDS_BETWEEN_LOOKS = 0.5

Steps = list[dict[str, float]]  # rows {step, loss, norm}, norm before clipping; DPO's also {chosen,rejected}_log_ratio
OnStep = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Job:
    """The training of one adapter: `initial`, a stack of one, on `pairs[order[s]]` in each step s, order
    `[steps, batch]`. `dropout` is the adapter's, drawn from `seed`. `compute.launch` starts the processes, or None."""

    base: PretrainedBase
    pairs: Sequence[Pair]
    order: np.ndarray
    numbers: Numbers
    initial: Adapters
    dropout: float
    seed: int
    compute: Compute
    device: torch.device
    say: Callable[[str], None] = lambda text: None  # is told when a training begins again with less at once
    loss_type: str = "sigmoid"  # of DPOTrainer, or `kto`
    loss_options: Mapping[str, float] = field(default_factory=dict)  # further settings of the loss, by TRL's names


def train_policy(job: Job, beta: float, folder: Path, on_step: OnStep = lambda row: None) -> Steps:
    """The job's `loss_type` with `beta` by TRL's DPOTrainer or KTOTrainer, the base as reference; `sigmoid` is DPO
    (arXiv:2606.30627 Eq. 1). KTO's z₀ is that of each micro-batch, which needs two pairs. Leaves the adapter in
    `folder/adapter`, and returns a row per step; `on_step` gets each as it comes.

    A folder with the finished result of the same job is reused; one left half done is begun again, and where memory
    runs out the training begins again with smaller micro-batches. Raises BetastarError where TRL or the launcher is
    missing, the batch cannot be dealt to the processes, too few pairs fit, or the training diverges.
    """
    return _train(job, beta, None, folder, on_step)


def train_reward(job: Job, head: Tensor, folder: Path, on_step: OnStep = lambda row: None) -> Steps:
    """A reward model by TRL's RewardTrainer, its scalar head starting from `head [d]` (arXiv:2606.30627 Eq. 5). The
    rest is as for `train_policy`; the PEFT folder holds the trained head too."""
    return _train(job, None, head, folder, on_step)


def _train(job: Job, beta: float | None, head: Tensor | None, folder: Path, on_step: OnStep) -> Steps:
    if job.device.index:
        raise BetastarError(
            f"compute.device: engine trl takes the first GPU it sees, not {job.device}; set "
            f"CUDA_VISIBLE_DEVICES={job.device.index} and device: cuda."
        )
    with plain_disk_errors(folder):
        write_job(job, beta, head, folder)
        given = {name: file_digest(folder / name) for name in GIVEN}
        if not _is_done(folder, given):
            while not _fits(job, folder, on_step):
                _halve(job, folder)
            _check(_steps(folder), len(job.order), folder)
            made = {name: file_digest(folder / name) for name in MADE}
            write_atomically(folder / "done.json", sealed({"given": given, "made": made}))
    return _steps(folder)


def _fits(job: Job, folder: Path, on_step: OnStep) -> bool:
    """Train from the beginning, unless memory runs out."""
    for name in ("done.json", "error.txt", "log.txt", "training.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("adapter", "trainer"):
        shutil.rmtree(folder / name, ignore_errors=True)
    try:
        if job.compute.launch is None:
            _worker().run(folder, on_step)
        else:
            _launch(job.compute.launch, folder, on_step)
        return True
    except OutOfMemory:
        pass
    gc.collect()  # the failed attempt's model goes before the next one comes
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _halve(job: Job, folder: Path) -> None:
    """Let a forward pass hold half as many tokens: smaller micro-batches, the same batch."""
    how, what = (json.loads((folder / f"{name}.json").read_text()) for name in ("compute", "job"))
    pair = 2 * what["longest"]
    if how["tokens_per_forward"] < 2 * pair:
        raise BetastarError(
            f"Out of memory in TRL with one pair of up to 2 × {what['longest']} tokens at a time; lower lengths.prompt "
            "and lengths.response, set compute.gradient_checkpointing, or load the base with quantization nf4."
        )
    how["tokens_per_forward"] = min(how["tokens_per_forward"], what["batch_size"] * pair) // 2
    _write(folder, "compute", how)
    job.say(f"out of memory: again with {how['tokens_per_forward']} tokens at once (compute.tokens_per_forward)")


def write_job(job: Job, beta: float | None, head: Tensor | None, folder: Path) -> None:
    """Write what the worker needs into `folder`: DPO's `beta`, or a reward model's `head`, and the job."""
    import pyarrow
    import pyarrow.parquet

    export_adapter(folder / "initial", job.initial, 0, job.base.model, score_head=head)
    longest = np.array([len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in job.pairs])
    # Within a step the order is free: by length, micro-batches hold little padding.
    by_length = np.argsort(-longest[job.order], axis=1, kind="stable")
    order = np.take_along_axis(job.order, by_length, axis=1)
    columns = {
        "chosen_ids": [p.chosen if head is None else [*p.prompt, *p.chosen] for p in job.pairs],
        "rejected_ids": [p.rejected if head is None else [*p.prompt, *p.rejected] for p in job.pairs],
    }
    if head is None:
        columns["prompt_ids"] = [p.prompt for p in job.pairs]
    tokens = pyarrow.list_(pyarrow.int32())
    table = pyarrow.table({name: pyarrow.array(rows, tokens) for name, rows in columns.items()})
    rows = table.take(order.ravel())
    if head is None and job.loss_type == KTO:  # z₀ is of the responses to the pair before, as in the bank
        before = table.take(np.take_along_axis(np.roll(job.order, 1, axis=1), by_length, axis=1).ravel())
        for side in ("chosen_ids", "rejected_ids"):
            rows = rows.append_column(f"other_{side}", before[side])
    pyarrow.parquet.write_table(rows, folder / "pairs.parquet")
    what = {
        "base": job.base.model_dump(),
        "beta": beta,
        **({"loss_type": job.loss_type, **job.loss_options} if job.loss_type != "sigmoid" else {}),
        "dropout": job.dropout,
        "seed": job.seed % 2**32,
        **job.numbers._asdict(),
        "steps": order.shape[0],
        "batch_size": order.shape[1],
        "longest": int(longest[order].max()),
    }
    how = {"cpu": job.device.type == "cpu", **job.compute.model_dump()}
    _write(folder, "job", what)
    _write(folder, "compute", how)


def _write(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    write_atomically(folder / f"{name}.json", json.dumps(settings, indent=1).encode() + b"\n")


def _is_done(folder: Path, given: Mapping[str, str]) -> bool:
    """Whether the folder holds the undamaged result of a job with these files."""
    try:
        record = unsealed(folder / "done.json")
        return record["given"] == given and all(file_digest(folder / n) == d for n, d in record["made"].items())
    except (OSError, ValueError):
        return False


def _steps(folder: Path) -> Steps:
    """The rows so far; the last line may still be in the writing."""
    try:
        lines = (folder / "training.jsonl").read_text().split("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[:-1]]


def _check(rows: Steps, steps: int, folder: Path) -> None:
    if len(rows) != steps:
        raise InternalError(f"{folder}: TRL ended after {len(rows)} of {steps} steps; please report this bug.")


def _worker() -> Any:
    try:
        from betastar.models.trl import worker as trl_worker
    except ImportError as error:
        raise BetastarError(f"Engine trl cannot be used ({error}); install it with: pip install trl.") from None
    return trl_worker


def _launch(launch: str, folder: Path, on_step: OnStep) -> None:
    """Run the worker under a launcher until it ends; its output goes to `log.txt`."""
    # What is installed beside this Python is found also where its folder is not on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program, *options = shlex.split(launch) or [""]
    found = shutil.which(program, path=path)
    if found is None:
        raise BetastarError(f"compute.launch: there is no program {program!r}; install it or correct the command.")
    command = [found, *options, "-m", "betastar.models.trl.worker", str(folder)]
    log = folder / "log.txt"
    with log.open("wb") as file:
        # A session of its own, so that all that the launcher starts can be ended together.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | {"PATH": path},
            start_new_session=True,
        )  # fmt: skip
        try:
            _follow(process, folder, on_step)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if process.returncode != 0:
        lines = [line.strip() for line in log.read_text(errors="replace").split("\n") if line.strip()]
        said = folder / "error.txt"
        reason = said.read_text() if said.exists() else lines[-1] if lines else f"status {process.returncode}"
        if reason == FULL:
            raise OutOfMemory(FULL)
        raise BetastarError(f"Training with TRL failed ({reason.rstrip('.')}); the output of {program} is in {log}.")


def _follow(process: subprocess.Popen, folder: Path, on_step: OnStep) -> None:
    """Wait for the process, handing on the rows it logs."""
    told, running = 0, True
    while running:
        try:
            process.wait(SECONDS_BETWEEN_LOOKS)
            running = False
        except subprocess.TimeoutExpired:
            pass
        for row in _steps(folder)[told:]:
            on_step(row)
            told += 1
