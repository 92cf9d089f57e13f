"""A decoding step whose shapes do not change from token to token: on a GPU a graph that is replayed."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.cache import RoomyLayer, roomy_cache
from betastar.models.decoding import Columns, Replayed, columns_ahead, lean_layers, rounded_up, seeing
from betastar.models.logprobs import backbone
from betastar.models.prefill import read
from betastar.models.probes import probe_tokens
from betastar.models.rows import Rows, left_pad
from betastar.models.sampler import Sampler
from betastar.models.support import TOLERANCE, context_length

log = logging.getLogger(__name__)

FIXED_SHAPES: bool | None = None  # whether steps have fixed shapes; None: on a GPU, where they are replayed as a graph


class FixedShape:
    """Reads one more token of every row, again and again, with the same shapes and in the same places: into the first
    `seen` columns of the cache, of which what is not written yet is hidden. No row that goes on has more than `longest`
    tokens; positions stop there, whatever a row that has ended is given."""

    def __init__(self, bank: AdapterBank, active: Adapters | None, cache: Cache, rows: Rows, longest: int):
        self.bank, self.active, self.cache, self.rows, self.longest = bank, active, cache, rows, longest
        self.filled = cache.get_seq_length()
        self.seen = columns_ahead(self.filled, rows.bias.shape[1])
        self.column = torch.tensor([self.filled], device=bank.device)
        self.bias = rows.bias[:, : self.seen].clone()
        self.bias[:, self.filled :] = torch.finfo(self.bias.dtype).min / 2

    def read(self, tokens: Tensor) -> Tensor:
        """The states `[R, d]` after `tokens [R, 1]`. Only what is on the device counts its columns: see `forward`."""
        self.bias.index_fill_(1, self.column, 0.0)
        for layer in self._layers():
            layer.column, layer.seen = self.column, self.seen
        try:
            with self.bank.use(self.active), seeing(Columns(self.rows.start, self.column)):
                states = backbone(self.bank.model)(
                    input_ids=tokens,
                    attention_mask=self.bias[:, None, None],
                    position_ids=(self.column - self.rows.start).clamp(max=self.longest - 1)[:, None],
                    past_key_values=self.cache,
                    use_cache=True,
                )
        finally:
            for layer in self._layers():
                layer.column = None
        self.column += 1
        return states.last_hidden_state[:, -1]

    def forward(self) -> bool:
        """Count a column here, too; whether there is another."""
        self.filled += 1
        for layer in self._layers():
            layer.length = self.filled
        return self.filled < self.seen

    def _layers(self) -> list[RoomyLayer]:
        return self.cache.layers  # type: ignore[return-value]


class Repeated:
    """A step of fixed shape for every row: `tokens [R, 1]`, those that were drawn last, and `rows.live` change in
    place. Where there are graphs it is a replay. Layers are lean until it is closed."""

    def __init__(self, shape: FixedShape, sampler: Sampler, tokens: Tensor, step: int):
        self.shape, self.sampler, self.tokens = shape, sampler, tokens
        self.step = torch.tensor([step], device=tokens.device)
        self.replayed = Replayed(self._work, tokens.device)
        self.lean = ExitStack()
        self.lean.enter_context(lean_layers(shape.bank))

    def close(self) -> None:
        with self.lean:
            if self.step.is_cuda:
                torch.cuda.synchronize()
            self.replayed.close()

    def __call__(self) -> bool:
        """Draw a token for every row; whether it may be called again."""
        self.replayed()
        return self.shape.forward()

    def _work(self) -> None:
        rows = self.shape.rows
        tokens, after = self.sampler(self.shape.read(self.tokens), rows, self.step)
        self.tokens.copy_(tokens)
        rows.live.copy_(after.live)
        self.step += 1


def shapes_may_be_fixed(bank: AdapterBank, tokens: int) -> bool:
    """Whether steps can be repeated as they are, for rows of up to so many tokens: wanted here, within the model's
    context (whose guard counts columns, which a replayed graph does not), and computing what the model does otherwise.
    """
    wanted = bank.device.type == "cuda" and not bank.plain_decoding if FIXED_SHAPES is None else FIXED_SHAPES
    if not wanted:
        return False
    context = context_length(bank.model.config)
    if context is not None and tokens > context:
        return False
    if bank.model not in REPEATABLE:
        REPEATABLE[bank.model] = is_repeatable(bank)
        if not REPEATABLE[bank.model]:
            log.warning("%s is decoded without CUDA graphs, which is slower", bank.model.config.model_type)
    return REPEATABLE[bank.model]


REPEATABLE: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # whether a model's steps can have fixed shapes


def is_repeatable(bank: AdapterBank) -> bool:
    """Whether reading with a fixed shape gives the states that reading with a growing one gives: an architecture might
    count its tokens in ways of its own. The median of several texts decides: a mistake shows in most, rounding that
    decides everything in few."""
    model = bank.model
    lengths = range(3, 10)
    texts = [text.tolist() for text in probe_tokens(model, sum(lengths)).split(list(lengths))]
    tokens, rows = left_pad(texts, lengths, 0, rounded_up(max(lengths) + 1), model.dtype, bank.device)

    def state(fixed: bool) -> Tensor:
        cache = roomy_cache(model.config.get_text_config().num_hidden_layers, rows.bias.shape[1], blank=True)
        with bank.use(None):
            read(model, cache, tokens[:, :-1], rows)
            if not fixed:
                return read(model, cache, tokens[:, -1:], rows).float()
        with lean_layers(bank):
            return FixedShape(bank, None, cache, rows, max(lengths)).read(tokens[:, -1:]).float()

    try:
        growing, repeated = state(fixed=False), state(fixed=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever an unknown architecture does with what it does not expect
        log.info("no steps of fixed shape for %s: %s", model.config.model_type, error)
        return False
    most = TOLERANCE[torch.bfloat16 if getattr(model, "is_quantized", False) else model.dtype]
    return bool(((repeated - growing).norm(dim=1) / growing.norm(dim=1)).median() <= most)
