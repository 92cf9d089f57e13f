"""Pretrained bases from folders: loaded as they were, in the wanted precision, or refused in one sentence."""

from __future__ import annotations

import builtins
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from betastar.data.chat import end_tokens
from betastar.errors import BetastarError
from betastar.models.loading import Base, load_base, weights_dtype
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.settings.sections import Geometry, PretrainedBase

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*gradient_checkpointing:FutureWarning"
)

TOKENIZER = build_byte_tokenizer()
GEOMETRY = Geometry(hidden_size=64, intermediate_size=64, layers=2, heads=2, key_value_heads=1, context=64)
CPU = torch.device("cpu")
TOKENS = torch.tensor([TOKENIZER("2 + 2 = 4")["input_ids"]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good folder, for tests to break."""
    build_model(GEOMETRY, len(TOKENIZER), root_seed=0).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path, **settings: Any) -> Base:
    return load_base(PretrainedBase(source="pretrained", model=str(folder), **settings), CPU)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(TOKENS).logits[..., : len(TOKENIZER)]


def test_a_saved_base_loads_as_it_was(folder: Path) -> None:
    base = load(folder)
    assert torch.equal(logits(base.model), logits(build_model(GEOMETRY, len(TOKENIZER), root_seed=0)))
    assert not base.model.training
    assert not any(weight.requires_grad for weight in base.model.parameters())
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight  # tied embeddings stay tied
    assert base.name == str(folder)
    assert base.tokenizer("2 + 2 = 4")["input_ids"] == TOKENS[0].tolist()
    assert len(base.tokenizer("<end>")["input_ids"]) == 5
    assert end_tokens(base.model, base.tokenizer) == [TOKENIZER.eos_token_id]
    assert (base.vocabulary, base.context) == (258, 64)


@torch.no_grad()
def test_places_beyond_the_vocabulary_have_no_probability(folder: Path) -> None:
    probability = load(folder).model(TOKENS).logits.softmax(dim=-1)
    assert probability.shape[-1] == 320
    assert (probability[..., 258:] == 0).all()
    assert (probability[..., :258] > 0).all()


def test_an_untied_head_is_loaded(folder: Path) -> None:
    from transformers import Qwen3ForCausalLM

    config = build_model(GEOMETRY, len(TOKENIZER), root_seed=0).config
    config.tie_word_embeddings = False
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(folder)
    base = load(folder)
    assert base.model.lm_head.weight is not base.model.model.embed_tokens.weight
    assert torch.equal(logits(base.model), logits(model))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, r"k_norm\.weight and \d+ more of its weights"),
        ({"num_hidden_layers": 1, "layer_types": None}, "layers.1."),
    ],
)
def test_weights_under_the_name_of_another_model_are_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    """A llama reads all of a Qwen3 but the norms of its queries and keys, and would run as another model."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**{k: v for k, v in config.items() if k != "architectures"}, **change}))
    with pytest.raises(BetastarError, match=words) as error:
        load(folder)
    assert "correct config.json (model_type, number of layers)" in str(error.value)


def test_a_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load(Path("~") / folder.name).name == str(folder)


def test_the_precision_is_as_set(folder: Path) -> None:
    exact = logits(load(folder).model)
    rounded = load(folder, dtype="bfloat16").model
    assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
    error = (logits(rounded).float() - exact).norm() / exact.norm()
    assert 0 < error < 0.02  # a rounding to 8 bits changes a number by up to 1/256, and some of that adds up
    assert weights_dtype("auto", CPU) == torch.float32
    assert weights_dtype("bfloat16", CPU) == torch.bfloat16


def test_four_bit_weights_are_those_of_bitsandbytes(folder: Path) -> None:
    """Linear layers in NF4 with the settings asked for; head, embeddings and norms as they were."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit

    plain, quantised = load(folder).model, load(folder, quantization="nf4", compute_dtype="bfloat16").model
    once = load(folder, quantization="nf4", double_quantization=False).model
    for name, layer in plain.named_modules():
        same = quantised.get_submodule(name)
        if name == "lm_head" or not isinstance(layer, torch.nn.Linear):
            assert type(same) is type(layer)
        else:
            assert isinstance(same, Linear4bit)
            assert same.compute_dtype == torch.bfloat16
            for loaded, double in ((same, True), (once.get_submodule(name), False)):
                packed, state = quantize_4bit(layer.weight, quant_type="nf4", compress_statistics=double)
                ours: Any = loaded.weight
                assert torch.equal(dequantize_4bit(ours, ours.quant_state), dequantize_4bit(packed, state))
    assert torch.equal(quantised.lm_head.weight, plain.lm_head.weight)
    error = (logits(quantised) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < error < 0.3  # NF4's error on normal weights is about a tenth of their size


@pytest.mark.parametrize("width", [96, 100])
def test_a_layer_that_four_bits_do_not_fit_is_named(tmp_path: Path, width: int) -> None:
    shape = GEOMETRY.model_copy(update={"intermediate_size": width})
    build_model(shape, len(TOKENIZER), root_seed=0).save_pretrained(tmp_path)
    with pytest.raises(
        BetastarError, match=rf"layer model\.layers\.0\.mlp\.down_proj reads {width} numbers, which is not"
    ):
        load(tmp_path, quantization="nf4")


def test_missing_bitsandbytes_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )
    with pytest.raises(BetastarError, match=r"nf4 needs bitsandbytes; pip install 'betastar\[gpu\]'"):
        load(folder, quantization="nf4")


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_pickled_weights(folder: Path) -> None:
    remove_weights(folder)
    torch.save({}, folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])


def drop_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "layers.1" not in n}, folder / "model.safetensors", {"format": "pt"})


def another_models_weights(folder: Path) -> None:
    build_model(GEOMETRY.model_copy(update={"hidden_size": 128}), 258, 0).save_pretrained(folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def another_models_tokenizer(folder: Path) -> None:
    build_model(GEOMETRY, 64, root_seed=0).save_pretrained(folder)


def put_an_adapter_in(folder: Path) -> None:
    import peft

    model = build_model(GEOMETRY, len(TOKENIZER), root_seed=0)
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(str(folder))


def settings(name: str, **change: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, lambda content: content.update(change))


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda f: (f / "config.json").unlink(), r"no Hugging Face model folder \(config.json is missing\); correct"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded .*not a valid JSON file"),
        (settings("config.json", model_type="nonsense"), "cannot be loaded .*`nonsense`"),
        (settings("config.json", model_type="nonsense", auto_map={"AutoConfig": "x.Y"}), "brings its own code, which"),
        (settings("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "already quantised; give"),
        (remove_weights, "no weights in safetensors format"),
        (only_pickled_weights, r"pickled ones, .bin, are refused.* convert them .*save_pretrained\(FOLDER\)"),
        (cut_weights, "the weights are damaged .*; download them again"),
        (drop_a_layer, r"its weights lack model\.layers\.1\.input_layernorm\.weight; give a complete"),
        (another_models_weights, "the weights do not match config.json"),
        (put_an_adapter_in, "it contains a PEFT adapter; merge it"),
        (remove_tokenizer, "there is no tokenizer; put"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "the model or its tokenizer cannot be loaded"),
        (another_models_tokenizer, "the tokenizer has 258 tokens but the model embeds only 64; use the"),
        (settings("tokenizer_config.json", eos_token=None), "the tokenizer has no end-of-text token; set eos_token"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    folder: Path, break_it: Callable[[Path], object], sentence: str
) -> None:
    break_it(folder)
    with pytest.raises(BetastarError, match=sentence) as raised:
        load(folder)
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)


WHOLE = ("-1", "0", "1000000000000", "1" + "0" * 400)
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
CONFIGS = [
    *((f'"{name}": {size}', f"config.json has {name} ") for name in SIZES for size in WHOLE),
    *((f'"max_position_embeddings": {size}', "config.json has max_position_embeddings ") for size in WHOLE),
    *((f'"{name}": {size}', name) for name in SIZES for size in ('"64"', "1.5", "true", "[64]")),
    ('"num_hidden_layers": 0', "`num_hidden_layers` (0) must be equal"),
    ('"num_hidden_layers": -1', "`num_hidden_layers` (-1) must be equal"),
    ('"num_key_value_heads": 3, "num_attention_heads": 4', "4 attention heads for 3 of keys and values"),
    ('"hidden_act": "nonsense"', "qwen3 knows no 'nonsense'"),
    ('"hidden_act": 3', "Field 'hidden_act'"),
    ('"rope_parameters": {"rope_type": "nonsense", "rope_theta": 10000}', "qwen3 knows no 'nonsense'"),
    ('"rope_scaling": {"type": "nonsense", "factor": 2}', "qwen3 knows no 'nonsense'"),
    ('"rope_parameters": {"rope_type": "yarn"}', "Missing required keys"),
    ('"rope_parameters": {"rope_type": "default", "rope_theta": 0}', "rope_theta 0; give the model's own"),
    ('"rope_parameters": {"rope_type": "default", "rope_theta": -1.5}', "rope_theta -1.5; give the model's own"),
    ('"rope_parameters": {"rope_type": "default", "rope_theta": 1e400}', "rope_theta inf; give the model's own"),
    ('"rope_parameters": {"rope_type": "default", "rope_theta": "x"}', "no model can be made of its config.json"),
    ('"rope_parameters": 5', "Field 'rope_parameters'"),
    ('"rope_scaling": {"rope_type": "linear", "factor": -2}', "factor -2; give the model's own, above 0"),
    ('"rope_scaling": {"rope_type": "linear", "factor": "x"}', "no model can be made of its config.json"),
    ('"eos_token_id": [1, "2"]', "Field 'eos_token_id' with value [1, '2']"),
    ('"eos_token_id": "1"', "Field 'eos_token_id'"),
    ('"eos_token_id": [null]', "Field 'eos_token_id'"),
    ('"eos_token_id": 1.5', "Field 'eos_token_id'"),
    ('"eos_token_id": {}', "Field 'eos_token_id'"),
    ('"vocab_size": 64', "the tokenizer has 258 tokens but the model embeds only 64"),
    ('"vocab_size": 640', "the weights do not match config.json"),
    ('"layer_types": ["nonsense", "full_attention"]', "layer_type"),
    ('"layer_types": 5', "Field 'layer_types'"),
    (
        '"sliding_window": -1, "use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"]',
        "a window of -1 tokens",
    ),
    ('"dtype": "float7"', "float7"),
    ('"dtype": 5', "no model can be made of its config.json"),
    ('"rms_norm_eps": "x"', "Field 'rms_norm_eps'"),
    ('"tie_word_embeddings": "no"', "Field 'tie_word_embeddings'"),
    ('"pad_token_id": "x"', "Field 'pad_token_id'"),
    ('"model_type": 5', "cannot be loaded"),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder, for tests that replace single files."""
    folder = tmp_path_factory.mktemp("good")
    build_model(GEOMETRY, len(TOKENIZER), root_seed=0).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("change", "sentence"), CONFIGS, ids=[change[:60] for change, _ in CONFIGS])
def test_a_configuration_that_describes_no_model_is_one_sentence(
    good: Path, tmp_path: Path, change: str, sentence: str
) -> None:
    for path in good.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    # Where a key is there twice, the last one counts.
    (tmp_path / "config.json").write_text((good / "config.json").read_text().rstrip().rstrip("}") + f", {change}}}")
    with pytest.raises(BetastarError) as raised:
        load(tmp_path)
    assert sentence in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path))
    assert "\n" not in str(raised.value)
    assert "; " in str(raised.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "5", "null", '"x"', "{}", "\x00", "[" * 20_000 + "]" * 20_000, "1" * 6000, '{"model_type": "qwen3"'],
    ids=["empty", "list", "number", "null", "text", "object", "zero byte", "nested", "digits", "cut"],
)
def test_a_file_that_is_no_configuration_is_one_sentence(tmp_path: Path, good: Path, text: str) -> None:
    for path in good.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BetastarError, match=r"cannot be loaded \(.*\); correct its files") as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [{"eos_token_id": [1, "2"]}, {"eos_token_id": "1"}, {"eos_token_id": [[1]]}, {"eos_token_id": 1.5}],
    ids=str,
)
def test_end_tokens_that_are_no_tokens_are_one_sentence(folder: Path, change: dict[str, Any]) -> None:
    (folder / "generation_config.json").write_text(json.dumps(change))
    base = load(folder)
    with pytest.raises(
        BetastarError, match=r"generation_config\.json has eos_token_id .*; give one token id"
    ) as raised:
        end_tokens(base.model, base.tokenizer)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.layers.1.mlp.down_proj.weight", float("nan"), "is NaN in places; download it again"),
        ("model.embed_tokens.weight", float("nan"), "is NaN in places"),
        ("model.norm.weight", float("inf"), "is infinite in places; download it again"),
        ("model.layers.0.self_attn.q_norm.weight", float("-inf"), "is infinite in places"),
    ],
)
def test_a_weight_that_is_no_number_is_named(folder: Path, name: str, value: float, words: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[3] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BetastarError) as raised:
        load(folder)
    assert f"its weight {name} {words}" in str(raised.value)


