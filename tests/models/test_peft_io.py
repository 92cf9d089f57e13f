"""PEFT folders go both ways: what we write PEFT reads with equal logits, what PEFT writes we read with equal logits."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.peft_io import export_adapter, import_adapter
from betastar.models.rewards import RewardEnsemble, score
from betastar.models.sequences import Row

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore::peft.utils.warning.PeftWarning",
)

TOKENS = torch.randint(1, 64, (3, 14), generator=torch.Generator().manual_seed(0))
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@torch.no_grad()
def logits(bank: AdapterBank, adapters: Adapters) -> Tensor:
    with bank.use(adapters):
        return bank.model(TOKENS.to(bank.device)).logits


@torch.no_grad()
def written_by_peft(model: Any, folder: Path, **settings: Any) -> Tensor:
    """Save a LoRA adapter with random weights that PEFT made; returns its logits."""
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": TARGETS, **settings})
    wrapped = peft.get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            weight.normal_(std=0.3)
    wrapped.save_pretrained(str(folder))
    return wrapped.eval()(TOKENS.to(wrapped.device)).logits


@torch.no_grad()
def test_peft_reads_what_we_export(
    bank: AdapterBank, adapters: Adapters, make_model: Callable[[], Any], tmp_path: Path
) -> None:
    tokens = TOKENS.to(bank.device)
    bare = bank.model(tokens).logits
    for c in range(3):
        export_adapter(tmp_path / str(c), adapters, c, base_name="the base")
        theirs = peft.PeftModel.from_pretrained(make_model(), tmp_path / str(c)).eval()
        torch.testing.assert_close(theirs(tokens).logits, logits(bank, adapters[c : c + 1]), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(theirs(tokens).logits, bare, atol=0.1)
    config = peft.PeftConfig.from_pretrained(str(tmp_path / "0"))
    assert config.base_model_name_or_path == "the base"
    assert config.task_type == "CAUSAL_LM"


@torch.no_grad()
def test_adapters_of_transposed_layers_can_be_merged(random_adapters: Callable[..., Adapters], tmp_path: Path) -> None:
    """GPT-2's Conv1D keeps its weights transposed, which PEFT must know to add an adapter to them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4)).eval()
    bank = AdapterBank(copy.deepcopy(model), "all-linear", rank=4, alpha=6)
    adapters = random_adapters(bank, 1)
    export_adapter(tmp_path, adapters, 0, "base", fan_in_fan_out=bank.conv1d)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fan_in_fan_out")  # PEFT corrects it, and says so
        theirs: Any = peft.PeftModel.from_pretrained(model, tmp_path)
    torch.testing.assert_close(theirs(TOKENS).logits, logits(bank, adapters), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs.merge_and_unload()(TOKENS).logits, logits(bank, adapters), rtol=1e-4, atol=1e-4)


def test_our_own_folders_come_back_exactly(bank: AdapterBank, adapters: Adapters, tmp_path: Path) -> None:
    export_adapter(tmp_path, adapters, 1, base_name="base")
    again, head = import_adapter(tmp_path, bank)
    assert head is None
    assert again.scale == adapters.scale
    for old, new in zip(adapters[1:2].parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 6},
        {"r": 2, "lora_alpha": 32},
        {"r": 3, "lora_alpha": 5, "use_rslora": True},
        {"r": 1, "lora_alpha": 1, "init_lora_weights": "gaussian", "lora_dropout": 0.1},
    ],
    ids=["same", "smaller rank, larger alpha", "rslora", "dropout"],
)
def test_we_read_what_peft_exports(
    bank: AdapterBank, make_model: Callable[[], Any], tmp_path: Path, settings: dict[str, Any]
) -> None:
    theirs = written_by_peft(make_model(), tmp_path, **settings)
    adapters, head = import_adapter(tmp_path, bank)
    assert head is None
    assert len(adapters) == 1
    assert all(a.shape[2] == bank.rank for a in adapters.a.values())
    torch.testing.assert_close(logits(bank, adapters), theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_reward_member_is_a_sequence_classifier(
    bank: AdapterBank,
    adapters: Adapters,
    make_model: Callable[[], Any],
    make_rows: Callable[..., list[Row]],
    tmp_path: Path,
) -> None:
    """The folder of member k, on the base loaded as a one-label classifier, gives the member's scores."""
    from transformers import AutoModelForSequenceClassification

    head = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).to(bank.device)
    ensemble = RewardEnsemble(adapters, head)
    rows = make_rows(4)
    ours = score(bank, ensemble, rows, pad=0, most_tokens=1000).scores
    make_model().save_pretrained(tmp_path / "base")
    for k in range(3):
        export_adapter(tmp_path / str(k), adapters, k, str(tmp_path / "base"), score_head=ensemble.head[k])
        classifier: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
        member = peft.PeftModel.from_pretrained(classifier.to(bank.device), tmp_path / str(k)).eval()
        theirs = [
            member(torch.tensor([[*row.prompt, *row.response]], device=bank.device)).logits.item() for row in rows
        ]
        torch.testing.assert_close(torch.tensor(theirs), ours[k].cpu(), rtol=1e-4, atol=1e-4)
        again, imported = import_adapter(tmp_path / str(k), bank)
        assert imported is not None
        assert torch.equal(imported.cpu(), ensemble.head[k].cpu())
        assert torch.equal(next(iter(again.a.values()))[0], next(iter(adapters.a.values()))[k])


