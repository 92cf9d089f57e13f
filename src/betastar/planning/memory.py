"""Memory by part, in bytes: an estimate from geometry and settings, held against counted tensors in the tests.

`width` is the size of a number in the base's own precision, which activations and the key-value cache have too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from betastar.models.logprobs import HEAD_ELEMENTS, HEAD_ELEMENTS_ON_GPU

if TYPE_CHECKING:
    from betastar.models.facts import ModelFacts

NF4_BLOCK, CONSTANT_BLOCK = 64, 256  # weights that share a constant; constants that share one if quantised in turn
LOGIT_TRAINING, LOGIT_DECODING = 12, 20  # bytes per logit with all copies that live at once
RUNTIME = 1.5 * 2**30  # device context, libraries and what an allocator wastes: a flat allowance


class Precision(NamedTuple):
    """How a base is kept: bytes per number, and whether its linear layers are NF4."""

    width: int
    nf4: bool = False
    double: bool = True


class Piece(NamedTuple):
    """One forward and backward pass: its tokens, padding included, and whether activations are computed again."""

    tokens: int
    checkpointing: bool


def weights(model: ModelFacts, precision: Precision) -> dict[str, float]:
    """A base. NF4 leaves embeddings and head as they are; 64 weights of a linear layer share a float32 constant, or one
    of 8 bits, of which 256 share a float32 (arXiv:2305.14314 section 3)."""
    if not precision.nf4:
        return {"weights": model.parameters * precision.width}
    linear = model.parameters - model.embedding_parameters
    constants = linear / NF4_BLOCK * (1 + 4 / CONSTANT_BLOCK if precision.double else 4)
    return {
        "embeddings, head": model.embedding_parameters * precision.width,
        "NF4 layers": linear / 2,
        "NF4 constants": constants,
    }


def key_value_cache(model: ModelFacts, rows: int, tokens: int, width: int) -> float:
    """Keys and values of `rows` sequences of up to `tokens` tokens."""
    return 2 * rows * tokens * model.layers * model.key_value_heads * model.head_dim * width


def logits(tokens: int, vocabulary: int, gpu: bool, whole: bool = False) -> float:
    """Logits of a training pass with their copies: a chunk of them, or the `whole`, as TRL has them."""
    elements, chunk = tokens * vocabulary, HEAD_ELEMENTS_ON_GPU if gpu else HEAD_ELEMENTS
    return (elements if whole else min(elements, chunk)) * LOGIT_TRAINING


def activations(model: ModelFacts, width: int, piece: Piece, dropout: bool) -> float:
    """What a training pass keeps for its backward pass, and one layer's again, which the backward pass makes.

    With checkpointing each layer keeps only its input, and one layer at a time is computed again.
    """
    layer, entrance = layer_activations(model, width, dropout), model.hidden_size * width
    kept = model.layers * entrance + layer if piece.checkpointing else model.layers * layer
    return piece.tokens * (kept + layer)


def layer_activations(model: ModelFacts, width: int, dropout: bool) -> float:
    """Bytes per token that one layer of Qwen3's kind keeps: the inputs of its four norms in float32; rotated queries,
    keys and values repeated for every head, attention's output and its transpose; three times the feed-forward's
    width; and what the adapters read, with dropout each its own input and the factors."""
    queries, keys = model.heads * model.head_dim, model.key_value_heads * model.head_dim
    norms = 4 * (2 * model.hidden_size + queries + keys)
    read = sum(d_in for d_in, _ in model.adapted) / model.layers
    feed_forward = feed_forward_width(model)
    everywhere = len(model.adapted) > 4 * model.layers  # the feed-forward is adapted too
    inputs = 2 * read if dropout else model.hidden_size + everywhere * (model.hidden_size + feed_forward)
    return norms + width * (5 * queries + 3 * feed_forward + inputs)


def feed_forward_width(model: ModelFacts) -> float:
    """Width of a gated feed-forward layer, from the parameters that attention leaves of a layer."""
    layer = (model.parameters - model.embedding_parameters) / model.layers
    attention = 2 * model.hidden_size * model.head_dim * (model.heads + model.key_value_heads)
    return max(0.0, layer - attention) / (3 * model.hidden_size)