def test_a_weight_of_four_bits_that_is_no_number_is_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][5, 7] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for double in (True, False):
        with pytest.raises(
            BetastarError, match=r"its weight model\.layers\.1\.mlp\.down_proj\.weight is NaN in places"
        ):
            load(folder, quantization="nf4", compute_dtype="float32", double_quantization=double)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match="nowhere: no such folder; correct the path of the model"):
        load(tmp_path / "nowhere")


def test_code_that_comes_with_a_model_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers knows the architecture its own classes are used, without asking whether to trust others."""
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked"))
    edit(folder / "config.json", lambda config: config.update(auto_map={"AutoModelForCausalLM": "evil.Model"}))
    (folder / "evil.py").write_text("raise SystemExit('evil ran')")
    assert type(load(folder).model).__module__.startswith("transformers.models.qwen3")


def test_a_missing_padding_token_is_the_end_token(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.pop("pad_token"))
    assert load(folder).tokenizer.pad_token_id == TOKENIZER.eos_token_id


def test_a_sequence_beyond_the_context_is_refused(folder: Path) -> None:
    model = load(folder).model
    fitting = torch.zeros(1, 64, dtype=torch.long)
    assert model(fitting).logits.shape[1] == 64
    with pytest.raises(BetastarError, match="a sequence of 65 tokens does not fit in the model's context of 64; lower"):
        model.base_model(torch.zeros(1, 65, dtype=torch.long))
    # Two responses of a packed pair share positions, so more tokens than positions may fit.
    packed = torch.zeros(1, 100, dtype=torch.long)
    model.base_model(input_ids=packed, position_ids=torch.arange(100)[None] % 60)
    with pytest.raises(BetastarError, match="a sequence of 66 tokens"):
        model.base_model(input_ids=packed, position_ids=torch.arange(100)[None] % 66)


@pytest.mark.parametrize(
    ("quantization", "remedy"),
    [("none", "set quantization: nf4 or choose a smaller model"), ("nf4", "choose a smaller model")],
)
def test_weights_that_do_not_fit_are_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, remedy: str
) -> None:
    import transformers

    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(BetastarError, match=f"the weights do not fit in the memory of cpu; {remedy}"):
        load(folder, quantization=quantization)
