"""A tiny random Qwen3 over eight words, TRL's trainers on it, and problems whose answers it sometimes gets right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monitor.small import pairs, pays_length

WORDS = ("<pad>", "<end>", "<unk>", "####", "1", "2", "good", "fine")
CHAT = "{% for message in messages %}{{ message.content }} {% endfor %}{% if add_generation_prompt %}fine{% endif %}"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=CHAT
    )


@pytest.fixture(scope="session")
def model_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model and its tokenizer as a folder, from which TRL also loads the reference model."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_trainer(model_folder: str, tokenizer: Any, tmp_path: Path) -> Callable[..., Any]:
    """`make_trainer("grpo" or "rloo", **settings)`: a trainer with `pays_length` as its reward."""

    def make(kind: str = "grpo", reward_funcs: Any = pays_length, lora: float | None = None, **settings: Any) -> Any:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, PrinterCallback
        from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

        more, model = settings.pop("trainer", {}), settings.pop("model", None)
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 12,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "logging_steps": 2,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": 0,
        }
        kinds: Any = (GRPOConfig, GRPOTrainer) if kind == "grpo" else (RLOOConfig, RLOOTrainer)
        config, trainer = kinds
        adapter = None if lora is None else LoraConfig(r=2, lora_dropout=lora, target_modules=["q_proj", "v_proj"])
        made = trainer(
            model=AutoModelForCausalLM.from_pretrained(model_folder) if model is None else model,
            reward_funcs=reward_funcs,
            args=config(**(defaults | settings)),
            train_dataset=Dataset.from_list([{"prompt": p, "answer": a} for p, a in pairs(16)]),
            processing_class=tokenizer,
            peft_config=adapter,
            **more,
        )
        made.remove_callback(PrinterCallback)
        return made

    return make
