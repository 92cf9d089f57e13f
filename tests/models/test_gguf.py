"""GGUF files: the weights that were written, unpacked as the format says; the same model as built directly; and one
sentence for each file that cannot be used."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from betastar.errors import BetastarError
from betastar.models.hub import fingerprint, locate
from betastar.models.loading import Base, load_base, load_tokenizer
from betastar.models.support import model_facts
from betastar.settings.sections import PretrainedBase

gguf = pytest.importorskip("gguf")
from models.tiny_gguf import END, PAD, TOKENS, make_model, vocabulary, write_gguf  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*gradient_checkpointing:FutureWarning"
)

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 80, 200, 17, 90, 33]])
BIAS = np.ones(64, np.float32)
KINDS = gguf.GGMLQuantizationType


def load(folder: Path, name: str = "m.gguf", **settings: Any) -> Base:
    return load_base(PretrainedBase(source="pretrained", model=str(folder), gguf_file=name, **settings), CPU)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


@pytest.mark.parametrize(("architecture", "tied"), [("llama", True), ("llama", False), ("qwen3", True)])
def test_weights_and_logits_are_those_of_the_model_that_was_written(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    model = make_model(architecture, tied)
    write_gguf(tmp_path / "m.gguf", model)
    base = load(tmp_path)
    weights, expected = base.model.state_dict(), model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert torch.equal(logits(base.model), logits(model))
    assert (base.model.lm_head.weight is base.model.model.embed_tokens.weight) == tied
    assert not base.model.training
    assert not any(weight.requires_grad for weight in base.model.parameters())
    assert (base.name, base.vocabulary, base.context) == (str(tmp_path), TOKENS, 128)
    assert model_facts(str(tmp_path), "attention", gguf_file="m.gguf") == model_facts(model.config, "attention")


def test_half_precision_numbers_are_unpacked_as_they_are(tmp_path: Path) -> None:
    """0.1 lies between 1638/2^14 and 1639/2^14; to 11 bits it is 1638/2^14 = 0.0999755859375."""
    model = make_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 0.1
    write_gguf(tmp_path / "m.gguf", model, lambda w: (w.astype(np.float16), None))
    loaded = load(tmp_path).model
    assert loaded.dtype == torch.float32
    assert loaded.model.layers[0].mlp.up_proj.weight[0, 0].item() == 1638 / 2**14
    for name, weight in model.named_parameters():
        expected = weight.half().float() if weight.ndim == 2 else weight
        assert torch.equal(loaded.get_parameter(name), expected), name


def test_eight_bit_blocks_are_unpacked_as_they_are(tmp_path: Path) -> None:
    """Q8_0: of 32 numbers one scale d = largest / 127, as half-precision number, and each number as round(x / d). With
    numbers 0, 4, …, 124 and -127 in place of the first, d = 1 and every number is kept: with halves of them d = 0.5.
    31.75 / 0.5 = 63.5 has no place of its own: it becomes 64 · 0.5 = 32."""
    row = np.arange(0, 128, 4, dtype=np.float32)
    row[0] = -127
    half = row / 2
    half[1] = 31.75
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, :64] = torch.from_numpy(np.concatenate([row, half]))
    write_gguf(tmp_path / "m.gguf", model, lambda w: (gguf.quants.quantize(w, KINDS.Q8_0), KINDS.Q8_0))
    loaded = load(tmp_path).model
    half[1] = 32
    unpacked = loaded.model.layers[1].mlp.down_proj.weight[3, :64]
    assert unpacked.tolist() == [*row.tolist(), *half.tolist()]
    # Elsewhere a number is off by half a step, and by the rounding of the scale to 11 bits (127 · 2^-11 steps).
    for name, weight in model.named_parameters():
        blocks, kept = (w.detach().reshape(-1, 32) for w in (weight, loaded.get_parameter(name)))
        step = blocks.abs().amax(dim=1, keepdim=True) / 127
        assert ((kept - blocks).abs() <= (0.5 + 127 / 2**11 + 1e-3) * step).all(), name


def test_the_precision_is_as_set(tmp_path: Path) -> None:
    model = make_model()
    write_gguf(tmp_path / "m.gguf", model)
    loaded = load(tmp_path, dtype="bfloat16").model
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(loaded.get_parameter(name), model.get_parameter(name).bfloat16())


def test_an_unpacked_model_can_be_saved_and_adapted_like_any_other(tmp_path: Path) -> None:
    import peft

    model = make_model()
    write_gguf(tmp_path / "m.gguf", model)
    loaded = load(tmp_path).model
    assert not hasattr(loaded.config, "quantization_config")
    assert not hasattr(loaded, "hf_quantizer")
    loaded.save_pretrained(tmp_path / "saved")
    load(tmp_path).tokenizer.save_pretrained(tmp_path / "saved")
    again = load_base(PretrainedBase(source="pretrained", model=str(tmp_path / "saved")), CPU)
    assert torch.equal(logits(again.model), logits(model))
    text = "the 12\n\n3"
    assert again.tokenizer(text)["input_ids"] == load(tmp_path).tokenizer(text)["input_ids"]
    adapted: Any = peft.get_peft_model(loaded, peft.LoraConfig(target_modules=["q_proj"]))
    (adapted(IDS).logits.sum()).backward()
    assert all(w.grad is not None for w in adapted.parameters() if w.requires_grad)


def test_the_tokenizer_and_its_chat_template_come_from_the_file(tmp_path: Path) -> None:
    """Digits stand alone (smollm), so that 12 is not merged and a line break before a digit joins the one before it."""
    write_gguf(tmp_path / "m.gguf", make_model())
    tokenizer = load_tokenizer(locate(str(tmp_path), gguf_file="m.gguf"))
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (END, PAD, None)
    assert tokenizer.convert_ids_to_tokens(list(range(TOKENS))) == vocabulary()
    assert tokenizer.tokenize("he\n\n12<|end|>") == ["he", "ĊĊ", "1", "2", "<|end|>"]
    assert tokenizer.decode(tokenizer("né ☃\n\n12")["input_ids"]) == "né ☃\n\n12"
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "<|user|>hi<|bot|>"


@pytest.mark.parametrize(
    ("pre", "tokens"),
    [
        ("gpt-2", ["Ċ", "Ċ", "12"]),  # white space leaves its last sign to what follows; numbers stay together
        ("refact", ["ĊĊ", "1", "2"]),
        ("qwen2", ["ĊĊ", "1", "2"]),  # a rule that transformers has
        ("llama-bpe", ["ĊĊ", "12"]),  # up to three digits together
    ],
)
def test_text_is_cut_as_the_model_was_trained(tmp_path: Path, pre: str, tokens: list[str]) -> None:
    write_gguf(tmp_path / "m.gguf", make_model(), pre=pre)
    assert load_tokenizer(locate(str(tmp_path), gguf_file="m.gguf")).tokenize("\n\n12") == tokens


def test_only_the_named_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a model in Transformers' format beside it, nor a file of its name in the current directory."""
    model, other = make_model(), make_model("qwen3")
    folder, here = tmp_path / "folder", tmp_path / "here"
    other.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer_config.json").write_text("{")
    here.mkdir()
    write_gguf(folder / "m.gguf", model)
    write_gguf(here / "m.gguf", make_model(tied=False))
    monkeypatch.chdir(here)
    assert torch.equal(logits(load(folder).model), logits(model))
    assert torch.equal(logits(load(Path("../folder")).model), logits(model))


def test_the_fingerprint_is_that_of_the_file_alone(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", make_model())
    choice = PretrainedBase(source="pretrained", model=str(tmp_path), gguf_file="m.gguf")
    before = fingerprint(choice)
    (tmp_path / "notes.txt").write_text("x")
    assert fingerprint(choice) == before
    with (tmp_path / "m.gguf").open("ab") as file:
        file.write(b"x")
    assert fingerprint(choice) != before


def cut(bytes_left: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        write_gguf(path, make_model())
        content = path.read_bytes()
        path.write_bytes(content[: int(bytes_left * len(content))])

    return change


def without_a_layer(path: Path) -> None:
    model = make_model()
    model.config.num_hidden_layers = 3  # says one more than there are
    write_gguf(path, model)


def written(**how: Any) -> Callable[[Path], None]:
    return lambda path: write_gguf(path, make_model(), **how)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: None, r"there is no file m\.gguf in it; correct gguf_file"),
        (lambda path: path.with_name("n.gguf").touch(), r"no file m\.gguf in it \(n\.gguf is there\); correct gguf"),
        (lambda path: path.write_bytes(b""), "damaged or incomplete .*; download it again"),
        (lambda path: path.write_bytes(b"not a model" * 9), "damaged or incomplete .*magic bytes.*; download it again"),
        (cut(0.99), "damaged or incomplete .*; download it again"),
        (cut(0.5), "damaged or incomplete .*; download it again"),
        (cut(0.004), "damaged or incomplete .*; download it again"),
        (without_a_layer, r"its weights lack model\.layers\.2\.input_layernorm\.weight; give a complete"),
        (
            lambda path: write_gguf(path, make_model("qwen3", head_dim=32)),
            "its weights do not have the sizes that its metadata implies; give the original model",
        ),
        (written(architecture="rwkv6"), r"cannot load this kind of GGUF file \(.*rwkv6.*\); give the original model"),
        (written(tokenizer=False), "this GGUF file has no tokenizer; give a file with a complete model"),
        (written(pre="poro-chat"), r"Transformers does not know its pre-tokenizer \(poro-chat\); give the original"),
        (
            written(change=lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))),
            r"has weights that Transformers does not read from GGUF files \(rope_freqs\.weight\); give the original",
        ),
        (
            written(change=lambda writer: [writer.add_tensor(f"blk.{i}.attn_q.bias", BIAS) for i in (0, 1)]),
            r"does not read from GGUF files \(blk\.0\.attn_q\.bias and 1 more\); give the original model",
        ),
        (
            written(change=lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)),
            r"its rotary positions are scaled \(yarn\), which Transformers does not read from GGUF files; give the",
        ),
        (
            written(change=lambda writer: writer.add_uint16("split.count", 3)),
            "one of 3 parts of a model; join them with llama-gguf-split --merge",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_sentence(
    tmp_path: Path, write: Callable[[Path], object], sentence: str
) -> None:
    write(tmp_path / "m.gguf")
    with pytest.raises(BetastarError, match=sentence) as raised:
        load(tmp_path)
    assert str(raised.value).startswith(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "m.gguf", make_model())
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else find(name, *a))
    with pytest.raises(BetastarError, match=r"need the package gguf; pip install 'betastar\[gguf\]'"):
        load(tmp_path)


def test_an_old_transformers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "m.gguf", make_model())
    monkeypatch.setitem(sys.modules, "transformers.integrations.gguf", None)
    with pytest.raises(
        BetastarError, match=r"need transformers 5\.23 or newer, and this is \d.*; pip install 'betastar\[gguf\]'"
    ):
        load(tmp_path)


def test_a_file_that_the_system_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    write_gguf(tmp_path / "m.gguf", make_model())
    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(BetastarError, match=r"m\.gguf: the GGUF file cannot be read \(Permission denied\); check its"):
        load(tmp_path)


def test_loading_draws_no_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "m.gguf", make_model())
    load(tmp_path)
    assert capfd.readouterr() == ("", "")
