"""What a model's configuration alone says about it: sizes for Appendix C and for planning, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from betastar.models.bank import adapted_layers
from betastar.models.hub import locate, read_config
from betastar.models.support import context_length, empty_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class ModelFacts(NamedTuple):
    """Geometry of a causal language model. `parameters` counts all weights, tied ones once; `embedding_parameters`
    those of the token embedding and of a head of its own; `adapted` has `(d_in, d_out)` of every adapted layer;
    `context` is the longest sequence in tokens, None without a limit."""

    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    parameters: int
    embedding_parameters: int
    adapted: tuple[tuple[int, int], ...]
    context: int | None


def model_facts(
    model: PreTrainedConfig | Path | str,
    target_modules: str | Sequence[str],
    revision: str | None = None,
    gguf_file: str | None = None,
) -> ModelFacts:
    """Facts of a configuration, of a folder with a config.json or a GGUF file, or of a hub model, of which only
    config.json is fetched, or the GGUF file. Raises BetastarError where that cannot be had, and for a model that is not
    supported."""
    from transformers import PreTrainedConfig

    config = model if isinstance(model, PreTrainedConfig) else read_config(locate(str(model), revision, gguf_file))
    empty = empty_model(config, config.model_type if model is config else str(model))
    text = config.get_text_config()
    embedding, head = empty.get_input_embeddings().weight, empty.get_output_embeddings().weight
    return ModelFacts(
        hidden_size=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        key_value_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=embedding.shape[0],
        parameters=empty.num_parameters(),
        embedding_parameters=embedding.numel() + (0 if head is embedding else head.numel()),
        adapted=tuple(adapted_layers(empty, target_modules).values()),
        context=context_length(config),
    )
