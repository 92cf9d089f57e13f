"""Adapters as PEFT folders: `adapter_config.json` and `adapter_model.safetensors`, readable by `peft.PeftModel`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank, Adapters

PREFIX = "base_model.model."
OTHER_FORMULA = (  # LoRA options under which the layer no longer computes W x + scale · B A x
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "layer_replication",
    "monteclora_config",
    "kasa_config",
    "arrow_config",
)
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initial values that are taken out of the base weights


def export_adapter(
    folder: Path,
    adapters: Adapters,
    index: int,
    base_name: str,
    score_head: Tensor | None = None,
    *,
    fan_in_fan_out: bool = False,
) -> None:
    """Write condition `index` as a PEFT folder. With `score_head [d]` it is a one-label sequence classifier (a reward
    model) whose head is saved with the adapter, otherwise a causal language model. `fan_in_fan_out`: the adapted layers
    are Conv1D (`AdapterBank.conv1d`)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name in adapters.a:
        tensors[f"{PREFIX}{name}.lora_A.weight"] = adapters.a[name][index].detach().T.contiguous().cpu()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = adapters.b[name][index].detach().T.contiguous().cpu()
    rank = next(iter(adapters.a.values())).shape[2]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if score_head is None else "SEQ_CLS",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": adapters.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in adapters.a}),
        "inference_mode": True,
        "modules_to_save": None if score_head is None else ["score"],
    }
    if score_head is not None:
        tensors[f"{PREFIX}score.weight"] = score_head.detach()[None, :].contiguous().cpu()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def import_adapter(folder: Path, bank: AdapterBank) -> tuple[Adapters, Tensor | None]:
    """Read a PEFT LoRA folder, trained here or elsewhere, into a stack of one condition; with a reward model's head
    `[d]` where the folder has one.

    A smaller rank is padded with zeros and another `lora_alpha / r` is folded into B, so the result computes the same
    function in this bank. Refused, with a BetastarError: another kind of adapter, other target modules, a larger rank,
    a head of several labels, and LoRA variants whose formula differs (DoRA, biases, per-module ranks) or whose
    initialisation changed the base (PiSSA).
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise BetastarError(f"{folder}: no PEFT adapter here ({name} is missing).")
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise BetastarError(f"{folder}: the adapter is damaged ({error}); export or download it again.") from None
    unsupported = [key for key in OTHER_FORMULA if config.get(key)]
    if str(config.get("init_lora_weights")).startswith(CHANGES_BASE):
        unsupported.append(f"init_lora_weights {config['init_lora_weights']}")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unsupported:
        what = ", ".join(unsupported) or f"{config.get('peft_type')} with bias {config.get('bias')}"
        raise BetastarError(f"{folder}: only plain LoRA adapters can be imported, but this one has {what}.")
    rank = int(config["r"])
    if rank > bank.rank:
        raise BetastarError(f"{folder}: rank {rank} does not fit the bank's rank {bank.rank}; raise adapter.rank.")
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    head = next((tensors.pop(n) for n in list(tensors) if n.endswith("score.weight")), None)
    if head is not None and len(head) != 1:
        raise BetastarError(f"{folder}: a reward model gives one score, but this head has {len(head)} labels.")
    a, b = {}, {}
    for name, (d_in, d_out) in bank.shapes.items():
        try:
            lora_a = tensors.pop(f"{PREFIX}{name}.lora_A.weight").float()
            lora_b = tensors.pop(f"{PREFIX}{name}.lora_B.weight").float()
        except KeyError:
            raise BetastarError(
                f"{folder}: no weights for the module {name}; adapter.target_modules must be those it was trained with."
            ) from None
        if lora_a.shape != (rank, d_in) or lora_b.shape != (d_out, rank):
            raise BetastarError(f"{folder}: {name} has other dimensions than this base; was it trained on another one?")
        a[name] = torch.zeros(1, d_in, bank.rank)
        b[name] = torch.zeros(1, bank.rank, d_out)
        a[name][0, :, :rank] = lora_a.T
        b[name][0, :rank] = lora_b.T * (scale / bank.scale)
    if tensors:
        raise BetastarError(f"{folder}: it also adapts {min(tensors)}; add that module to adapter.target_modules.")
    adapters = Adapters(a, b, bank.scale).to(device=bank.device)
    return adapters, None if head is None else head[0].float()
