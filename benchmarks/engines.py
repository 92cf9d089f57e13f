"""Both engines on the same work: wall time and peak memory of 3 β of DPO and of 3 reward models, and the ratio.

    python benchmarks/engines.py [--quantization nf4] [--hidden 256] …

A Qwen3-architecture base with random weights and pairs of random tokens. Both engines train from the same adapters on
the same pairs in the same order; the largest difference between their losses is printed. Every measurement runs in a
process of its own, the engines in turn. Timed is what comes after the base is loaded and the trainer is set up: for the
bank the reference log-probabilities of all pairs and the steps of all conditions at once, for TRL `trainer.train()` of
one condition after the other, where the reference log-probabilities are computed in each step, TRL's default. Imports,
loading and tokenisation are not timed. Memory is the process's peak, and how much of it came after that point.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does; read when torch is first imported

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from betastar.experiment.memory import Room
from betastar.experiment.training import Losses, PairTrainer, Part
from betastar.maths.objectives import bradley_terry_loss, dpo_loss, implicit_reward_margin
from betastar.models.bank import AdapterBank
from betastar.models.loading import load_base
from betastar.models.logprobs import grid_pair_logprobs, pair_logprobs
from betastar.models.random_models import build_model
from betastar.models.rewards import RewardEnsemble, pair_scores
from betastar.models.sequences import Pair, pair_pad
from betastar.progress import Reporter
from betastar.randomness import numpy_generator, torch_generator
from betastar.settings.sections import Compute, Geometry, PretrainedBase, Training

CPU = torch.device("cpu")
BETAS = (0.1, 0.5, 2.0)
GOALS = {"dpo": 2.5, "rewards": 2.0}
FIRST_TOKEN = 2  # the padding and the end token are before


class Work:
    """What both engines are given: the same for the same options."""

    def __init__(self, options: argparse.Namespace, objective: str):
        self.options, self.dpo = options, objective == "dpo"
        rng, n = numpy_generator(0, "pairs"), options.steps * options.batch

        def tokens(mean: int) -> list[int]:
            length = rng.integers(mean // 2, mean + mean // 2 + 1)
            return rng.integers(FIRST_TOKEN, options.vocabulary, length).tolist()

        lengths = (options.prompt, options.response, options.response)
        self.pairs = [Pair(*(tokens(mean) for mean in lengths)) for _ in range(n)]
        # All β see one order and start from one adapter; every member has its own.
        self.own = [0, 0, 0] if self.dpo else [0, 1, 2]
        self.order = [numpy_generator(0, "order", c).permutation(n).reshape(options.steps, -1) for c in self.own]
        self.settings = Training(batch_size=options.batch, weight_decay=0.01, warmup_steps=2)
        heads = [torch.randn(options.hidden, generator=torch_generator(0, "head", c)) for c in range(3)]
        self.heads = torch.stack(heads) / options.hidden**0.5
        self.choice = PretrainedBase(
            source="pretrained", model=str(options.folder / "base"), dtype="float32", quantization=options.quantization
        )
        self.compute = Compute(tokens_per_forward=options.tokens)

    def bank(self) -> AdapterBank:
        return AdapterBank(load_base(self.choice, CPU).model, "attention", rank=8, alpha=16)


def prepare(options: argparse.Namespace) -> None:
    """Write the base, and the jobs for TRL."""
    from betastar.models.trl.engine import Job, write_job

    geometry = Geometry(
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        layers=options.layers,
        heads=options.hidden // 32,
        key_value_heads=options.hidden // 64,
        context=4 * (options.prompt + options.response),
        initializer_range=0.05,
    )
    build_model(geometry, options.vocabulary, root_seed=0).save_pretrained(options.folder / "base")
    words = {f"w{index}": index for index in range(options.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1").save_pretrained(
        options.folder / "base"
    )
    for objective in options.objectives:
        work = Work(options, objective)
        initial, numbers = work.bank().create(work.own), work.settings.numbers(options.steps)
        for c, order in enumerate(work.order):
            one = initial[c : c + 1]
            job = Job(work.choice, work.pairs, order, numbers, one, 0.0, 0, work.compute, CPU)
            beta, head = (BETAS[c], None) if work.dpo else (None, work.heads[c])
            write_job(job, beta, head, options.folder / f"{objective}-{c}")


def time_bank(work: Work) -> dict[str, Any]:
    """All three conditions in one bank, by the loop of the stages."""
    bank, meter = work.bank(), Meter()
    with meter:
        adapters = bank.create(work.own).trainable()
        ensemble = RewardEnsemble(adapters, work.heads.clone().requires_grad_(True))
        weights = adapters.parameters() if work.dpo else ensemble.parameters()
        losses = dpo_losses(work, bank, adapters) if work.dpo else reward_losses(bank, ensemble)
        room = Room(work.options.tokens, 1, Reporter())
        trainer = PairTrainer("engines", ["a", "b", "c"], work.settings, weights, work.pairs, work.order, losses, room)
        curve = [trainer.step(step).loss for step in range(trainer.steps)]
    return meter.result(list(zip(*curve, strict=True)))


def reward_losses(bank: AdapterBank, ensemble: RewardEnsemble) -> Callable[[Part], Losses]:
    def losses(part: Part) -> Losses:
        batch = pair_pad(part.items, 0, CPU)
        scores = pair_scores(bank, ensemble[part.conditions], batch, part.dropout)
        return Losses(bradley_terry_loss(*scores.unbind(-1)))

    return losses


def dpo_losses(work: Work, bank: AdapterBank, adapters: Any) -> Callable[[Part], Losses]:
    base_logprobs = grid_pair_logprobs(bank, None, [work.pairs], 0, work.options.tokens)[:, 0]
    betas = torch.tensor(BETAS)[:, None]

    def losses(part: Part) -> Losses:
        with bank.use(adapters[part.conditions], part.dropout):
            logprobs = pair_logprobs(bank.model, pair_pad(part.items, 0, CPU))
        chosen, rejected = logprobs.view(*part.which.shape, 2).unbind(-1)
        base_chosen, base_rejected = base_logprobs[:, part.which]
        margin = implicit_reward_margin(chosen, rejected, base_chosen, base_rejected, betas[part.conditions])
        return Losses(dpo_loss(margin))

    return losses


def time_trl(work: Work) -> dict[str, Any]:
    """TRL's trainer for one condition after the other."""
    from betastar.models.trl.worker import StepLog, make_trainer

    meter, curves = None, []
    for c in range(3):
        folder, curve = work.options.folder / f"{'dpo' if work.dpo else 'rewards'}-{c}", []
        trainer = make_trainer(folder, load_base(work.choice, CPU))
        trainer.add_callback(StepLog(folder / "training.jsonl", lambda row, curve=curve: curve.append(row["loss"])))
        meter = meter or Meter()
        with meter:
            trainer.train()
        curves.append(curve)
        del trainer
        gc.collect()
    assert meter is not None
    return meter.result(curves)


