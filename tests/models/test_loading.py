"""Models made from a geometry, the byte tokenizer, and folders that cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from betastar.config import Geometry
from betastar.data.chat import decode, end_tokens, prompt_tokens, response_tokens
from betastar.errors import BetastarError
from betastar.models.loading import build_byte_tokenizer, build_model, load_base

TOKENIZER = build_byte_tokenizer()
GEOMETRY = Geometry(hidden_size=16, intermediate_size=16, layers=2, heads=2, key_value_heads=1, context=64)
CPU = torch.device("cpu")


@given(text=st.text(st.characters(codec="utf-8")))
@example("naïve 数学 🙂\r\n\t\x00 two  spaces ,  end ")
@example("<end><pad>")
def test_the_byte_tokenizer_gives_any_text_back(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_the_byte_tokenizer_speaks_the_plain_chat_format() -> None:
    [prompt] = prompt_tokens(TOKENIZER, ["2 + 2?"])
    assert decode(TOKENIZER, prompt) == "User: 2 + 2?\n\nAssistant:"
    [response] = response_tokens(TOKENIZER, [" 4"])
    assert response[-1] == TOKENIZER.eos_token_id
    assert TOKENIZER.eos_token_id not in response[:-1]
    assert decode(TOKENIZER, response) == "4"


def test_a_built_model_is_its_geometry_and_seed() -> None:
    before = torch.get_rng_state()
    torch.manual_seed(1)
    first = build_model(GEOMETRY, 70, root_seed=0)
    torch.manual_seed(2)
    middle = torch.get_rng_state()
    second, other = build_model(GEOMETRY, 70, root_seed=0), build_model(GEOMETRY, 70, root_seed=1)
    assert torch.equal(torch.get_rng_state(), middle)
    torch.set_rng_state(before)
    weights = first.state_dict()
    assert weights.keys() == second.state_dict().keys()
    assert all(torch.equal(weights[name], w) for name, w in second.state_dict().items())
    assert not torch.equal(weights["model.embed_tokens.weight"], other.get_input_embeddings().weight)
    assert first.get_input_embeddings().weight.shape == (128, 16)  # 70 rounded up to a multiple of 64
    assert not first.training
    assert first.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert first(torch.tensor([[1, 2]])).logits.shape == (1, 2, 128)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good folder, for tests to break."""
    build_model(GEOMETRY, len(TOKENIZER), root_seed=0).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_base_loads_as_it_was(folder: Path) -> None:
    base = load_base(folder, CPU)
    model = build_model(GEOMETRY, len(TOKENIZER), root_seed=0)
    tokens = torch.tensor([TOKENIZER("2 + 2 = 4")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(base.model(tokens).logits, model(tokens).logits)
    assert base.name == str(folder)
    assert base.tokenizer("2 + 2 = 4")["input_ids"] == tokens[0].tolist()
    assert len(base.tokenizer("<end>")["input_ids"]) == 5
    assert end_tokens(base.model, base.tokenizer) == [TOKENIZER.eos_token_id]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match=r"no Hugging Face model folder \(config.json is missing\); give its path"):
        load_base(tmp_path, CPU)


def test_a_folder_without_weights_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BetastarError, match="the model or its tokenizer cannot be loaded"):
        load_base(folder, CPU)


def test_damaged_weights_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(BetastarError, match="the model or its tokenizer cannot be loaded"):
        load_base(folder, CPU)


def test_an_unknown_architecture_is_named(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(model_type="nonsense", architectures=["Nonsense"]))
    with pytest.raises(BetastarError, match=r"cannot be loaded .*nonsense"):
        load_base(folder, CPU)


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.pop("eos_token"))
    with pytest.raises(BetastarError, match="the tokenizer has no end-of-text token; set eos_token"):
        load_base(folder, CPU)


def test_a_missing_padding_token_is_the_end_token(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.pop("pad_token"))
    assert load_base(folder, CPU).tokenizer.pad_token_id == TOKENIZER.eos_token_id


def test_another_models_tokenizer_is_refused(folder: Path) -> None:
    build_model(GEOMETRY, 64, root_seed=0).save_pretrained(folder)
    with pytest.raises(BetastarError, match="the tokenizer has 258 tokens but the model embeds only 64; use the"):
        load_base(folder, CPU)
