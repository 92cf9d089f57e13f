"""What can be sampled and adapted here, and what a model's configuration alone says about it.

One sentence for any other model, before its weights are fetched where its configuration shows it, else by comparing a
short text with the model's own forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from betastar.errors import BetastarError
from betastar.models.bank import adapted_layers
from betastar.models.hub import locate, read_config
from betastar.models.logprobs import backbone, lm_head
from betastar.models.probes import probe_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


BLOCK = 64  # numbers that share one constant in NF4
# Largest deviation of our logits from the model's own, relative to their size. Rounding stays far below: for random
# Qwen3 models of up to 48 layers it gave 2e-6 in float32 and 0.025 in bfloat16, an ignored mask 1 and ignored positions
# 0.13 or more.
TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.1}
PROBES = 3  # texts; a mistake shows in each, rounding that decides everything only in some


def context_length(config: PreTrainedConfig) -> int | None:
    """Most tokens of a sequence that are computed exactly: the model's positions, or the window of its sliding
    attention where that is shorter (within the window it is ordinary attention); None without a limit."""
    text = config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None)]
    kinds = getattr(text, "layer_types", None)
    if kinds is None or "sliding_attention" in kinds:
        limits.append(getattr(text, "sliding_window", None))
    if kinds is not None and "chunked_attention" in kinds:
        limits.append(getattr(text, "attention_chunk_size", None))
    return min((limit for limit in limits if limit is not None), default=None)


def empty_model(config: PreTrainedConfig, name: str) -> Any:
    """The causal language model of a configuration, without weights (on the meta device). Raises BetastarError for
    what is none, or cannot be sampled and adapted here."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    text = config.get_text_config()
    if config.is_encoder_decoder:
        raise BetastarError(f"{name}: an encoder-decoder ({config.model_type}); choose a decoder-only language model.")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BetastarError(
            f"{name}: not a causal language model ({config.model_type}); choose one that generates text."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise BetastarError(
            f"{name}: its weights are already quantised; give the original model and set quantization: nf4."
        )
    if getattr(text, "attn_logit_softcapping", None) or getattr(text, "final_logit_softcapping", None):
        raise BetastarError(
            f"{name}: {config.model_type} caps its logits, which betastar does not support; choose another model."
        )
    _check_numbers(text, name)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # whatever a model's own code does with values that it does not expect
        if "scaled_dot_product_attention" in str(error):
            raise BetastarError(
                f"{name}: {config.model_type} does not support scaled_dot_product_attention; choose another model."
            ) from error
        reason = " ".join(str(error).split("\n")[0].split())[:200].rstrip(".") or type(error).__name__
        if isinstance(error, KeyError):  # of an activation, a kind of rotary positions, and so on
            reason = f"{config.model_type} knows no {reason}"
        raise BetastarError(
            f"{name}: no model can be made of its config.json ({reason}); correct it, or download it again."
        ) from error
    if model.config.get_text_config() is not model.config:
        raise BetastarError(
            f"{name}: {config.model_type} takes more than text as input; give its language model alone."
        )
    return model


SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings"),
)


def _check_numbers(text: Any, name: str) -> None:
    """Raises BetastarError for sizes that no model has, heads that cannot be shared, and rotary positions without a
    scale: torch would fail on them in words of its own, or make a model that cannot be run."""
    for field in SIZES:
        size = getattr(text, field, None)
        if isinstance(size, int) and not 0 < size < 2**31:
            shown = size if size.bit_length() < 64 else f"a number of {size.bit_length()} bits"
            raise BetastarError(f"{name}: config.json has {field} {shown}; give the model's own, a positive number.")
    heads, shared = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise BetastarError(
            f"{name}: config.json has {heads} attention heads for {shared} of keys and values, which is no whole "
            "number each; correct it."
        )
    if (most := context_length(text)) is not None and most < 1:
        raise BetastarError(f"{name}: config.json has a window of {most} tokens; give the model's own.")
    rotary = getattr(text, "rope_parameters", None)
    for part in [rotary, *rotary.values()] if isinstance(rotary, dict) else []:  # of all layers, or by kind of layer
        for field in ("rope_theta", "factor") if isinstance(part, dict) else ():
            value = part.get(field)
            if isinstance(value, int | float) and not 0 < value < float("inf"):
                raise BetastarError(f"{name}: config.json has {field} {value:g}; give the model's own, above 0.")


