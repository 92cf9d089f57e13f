"""Runs one job of `trl_engine` with TRL: in this process, or in each of those that a launcher starts, as in

    accelerate launch --num_processes 8 -m betastar.models.trl.worker FOLDER

TRL's DPOTrainer, KTOTrainer and RewardTrainer do the work. What is aligned here, so that they compute what the bank
computes, is listed in docs/engines.md.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForSequenceClassification, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference as DpoCollator
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference as KtoCollator
from trl.trainer.reward_trainer import DataCollatorForPreference as RewardCollator

from betastar.disk import write_atomically
from betastar.errors import BetastarError, InternalError
from betastar.maths.methods import KTO, OBJECTIVES
from betastar.models.devices import FULL, OutOfMemory, is_out_of_memory, set_up
from betastar.models.loading import Base, load_base
from betastar.models.logprobs import backbone, lm_head
from betastar.models.optimise import linear_schedule
from betastar.settings.sections import PretrainedBase

LOSS_OPTIONS = [option.trl for entry in OBJECTIVES.values() for option in entry.options.values() if option.trl]
QUANTISED = ("is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_quantizer")


def run(folder: Path, on_step: Callable[[dict[str, float]], None]) -> None:
    """Train what `folder` says, and leave there a PEFT folder `adapter` and a row per step in `training.jsonl`. The
    main process calls `on_step` with each row. torch's global random state is left as it was."""
    job, compute = read_job(folder)
    set_up(compute["deterministic"])
    device: Any = PartialState(cpu=compute["cpu"]).device
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # other libraries about one another
        trainer = make_trainer(folder, load_base(PretrainedBase(**job["base"]), device))
        trainer.add_callback(StepLog(folder / "training.jsonl", on_step, job["beta"]))
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(FULL) from None
        if trainer.accelerator.is_main_process:
            save(trainer.model, folder / "adapter")
            shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
        AcceleratorState._reset_state(reset_partial_state=True)


