"""Models made from a geometry, and the byte tokenizer."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.settings.sections import Geometry

TOKENIZER = build_byte_tokenizer()
GEOMETRY = Geometry(hidden_size=16, intermediate_size=16, layers=2, heads=2, key_value_heads=1, context=64)


@given(text=st.text(st.characters(codec="utf-8")))
@example("naïve 数学 🙂\r\n\t\x00 two  spaces ,  end ")
@example("<end><pad>")
def test_the_byte_tokenizer_gives_any_text_back(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


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