def check_finite(model: Any, name: str) -> None:
    """Raises BetastarError for a weight that is NaN or infinite, with its name: so would be all that is computed."""
    for weight, values in _numbers(model):
        if values.numel() and not torch.isfinite(torch.stack(values.aminmax())).all():  # no copy, as isfinite makes
            kind = "NaN" if values.isnan().any() else "infinite"
            raise BetastarError(
                f"{name}: its weight {weight} is {kind} in places; download it again, or choose another model."
            )


def _numbers(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The floating-point numbers of each weight; of one in 4 bits, what its blocks are scaled by."""
    for weight, values in model.named_parameters():
        state = getattr(values, "quant_state", None)
        if values.is_floating_point():
            yield weight, values
        elif state is not None:
            yield weight, state.absmax if state.state2 is None else torch.cat([state.state2.absmax, state.offset[None]])


def check_quantisable(model: Any, name: str) -> None:
    """Raises BetastarError where a linear layer's input does not divide into blocks of NF4."""
    for layer, (d_in, _) in adapted_layers(model, "all-linear").items():
        if d_in % BLOCK:
            raise BetastarError(
                f"{name}: layer {layer} reads {d_in} numbers, which is not a multiple of {BLOCK}, so it cannot be "
                "quantised to nf4; set quantization: none."
            )


@torch.no_grad()
def check_agreement(model: Any, precision: torch.dtype, name: str) -> None:
    """Raises BetastarError where the parts of the model as betastar uses them (custom masks and positions, its own
    cache, the head apart) do not compute what the model's own forward pass does. `precision`: the lowest in use."""
    texts = probe_tokens(model, 8 * PROBES).view(8, PROBES).T
    error = float("inf")
    try:
        for text in texts:
            error = min(error, _deviation(model, text))
            if error <= TOLERANCE[precision]:
                return
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as failure:  # whatever an unknown architecture does with what it does not expect
        reason = str(failure).split("\n")[0]
        raise BetastarError(
            f"{name}: {model.config.model_type} cannot be run with betastar's masks, positions and cache ({reason}); "
            "choose another model."
        ) from failure
    raise BetastarError(
        f"{name}: betastar's way of running {model.config.model_type} gives other logits than the model itself "
        f"(they differ by {error:.2g} of their size); choose another model."
    )


def _deviation(model: Any, text: Tensor) -> float:
    """Relative distance between the logits of a text of 8 tokens alone, and of the same text with foreign tokens before
    and within it that the mask hides and the positions skip, read in two pieces into a cache."""
    from betastar.models.cache import roomy_cache

    def integers(*values: int) -> Tensor:
        return torch.tensor(values, device=model.device)

    own = model(input_ids=text[None], use_cache=False).logits[0].float()
    place, width = integers(2, 3, 4, 25, 26, 27, 28, 29), 30
    tokens = torch.zeros(width, dtype=torch.long, device=model.device).index_copy(0, place, text)
    position = torch.zeros_like(tokens).index_copy(0, place, integers(*range(8)))
    foreign = torch.ones_like(tokens, dtype=torch.bool).index_fill(0, place, False)
    bias = torch.zeros(width, dtype=model.dtype, device=model.device)
    bias = bias.masked_fill(foreign, torch.finfo(model.dtype).min / 2)
    cache = roomy_cache(model.config.get_text_config().num_hidden_layers, width)
    states = []
    for begin, end in ((0, 27), (27, width)):
        later = bias.new_full((end - begin, end), -torch.inf).triu(begin + 1)
        output = backbone(model)(
            input_ids=tokens[None, begin:end],
            attention_mask=(bias[:end] + later)[None, None],
            position_ids=position[None, begin:end],
            past_key_values=cache,
            use_cache=True,
        )
        states.append(output.last_hidden_state[0])
    ours = lm_head(model)(torch.cat(states)[place]).float()
    return ((ours - own).norm() / own.norm()).item()


def guard_context(model: Any, most: int, name: str) -> None:
    """Refuse longer sequences with a BetastarError: beyond its positions a model fails or misreads, and beyond its
    window sliding attention is not what is computed here."""

    def check(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        cache, position = kwargs.get("past_key_values"), kwargs.get("position_ids")
        if cache is None and isinstance(position, Tensor):
            longest = int(position.max()) + 1
        else:
            tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            longest = tokens.shape[1] + (0 if cache is None else cache.get_seq_length())
        if longest > most:
            raise BetastarError(
                f"{name}: a sequence of {longest} tokens does not fit in the model's context of {most}; lower "
                "lengths.prompt, lengths.response or lengths.generated."
            )

    backbone(model).register_forward_pre_hook(check, with_kwargs=True)


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