def read_job(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to train, and with what."""
    job, compute = (json.loads((folder / f"{name}.json").read_text()) for name in ("job", "compute"))
    return job, compute


def make_trainer(folder: Path, base: Base) -> Any:
    """The trainer of a job on a loaded base, ready to train from the initial adapter."""
    job, compute = read_job(folder)
    rows, model, tokenizer = pyarrow.parquet.read_table(folder / "pairs.parquet"), base.model, base.tokenizer
    pad = unused_token(rows, len(tokenizer))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    silence_dropout(model)
    lora: Any = LoraConfig.from_pretrained(str(folder / "initial"))
    lora.lora_dropout, lora.inference_mode, lora.base_model_name_or_path = job["dropout"], False, base.name
    settings = arguments(job, compute, folder, bf16=model.dtype == torch.bfloat16)
    if job["beta"] is not None:
        hide_padding_from_trl(lm_head(model), base.vocabulary)
        loss = {name: job[name] for name in LOSS_OPTIONS if name in job}
        if job.get("loss_type") == KTO:
            check_kto_batch(settings["per_device_train_batch_size"])
            args: Any = KTOConfig(**settings, beta=job["beta"], loss_type=KTO, **loss)
            kind, collator = PairKtoTrainer, PairKtoCollator(pad)
        else:
            args = DPOConfig(**settings, beta=job["beta"], loss_type=[job.get("loss_type", "sigmoid")], **loss)
            kind, collator = PairDpoTrainer, DpoCollator(pad)
    else:
        args, model = RewardConfig(**settings), classifier(model)
        kind, collator = PairRewardTrainer, RewardCollator(pad)
    args._n_gpu = min(args.n_gpu, 1)  # a process takes one GPU; more come with compute.launch
    trainer: Any = kind(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=Dataset(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # on a 4-bit base TRL makes them bfloat16, the bank does not
    initial = load_file(folder / "initial" / "adapter_model.safetensors")
    if set_peft_model_state_dict(trainer.model, initial).unexpected_keys:
        raise InternalError(f"{folder / 'initial'}: the adapter does not fit TRL's model; please report this bug.")
    return trainer


def arguments(job: Mapping[str, Any], compute: Mapping[str, Any], folder: Path, bf16: bool) -> dict[str, Any]:
    """Settings that both trainers take. A process holds at most `compute.tokens_per_forward` tokens at once (or one
    pair), and all of them together see one batch per optimiser step."""
    processes = PartialState().num_processes
    share, left = divmod(job["batch_size"], processes)
    if left:
        raise BetastarError(
            f"compute.launch: a batch of {job['batch_size']} pairs cannot be divided evenly among {processes} "
            "processes; change batch_size or the number of processes."
        )
    fitting = max(1, compute["tokens_per_forward"] // (2 * job["longest"]))
    at_once = max(size for size in range(1, share + 1) if share % size == 0 and size <= fitting)
    return {
        "output_dir": str(folder / "trainer"),
        "max_steps": job["steps"],
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": share // at_once,
        "learning_rate": job["learning_rate"],
        "weight_decay": job["weight_decay"],
        "max_grad_norm": job["clip"],
        "warmup_steps": job["warmup_steps"],
        "seed": job["seed"],
        "train_sampling_strategy": "sequential",  # the rows are in the order of training
        "max_length": None,  # and cut already
        "disable_dropout": False,  # the base's is silenced, the adapter's is wanted
        "gradient_checkpointing": compute["gradient_checkpointing"],
        "bf16": bf16,
        "use_cpu": compute["cpu"],
        "dataloader_pin_memory": not compute["cpu"],
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
    }


class AsGiven:
    """Takes rows as they are, follows the bank's schedule, and reports to nobody."""

    args: Any
    optimizer: Any
    lr_scheduler: Any

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Transformers' linear schedule is a step behind the bank's, and trains nothing in its first step."""
        total, warm_up = num_training_steps, self.args.warmup_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: linear_schedule(step, total, warm_up))
        return self.lr_scheduler

    def _send_telemetry(self) -> None:
        pass


class PairDpoTrainer(AsGiven, DPOTrainer):
    """TRL's DPOTrainer on token ids."""


class PairKtoTrainer(AsGiven, KTOTrainer):
    """TRL's KTOTrainer on token ids of pairs, each of them two examples. The bank's loss of a pair is their sum, twice
    TRL's mean over examples."""

    _signature_columns: list[str] | None

    def _set_signature_columns_if_needed(self) -> None:
        sides = ("chosen_ids", "rejected_ids")
        self._signature_columns = ["prompt_ids", *sides, *(f"other_{side}" for side in sides)]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return 2 * super().compute_loss(model, inputs, False, num_items_in_batch)


class PairKtoCollator:
    """KTOTrainer's batch of pairs: every chosen and every rejected response as an example, beside which stands the
    response to another prompt from which z₀ is estimated."""

    def __init__(self, pad: int):
        self.collate = KtoCollator(pad)

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self.collate(
            [
                {
                    "prompt_ids": pair["prompt_ids"],
                    "completion_ids": pair[side],
                    "KL_completion_ids": pair[f"other_{side}"],
                    "label": side == "chosen_ids",
                }
                for pair in pairs
                for side in ("chosen_ids", "rejected_ids")
            ]
        )


def check_kto_batch(at_once: int) -> None:
    """Raises BetastarError for a micro-batch of one pair, whose z₀ would hang on that pair alone."""
    if at_once < 2:
        raise BetastarError(
            "Engine trl estimates z₀ of objective kto from each micro-batch, and only one pair fits; raise "
            "compute.tokens_per_forward, lower lengths.prompt and lengths.response, or choose engine bank."
        )


class PairRewardTrainer(AsGiven, RewardTrainer):
    """TRL's RewardTrainer on token ids."""


class StepLog(TrainerCallback):
    """Writes a row `{step, loss, norm}` per optimiser step, and hands it on; `norm` is before clipping. With DPO's
    `beta` the row has the batch means of log π/π⁽⁰⁾ too, which TRL logs times β as rewards."""

    def __init__(self, path: Path, on_step: Callable[[dict[str, float]], None], beta: float | None = None):
        self.path, self.on_step, self.beta = path, on_step, beta

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if "loss" in logs and not all(math.isfinite(logs[name]) for name in ("loss", "grad_norm")):
            raise BetastarError(
                f"{self.path.parent}: TRL's training diverged at step {state.global_step} of {state.max_steps} (loss "
                f"{logs['loss']:g}, gradient norm {logs['grad_norm']:g}); lower learning_rate or clip."
            )
        if state.is_world_process_zero and "loss" in logs:
            row = {"step": state.global_step, "loss": logs["loss"], "norm": logs["grad_norm"]}
            if self.beta is not None:
                row |= {f"{side}_log_ratio": logs[f"rewards/{side}"] / self.beta for side in ("chosen", "rejected")}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.on_step(row)


class Head(nn.Linear):
    """A reward head in float32, whatever the precision of the hidden states."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def classifier(model: Any) -> Any:
    """A causal language model's backbone under a scalar head: the one-label classifier that RewardTrainer trains. It
    shares the loaded backbone, and so the precision and quantisation the base was loaded with."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    found: Any = None
    if type(config) in AutoModelForSequenceClassification._model_mapping:
        with torch.device("meta"):
            found = AutoModelForSequenceClassification.from_config(config)
    if not isinstance(getattr(found, "score", None), nn.Linear):
        raise BetastarError(
            f"rewards.engine: TRL trains sequence classifiers with a score layer, and Transformers has none for "
            f"{config.model_type} models; choose engine bank."
        )
    setattr(found, found.base_model_prefix, backbone(model))
    backbone(model).register_forward_pre_hook(_by_name, with_kwargs=True, prepend=True)
    found.score = Head(found.score.in_features, 1, bias=False, device=model.device)
    for name in QUANTISED:
        if hasattr(model, name):
            setattr(found, name, getattr(model, name))
    return found


def _by_name(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A classifier hands token ids to its backbone by place; other hooks on it (`guard_context`) read names."""
    return (), dict(zip(("input_ids",), args, strict=True)) | kwargs


def hide_padding_from_trl(head: Any, tokens: int) -> None:
    """What `vocabulary.hide_padding` does, for a trainer that takes the head's weight and bias and never calls it."""
    if head.weight.shape[0] > tokens:
        bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias.detach().clone()
        bias[tokens:] = torch.finfo(bias.dtype).min / 2
        head.bias = nn.Parameter(bias, requires_grad=False)


def silence_dropout(model: nn.Module) -> None:
    """Turn the base's own dropout off: TRL puts the base in training mode, the bank leaves it in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def unused_token(rows: Any, vocabulary: int) -> int:
    """A token that no row holds, to pad with. RewardTrainer reads the score at the last token that is no padding: with
    a tokenizer that pads with its end token, that would be the one before the end."""
    seen = {token for column in rows.columns for token in column.combine_chunks().flatten().unique().to_pylist()}
    unused = next((token for token in range(vocabulary) if token not in seen), None)
    if unused is None:
        raise BetastarError(
            "Engine trl pads with a token that occurs in no pair, but these pairs contain every token; choose engine "
            "bank."
        )
    return unused


def save(model: Any, folder: Path) -> None:
    """Write a PEFT model's adapter to `folder`, and nothing else."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def main(folder: Path) -> None:
    """The work of one launched process. Why the first of them failed is left in `error.txt`: launchers say other
    things last."""
    _, compute = read_job(folder)
    if compute["threads"]:
        torch.set_num_threads(compute["threads"])
    try:
        run(folder, on_step=lambda row: None)
    except Exception as error:
        said = str(error) if isinstance(error, BetastarError) else f"{type(error).__name__}: {error}"
        if not (folder / "error.txt").exists():
            write_atomically(folder / "error.txt", said.strip().split("\n")[0].encode())
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
