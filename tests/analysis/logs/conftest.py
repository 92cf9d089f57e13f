"""Logs written by the real tools: two short trainings with TRL on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Trained(NamedTuple):
    """The output folder of a finished training, and what the trainer held in memory as its history."""

    folder: Path
    history: list[dict[str, Any]]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """`grpo` (with TensorBoard) and `rloo`: four steps, evaluated at 0, 2 and 4, checkpoints at 2 and 4."""
    pytest.importorskip("tensorboard")
    import torch
    from datasets import Dataset
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    from betastar.data.micro.language import build_tokenizer
    from betastar.data.micro.sums import sums

    def distinct(completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The proxy: how many different words."""
        return [len(set(tokens)) / 4 for tokens in completion_ids]

    def correct(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        """The truth: the answer stands somewhere in the response."""
        return [float(a in text.split()) for text, a in zip(completions, answer, strict=True)]

    folder = tmp_path_factory.mktemp("trained")
    tokenizer = build_tokenizer(sums(9))
    tokenizer.padding_side = "left"
    tiny: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    heads: Any = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **tiny, **heads))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    data = Dataset.from_list([{"prompt": f"{i} + {j} =", "answer": str(i + j)} for i in range(4) for j in range(4)])
    result = {}
    trainers: Any = (("grpo", GRPOConfig, GRPOTrainer), ("rloo", RLOOConfig, RLOOTrainer))
    for name, Config, Trainer in trainers:
        out = folder / f"{name}-beta-0.04-seed-1"
        config = Config(
            output_dir=str(out),
            max_steps=4,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=8,
            num_generations=4,
            max_completion_length=12,
            learning_rate=1e-2,
            beta=0.04,
            seed=1,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=2,
            eval_on_start=True,
            save_steps=2,
            save_only_model=True,
            report_to="tensorboard" if name == "grpo" else "none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=str(folder / "base"),
            processing_class=tokenizer,
            reward_funcs=[distinct, correct],
            args=config,
            train_dataset=data,
            eval_dataset=data.select(range(8)),
        )
        trainer.train()
        result[name] = Trained(out, list(trainer.state.log_history))
    return result
