"""A whole sweep against the same work composed of TRL's trainers: wall time, CPU time and peak memory, by stage and in
all, and whether both end at the same proxy and truth.

    python benchmarks/sweep.py [--quick] [--betas 3 7] [--seeds 3] …

The world is micro's: its base, problems and pairs are made once, and both sides start from them. Each side trains the
same number of reward models per seed, one DPO policy per (β, seed), and adapts each online with RLOO, two answers to a
prompt, KL in the reward; every policy is evaluated on the same problems at the same steps, two answers each, by graded
truth, ensemble score, and KL from checkpoint and base. betastar does it in one command. The composition is what one
would write with TRL: `RewardTrainer` for each member, `DPOTrainer` for each β and seed, `RLOOTrainer` for each
condition with the ensemble as its reward function, `transformers.generate` for evaluations, in one process that
imports and loads once. betastar also writes its record, checkpoints and report, and measures best-of-n and held-out
pairs; that is in its time.

Each side runs in a process of its own, in turn, with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from processes import betastar, child

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does; read when torch is first imported

MEMBERS, RANK, ALPHA, KAPPA, ANSWERS = 3, 8, 16, 0.01, 2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
GOALS = {9: 5.0, 21: 8.0}  # times as fast, by the number of conditions
Stage = Literal["rewards", "offline", "online"]
STAGES: tuple[Stage, ...] = ("rewards", "offline", "online")
RATES: dict[Stage, float] = {"rewards": 0.002, "offline": 0.001, "online": 0.002}


class Job(NamedTuple):
    """The work. `prompts` of a step, each answered `ANSWERS` times; `every` so many steps `problems` are evaluated."""

    betas: list[float]
    seeds: list[int]
    steps: int
    prompts: int
    every: int
    problems: int
    epochs: float
    reward_epochs: float
    limit: int
    threads: int
    base_steps: int
    pairs: int

    @property
    def conditions(self) -> int:
        return len(self.betas) * len(self.seeds)

    def settings(self) -> list[str]:
        """What `betastar run micro` is told."""
        return [
            f"seeds={self.seeds}",
            f"grid={{method: list, values: {self.betas}}}",
            f"base.training.steps={self.base_steps}",
            f"preferences.prompts={self.pairs}",
            f"rewards={{members: {MEMBERS}, epochs: {self.reward_epochs}, batch_size: 32, warmup_steps: 0}}",
            f"rewards.learning_rate={RATES['rewards']}",
            f"offline={{epochs: {self.epochs}, batch_size: 32, warmup_steps: 0, learning_rate: {RATES['offline']}}}",
            f"online={{steps: {self.steps}, batch_size: {self.prompts}, answers_per_prompt: {ANSWERS}}}",
            f"online.learning_rate={RATES['online']}",
            "online.advantage=rloo",
            f"variants={{paper: null, fixed: null, rloo: {{kl: {{coupling: fixed, place: reward, kappa: {KAPPA}}}}}}}",
            f"evaluation={{every: {self.every}, problems: {self.problems}, answers: {ANSWERS}, best_of_problems: 1}}",
            f"lengths.response={self.limit}",
            f"compute.threads={self.threads}",
        ]


class Side(NamedTuple):
    """What one side took. `stages`: wall seconds. `ends`: by β, each seed's rise of the proxy in standard deviations at
    the start, and change of the truth."""

    wall: float
    cpu: float
    peak_gb: float
    stages: dict[str, float]
    ends: dict[float, list[tuple[float, float]]]


def told(job: Job, folder: Path) -> list[str]:
    return ["run", "micro", "--out", str(folder), *(part for text in job.settings() for part in ("--set", text))]


def prepare(job: Job, folder: Path) -> Path:
    """A store with base, problems and pairs, as the job wants them, and nothing else."""
    least = job._replace(betas=job.betas[:1], seeds=job.seeds[:1], steps=1, every=1)
    betastar(told(least, folder / "least"), folder / "least.txt")
    for stage in ("base", "task", "preferences"):
        shutil.copytree(folder / "least/store" / stage, folder / "begun/store" / stage)
    shutil.copy(folder / "least/store/settings.json", folder / "begun/store")
    return folder / "begun"


def run_betastar(job: Job, begun: Path, folder: Path) -> Side:
    shutil.copytree(begun, folder / "run")
    wall, cpu, peak = betastar(told(job, folder / "run"), folder / "betastar.txt")
    log = (folder / "betastar.txt").read_text()
    seconds = {name: float(s) for name, s in re.findall(r"\] (\w+): .*?, (\d+) s(?:;|$)", log, re.MULTILINE)}
    ends: dict[float, list[tuple[float, float]]] = {}
    for c in json.loads((folder / "run/results.json").read_text())["conditions"]:
        proxy, truth, spread = (c["series"][name] for name in ("proxy", "true_strict", "proxy_std"))
        ends.setdefault(c["beta"], []).append(((proxy[-1] - proxy[0]) / spread[0], truth[-1] - truth[0]))
    return Side(wall, cpu, peak, seconds, ends)


def run_trl(job: Job, begun: Path, folder: Path) -> Side:
    (folder / "trl").mkdir()
    (folder / "trl/job.json").write_text(json.dumps([job._asdict(), str(begun)]))
    wall, cpu, peak = child([sys.executable, __file__, "--trl", str(folder / "trl")], folder / "trl.txt")
    found = json.loads((folder / "trl/found.json").read_text())
    return Side(wall, cpu, peak, found["stages"], {float(beta): ends for beta, ends in found["ends"].items()})


def compose(folder: Path) -> None:
    """The job by TRL's trainers, in this process."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PrinterCallback,
        TrainerCallback,
    )
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer

    from betastar.data.graders import grade_gsm8k

    warnings.simplefilter("ignore")
    given, begun = json.loads((folder / "job.json").read_text())
    job, store = Job(**given), Path(begun) / "store"
    torch.set_num_threads(job.threads)
    (base,) = store.glob("base/*/model")
    (task,) = store.glob("task/*")
    (pairs,) = store.glob("preferences/*")
    tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
    rows = [json.loads(line) for line in (pairs / "train.jsonl").read_text().splitlines()]

    def chat(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    preferences = Dataset.from_list(
        [
            {"prompt": chat("user", r["prompt"]), **{k: chat("assistant", r[k]) for k in ("chosen", "rejected")}}
            for r in rows
        ]
    )
    questions = Dataset.from_list(
        [{"prompt": chat("user", p["question"])} for p in json.loads((task / "train.json").read_text())]
    )
    held_out = json.loads((task / "test.json").read_text())[: job.problems]
    asked = [
        tokenizer.apply_chat_template(chat("user", p["question"]), tokenize=False, add_generation_prompt=True)
        for p in held_out
    ] * ANSWERS
    gold = [p["gold"] for p in held_out] * ANSWERS

    def lora(**more: Any) -> Any:
        return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, **more)

    def settings(stage: Stage, seed: int, batch: int, **more: Any) -> dict[str, Any]:
        return {
            "output_dir": str(folder / "out"),
            "per_device_train_batch_size": batch,
            "learning_rate": RATES[stage],
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "seed": seed,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "logging_steps": 50,
            "gradient_checkpointing": False,
            **more,
        }

    stages: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(stage: Stage) -> Iterator[None]:
        started = time.perf_counter()
        yield
        stages[stage] += time.perf_counter() - started

    def trained(trainer: Any) -> Any:
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer.model

    def member(seed: int, k: int) -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model.config.pad_token_id = tokenizer.pad_token_id
        args = RewardConfig(**settings("rewards", 100 * seed + k, 32, num_train_epochs=job.reward_epochs))
        peft: Any = lora(task_type="SEQ_CLS")
        made = RewardTrainer(
            model=model, args=args, train_dataset=preferences, processing_class=tokenizer, peft_config=peft
        )
        return trained(made).eval()

    def offline(beta: float, seed: int) -> Path:
        model = AutoModelForCausalLM.from_pretrained(base)
        args = DPOConfig(**settings("offline", seed, 32, num_train_epochs=job.epochs), beta=beta)
        made = DPOTrainer(
            model=model, args=args, train_dataset=preferences, processing_class=tokenizer, peft_config=lora()
        )
        place = folder / f"dpo-{beta:g}-{seed}"
        trained(made).save_pretrained(place)
        return place

    @torch.no_grad()
    def scores(members: Sequence[Any], texts: Sequence[str]) -> Any:
        batch = tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False)
        return torch.stack([m(**batch).logits[:, 0] for m in members])

    @torch.no_grad()
    def logprobs(model: Any, tokens: Any, mask: Any, width: int) -> Any:
        logits = model(input_ids=tokens, attention_mask=mask, logits_to_keep=tokens.shape[1] - width + 1).logits[:, :-1]
        found = logits.log_softmax(-1).gather(-1, tokens[:, width:, None])[..., 0]
        return (found * mask[:, width:]).sum(1)

    @torch.no_grad()
    def evaluated(model: Any, members: Sequence[Any], is_start: bool) -> dict[str, float]:
        batch = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False)
        width = batch["input_ids"].shape[1]
        was_training, _ = model.training, model.eval()
        tokens = model.generate(**batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=job.limit)
        after = tokens[:, width:]
        ended = (after == tokenizer.eos_token_id).long().cumsum(1)
        live = (ended - (after == tokenizer.eos_token_id).long()) == 0
        mask = torch.cat([batch["attention_mask"], live.long()], dim=1)
        now = logprobs(model, tokens, mask, width)
        with model.disable_adapter():
            from_base = now - logprobs(model, tokens, mask, width)
        from_start = torch.zeros_like(now)
        if not is_start:
            model.set_adapter("ref")
            from_start = now - logprobs(model, tokens, mask, width)
            model.set_adapter("default")
        responses = tokenizer.batch_decode(after * live, skip_special_tokens=True)
        ends = [tokenizer.eos_token if done else "" for done in (ended > 0).any(1).tolist()]
        proxy = scores(members, [q + r + e for q, r, e in zip(asked, responses, ends, strict=True)])
        model.train(was_training)
        right = [grade_gsm8k(r, g).strict for r, g in zip(responses, gold, strict=True)]
        return {
            "proxy": proxy.mean().item(),
            "proxy_std": proxy.mean(0).std().item(),
            "disagreement": proxy.std(0, correction=0).mean().item(),
            "truth": sum(right) / len(right),
            "kl": from_start.mean().item(),
            "kl_base": from_base.mean().item(),
        }

    def online(beta: float, seed: int, checkpoint: Path, members: Sequence[Any]) -> list[dict[str, float]]:
        model: Any = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), checkpoint, is_trainable=True
        )
        points = [evaluated(model, members, is_start=True)]

        def reward(prompts: Any, completions: Any, **_more: Any) -> list[float | None]:
            asks = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
            texts = [ask + c[0]["content"] + tokenizer.eos_token for ask, c in zip(asks, completions, strict=True)]
            return scores(members, texts).mean(0).tolist()

        class Evaluations(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                if state.global_step % job.every == 0 or state.global_step == job.steps:
                    points.append(evaluated(made.model, members, is_start=False))

        more = {
            "max_steps": job.steps,
            "num_generations": ANSWERS,
            "max_completion_length": job.limit,
            "beta": KAPPA,
            "lr_scheduler_type": "constant",
            "temperature": 1.0,
        }
        made: Any = RLOOTrainer(
            model=model,
            reward_funcs=reward,
            args=RLOOConfig(**settings("online", seed, job.prompts * ANSWERS, **more)),
            train_dataset=questions,
            processing_class=tokenizer,
            callbacks=[Evaluations()],
        )
        trained(made)
        return points

    ends: dict[float, list[tuple[float, float]]] = {beta: [] for beta in job.betas}
    for seed in job.seeds:
        with timed("rewards"):
            members = [member(seed, k) for k in range(MEMBERS)]
        for beta in job.betas:
            with timed("offline"):
                checkpoint = offline(beta, seed)
            with timed("online"):
                first, *_, last = online(beta, seed, checkpoint, members)
            rise = (last["proxy"] - first["proxy"]) / first["proxy_std"]
            ends[beta].append((rise, last["truth"] - first["truth"]))
            print(f"β {beta:g}, seed {seed}: {first} to {last}", flush=True)
    (folder / "found.json").write_text(json.dumps({"stages": stages, "ends": ends}))


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    return f"{statistics.mean(values):+.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def show(job: Job, ours: Side, theirs: Side) -> None:
    n = job.conditions
    print(f"\n{n} conditions ({len(job.betas)} β × {len(job.seeds)} seeds), {job.steps} steps, {job.threads} threads")
    print(f"{'':22}{'betastar':>10}{'TRL':>10}{'ratio':>8}")

    def line(name: str, mine: float, other: float, unit: str) -> None:
        ratio = f"{other / mine:>8.2f}" if mine else ""
        print(f"{name:22}{mine:>10.1f}{other:>10.1f}{ratio} {unit}")

    for stage in STAGES:
        line(stage, ours.stages.get(stage, 0.0), theirs.stages[stage], "s")
    line("wall time in all", ours.wall, theirs.wall, "s")
    line("CPU time in all", ours.cpu, theirs.cpu, "s")
    line("peak memory", ours.peak_gb, theirs.peak_gb, "GB")
    if n in GOALS:
        met = theirs.wall / ours.wall >= GOALS[n]
        print(f"goal at {n} conditions: {GOALS[n]:g} times as fast: {'met' if met else 'MISSED'}")
    print(f"\n{'at the end, by β':22}{'proxy, σ at start':>36}{'truth':>36}")
    print(f"{'':22}{'betastar':>18}{'TRL':>18}{'betastar':>18}{'TRL':>18}")
    for beta in job.betas:
        sides = [side.ends[min(side.ends, key=lambda b: abs(b - beta))] for side in (ours, theirs)]
        cells = [spread([end[i] for end in side]) for i in (0, 1) for side in sides]
        print(f"{beta:<22g}" + "".join(f"{cell:>18}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="A whole sweep by betastar and by TRL's trainers.")
    parser.add_argument("--betas", type=int, nargs="+", default=[3, 7], help="numbers of β, from 0.05 to 5")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="online steps")
    parser.add_argument("--prompts", type=int, default=16, help=f"prompts of a step, {ANSWERS} answers each")
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--problems", type=int, default=64, help=f"evaluated, {ANSWERS} answers each")
    parser.add_argument("--pairs", type=int, default=3400, help="prompts of preference pairs")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="9 conditions, few steps: under ten minutes on two cores")
    parser.add_argument("--keep", type=Path, help="a folder for both sides' files; it must not exist")
    parser.add_argument("--trl", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trl:
        compose(options.trl)
        return
    if options.keep and options.keep.exists():
        sys.exit(f"{options.keep} exists; name a folder that does not.")
    numbers = [3] if options.quick else options.betas
    quick = {"steps": 18, "every": 9, "pairs": 2400, "base_steps": 300} if options.quick else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for count in numbers:
            betas = [round(0.05 * 100 ** (i / (count - 1)), 6) for i in range(count)]
            given: dict[str, Any] = {
                "steps": options.steps,
                "prompts": options.prompts,
                "every": options.every,
                "problems": options.problems,
                "threads": options.threads,
                "pairs": options.pairs,
                "base_steps": 600,
            }
            job = Job(
                betas=betas, seeds=list(range(options.seeds)), epochs=1, reward_epochs=0.5, limit=40, **given | quick
            )
            mine = folder / str(count)
            mine.mkdir(parents=True)
            begun = prepare(job, mine)
            ours = run_betastar(job, begun, mine)
            show(job, ours, run_trl(job, begun, mine))


if __name__ == "__main__":
    main()