def resident() -> float:
    """Megabytes of memory this process holds now (Linux), else the most it has held."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak()
    line = next(line for line in status.read_text().split("\n") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def peak() -> float:
    """Most megabytes this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 1024


class Meter:
    """Wall and processor seconds while running, and the memory it began with."""

    def __init__(self) -> None:
        self.wall, self.cpu, self.before = 0.0, 0.0, resident()

    def __enter__(self) -> None:
        self.wall, self.cpu = self.wall - time.perf_counter(), self.cpu - time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = self.wall + time.perf_counter(), self.cpu + time.process_time()

    def result(self, curves: Sequence[Sequence[float]]) -> dict[str, Any]:
        return {"wall": self.wall, "cpu": self.cpu, "peak": peak(), "training": peak() - self.before, "losses": curves}


def run(engine: str, objective: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, *sys.argv, "--measure", engine, objective]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def report(options: argparse.Namespace, objective: str) -> None:
    results: dict[str, list[dict[str, Any]]] = {"trl": [], "bank": []}
    for _ in range(options.repeats):
        for engine, measurements in results.items():
            measurements.append(run(engine, objective))
    name = "3 β of DPO" if objective == "dpo" else "3 reward models"
    print(f"\n{name:18}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}{'of it training':>17}")
    for engine, measurements in results.items():
        wall, cpu, most, training = (
            statistics.median(m[what] for m in measurements) for what in ("wall", "cpu", "peak", "training")
        )
        print(f"{engine:18}{wall:10.1f}{cpu:10.1f}{most:10.0f}{training:17.0f}")
    for what in ("wall", "cpu"):
        ratios = sorted(t[what] / b[what] for t, b in zip(results["trl"], results["bank"], strict=True))
        goal = f"; goal ≥ {GOALS[objective]}" if what == "wall" else ""
        print(f"trl / bank, {what}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}){goal}")
    difference = np.abs(np.array(results["trl"][0]["losses"]) - np.array(results["bank"][0]["losses"])).max()
    print(f"largest difference between the losses of a step: {difference:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Wall time and memory of both engines on the same work.")
    parser.add_argument("--hidden", type=int, default=256, help="width, a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--prompt", type=int, default=100, help="mean tokens of a prompt; half to one and a half of it")
    parser.add_argument("--response", type=int, default=80, help="mean tokens of a response, likewise")
    parser.add_argument("--batch", type=int, default=16, help="pairs per step and condition")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=2048, help="most tokens in one forward pass, of either engine")
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--objectives", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        warnings.simplefilter("ignore")
        engine, objective = options.measure
        print(json.dumps((time_bank if engine == "bank" else time_trl)(Work(options, objective))))
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.argv += ["--folder", folder]
        options.folder = Path(folder)
        prepare(options)
        shape = f"hidden {options.hidden}, {options.layers} layers, vocabulary {options.vocabulary}"
        print(f"{shape}, quantization {options.quantization}; {options.steps} steps of {options.batch} pairs", end=", ")
        print(f"prompts ~{options.prompt}, responses ~{options.response} tokens; {options.threads} threads, ", end="")
        print(f"medians of {options.repeats}")
        for objective in options.objectives:
            report(options, objective)


if __name__ == "__main__":
    main()