@torch.no_grad()
def test_we_read_a_reward_model_of_peft(bank: AdapterBank, make_model: Callable[[], Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    make_model().save_pretrained(tmp_path / "base")

    def classifier(labels: int) -> Any:
        made: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=labels)
        return made.to(bank.device)

    one = classifier(1)
    one.config.pad_token_id = 0
    theirs = written_by_peft(one, tmp_path / "one", task_type="SEQ_CLS", r=4, lora_alpha=4)
    adapters, head = import_adapter(tmp_path / "one", bank)
    assert head is not None
    rows = [Row(tokens[:5], tokens[5:]) for tokens in TOKENS.tolist()]
    ours = score(bank, RewardEnsemble(adapters, head[None].to(bank.device)), rows, pad=0, most_tokens=1000).scores
    torch.testing.assert_close(ours[0], theirs[:, 0], rtol=1e-4, atol=1e-4)

    two = classifier(2)
    two.config.pad_token_id = 0
    written_by_peft(two, tmp_path / "two", task_type="SEQ_CLS", r=4, lora_alpha=4)
    with pytest.raises(BetastarError, match="gives one score, but this head has 2 labels"):
        import_adapter(tmp_path / "two", bank)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 5}, "rank 5 does not fit the bank's rank 4; raise adapter.rank"),
        ({"r": 4, "use_dora": True}, "only plain LoRA adapters can be imported, but this one has use_dora"),
        ({"r": 4, "rank_pattern": {"q_proj": 2}}, "this one has rank_pattern"),
        ({"r": 4, "alpha_pattern": {"q_proj": 2}}, "this one has alpha_pattern"),
        ({"r": 4, "lora_bias": True}, "this one has lora_bias"),
        ({"r": 4, "bias": "lora_only"}, "this one has LORA with bias lora_only"),
        ({"r": 4, "init_lora_weights": "pissa"}, "this one has init_lora_weights pissa"),
        ({"r": 4, "alora_invocation_tokens": [1, 2]}, "this one has alora_invocation_tokens"),
        ({"r": 4, "target_modules": ["q_proj"]}, "no weights for the module .*k_proj; adapter.target_modules must be"),
        ({"r": 4, "layers_to_transform": [0]}, r"no weights for the module model\.layers\.1"),
        ({"r": 4, "target_modules": [*TARGETS, "up_proj"]}, "it also adapts .*up_proj.*; add that module"),
        ({"r": 4, "modules_to_save": ["norm"]}, "it also adapts .*norm"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    bank: AdapterBank, make_model: Callable[[], Any], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    written_by_peft(make_model(), tmp_path, **settings)
    with pytest.raises(BetastarError, match=message):
        import_adapter(tmp_path, bank)


def test_another_kind_of_adapter_is_refused(bank: AdapterBank, make_model: Callable[[], Any], tmp_path: Path) -> None:
    wrapped = peft.get_peft_model(
        make_model(), peft.IA3Config(task_type="CAUSAL_LM", target_modules=TARGETS, feedforward_modules=[])
    )
    wrapped.save_pretrained(str(tmp_path))
    with pytest.raises(BetastarError, match="this one has IA3"):
        import_adapter(tmp_path, bank)


def test_missing_and_damaged_files_are_named(bank: AdapterBank, adapters: Adapters, tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match=r"no PEFT adapter here \(adapter_config.json is missing\)"):
        import_adapter(tmp_path / "nowhere", bank)
    export_adapter(tmp_path, adapters, 0, "base")
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BetastarError, match="the adapter is damaged"):
        import_adapter(tmp_path, bank)
    weights.unlink()
    with pytest.raises(BetastarError, match=r"\(adapter_model.safetensors is missing\)"):
        import_adapter(tmp_path, bank)
    weights.write_bytes(whole)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(BetastarError, match="the adapter is damaged"):
        import_adapter(tmp_path, bank)


def test_an_adapter_of_another_base_is_refused(bank: AdapterBank, adapters: Adapters, tmp_path: Path) -> None:
    export_adapter(tmp_path, adapters, 0, "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors = {name: w[:, :16].contiguous() if "lora_A" in name else w for name, w in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(BetastarError, match="other dimensions than this base"):
        import_adapter(tmp_path, bank)


def test_the_config_says_what_the_adapter_is(bank: AdapterBank, adapters: Adapters, tmp_path: Path) -> None:
    export_adapter(tmp_path, adapters, 0, "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 6, sorted(TARGETS))
