"""The paper's setting, small: a Qwen3 model and a BPE tokenizer with a chat template on disk, preference data in
UltraFeedback's own columns, GSM8K problems; every stage in float32 and in NF4 (QLoRA)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from betastar.disk import file_digest
from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.settings.config import load_config

pytestmark = pytest.mark.usefixtures("undrawn")

CHAT = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif -%}
{%- endif -%}"""


def problems(shared: Path, part: str, n: int) -> list[dict[str, str]]:
    """GSM8K's own rows where they are at hand, else rows made in their format."""
    path = shared / "gsm8k" / f"{part}.jsonl"
    if path.is_file():
        return [json.loads(line) for line in path.read_text().splitlines()[:n]]
    return [
        {
            "question": f"A farmer has {i} hens and buys {i + 2} more. How many hens does the farmer have?",
            "answer": f"The farmer has {i} + {i + 2} = <<{i}+{i + 2}={2 * i + 2}>>{2 * i + 2} hens.\n#### {2 * i + 2}",
        }
        for i in range(n)
    ]


def write_model(folder: Path, texts: list[str]) -> None:
    """A random Qwen3 of hidden size 64 whose vocabulary is padded beyond its tokenizer's, with tied embeddings."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT
    )
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=704, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.1, eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)


def ultrafeedback_row(i: int, question: str, chosen: str, rejected: str) -> dict:
    """A row as HuggingFaceH4/ultrafeedback_binarized has it."""

    def chat(answer: str) -> list[dict[str, str]]:
        return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]

    return {
        "prompt": question, "prompt_id": f"{i:064x}", "chosen": chat(chosen), "rejected": chat(rejected),
        "messages": chat(chosen), "score_chosen": 8.0, "score_rejected": 5.5,
    }  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    parts = {part: problems(shared, part, 90) for part in ("train", "test")}
    write_model(folder / "model", [text for rows in parts.values() for row in rows for text in row.values()])
    for part, rows in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [
        ultrafeedback_row(i, row["question"], row["answer"], f"I am not sure about {i}.")
        for i, row in enumerate(parts["train"])
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return folder


def settings(files: Path, *more: str) -> list[str]:
    return [
        f"base={{source: pretrained, model: {files}/model}}",
        f"task={{preset: gsm8k, train: {files}/train.jsonl, test: {files}/test.jsonl}}",
        f"preferences={{kind: dataset, source: {files}/pairs.jsonl}}",
        "chat.thinking=false",
        "seeds=[0]",
        "grid={method: percentiles}",
        "adapter={rank: auto, alpha: auto, dropout: auto}",
        "rewards={batch_size: auto, learning_rate: auto, weight_decay: auto, clip: auto, epochs: 0.2}",
        "offline={batch_size: auto, learning_rate: auto, weight_decay: auto, clip: auto, epochs: 0.2}",
        "online={steps: 2, batch_size: 3, learning_rate: auto}",
        "lengths={prompt: 96, response: 48, generated: 10}",
        "evaluation={every: 1, problems: 5}",
        "compute.threads=1",
        "compute.memory_gb=0.002",
        *more,
    ]


@pytest.mark.parametrize("quantization", ["none", pytest.param("nf4", marks=pytest.mark.thorough)])
def test_every_stage(files: Path, tmp_path: Path, quantization: str) -> None:
    if quantization == "nf4":
        pytest.importorskip("bitsandbytes")
    before = {path.name: file_digest(path) for path in (files / "model").iterdir()}
    more = [f"base.quantization={quantization}", "compute.gradient_checkpointing=true"]
    results = pipeline.run(load_config("files", settings(files, *more)), tmp_path / "run")
    assert len(results["conditions"]) == 2 * 3
    derived = {name: entry["value"] for name, entry in results["hyperparameters"].items()}
    # h = 64: 2^round(log2 √64) = 8; about 70 training pairs: 32/√70 = 3.8, clipped to 0.10.
    assert derived["adapter.rank"] == 8
    assert derived["adapter.dropout"] == 0.1
    adapter = json.loads((tmp_path / "run/adapters/offline/beta-1-seed-0/adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (8, 16)
    assert adapter["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    assert all(sample["tokens"] <= 10 for sample in samples)
    # The user's model is read and never written.
    assert before == {path.name: file_digest(path) for path in (files / "model").iterdir()}


@pytest.mark.thorough
def test_the_trl_engine_and_another_reward_base(files: Path, tmp_path: Path) -> None:
    more = [
        "offline={engine: trl, batch_size: 16, epochs: 0.7, warmup_steps: 0}", "rewards.engine=trl",
        "reward_base={source: random, geometry: {hidden_size: 64, heads: 2, key_value_heads: 1}}",
    ]  # fmt: skip
    results = pipeline.run(load_config("files", settings(files, *more)), tmp_path / "run")
    assert len(results["conditions"]) == 2 * 3
    log = (tmp_path / "run/adapters/offline/beta-1-seed-0").resolve().parent / "training.jsonl"
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # the adapter starts as the base: log 2
    assert len(losses) == 3 + (len(losses) > 3)  # some 72 training pairs, 16 in a step
    assert all(loss < losses[0] for loss in losses[1:])


def test_a_problem_longer_than_the_context_is_refused_before_training(files: Path, tmp_path: Path) -> None:
    rows = [{"question": "many words " * 300, "answer": "#### 1"}, *problems(files, "train", 40)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config("files", settings(files, f"task.train={tmp_path}/long.jsonl"))
    with pytest.raises(BetastarError, match=r"task\.train: problem 0 has \d+ tokens; .* context of 512; remove it"):
        pipeline.run(config, tmp_path / "run")
    assert not list((tmp_path / "run/store").glob("rewards/*"))
