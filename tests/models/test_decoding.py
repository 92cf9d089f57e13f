"""Steps of fixed shape: the tokens and the numbers of steps that grow, whatever ends and is dropped meanwhile; their
attention against the textbook's; and what happens where a GPU cannot record them. On a CPU every part runs but the
recording, which is stood in for."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.sampled import assert_same, model_of, sampled
from torch import nn
from transformers import GemmaConfig, LlamaConfig, Qwen3Config

from betastar.errors import BetastarError
from betastar.models import batch, decoding, repeated
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.decoding import (
    Replayed,
    columns_ahead,
    grouped_attention,
    lean_layers,
    unpacked_weights,
)
from betastar.models.loading import load_base
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.models.sequences import Row
from betastar.models.support import guard_context
from betastar.settings.sections import Geometry, PretrainedBase

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*gradient_checkpointing:FutureWarning"
)

SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 2,
}  # fmt: skip


@pytest.fixture
def prompts(make_rows: Callable[..., list[Row]]) -> list[list[list[int]]]:
    """`[3][7]`: ragged, and different for every condition."""
    return [[list(row.prompt) for row in make_rows(7, seed)] for seed in range(3)]


@pytest.mark.parametrize("kind", [Qwen3Config, LlamaConfig, GemmaConfig])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_the_tokens_and_numbers_are_those_of_growing_steps(
    kind: Any,
    temperature: float,
    device: torch.device,
    random_adapters: Callable[..., Adapters],
    prompts: list[list[list[int]]],
) -> None:
    """Two heads to a key-value head; three adapters, ragged prompts, rows that end."""
    bank = AdapterBank(model_of(kind(**SHAPE), device), "attention", rank=4, alpha=6)
    adapters = random_adapters(bank, 3)
    growing = sampled(bank, adapters, prompts, fixed=False, temperature=temperature)
    assert_same(sampled(bank, adapters, prompts, fixed=True, temperature=temperature), growing)
    lengths = {len(r.tokens) for group in growing for r in group}
    assert len(lengths) > 4
    assert repeated.REPEATABLE[bank.model]


@pytest.mark.parametrize("compact_below", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("look_every", [1, 3])
def test_what_is_dropped_and_where_a_width_ends_change_nothing(
    bank: AdapterBank,
    adapters: Adapters,
    prompts: list[list[list[int]]],
    narrow: None,
    monkeypatch: pytest.MonkeyPatch,
    compact_below: float,
    look_every: int,
) -> None:
    """Rows and whole conditions leave, and the step is made anew for them and for every few columns."""
    shapes: list[tuple[int, int]] = []
    made = repeated.FixedShape.__init__

    def noted(self: Any, bank: Any, active: Any, cache: Any, rows: Any, longest: int) -> None:
        made(self, bank, active, cache, rows, longest)
        shapes.append((len(rows.start), self.seen))

    prompts[1] = [[3, 1] for _ in prompts[1]]
    growing = sampled(bank, adapters, prompts, fixed=False)
    repeated.REPEATABLE[bank.model] = repeated.is_repeatable(bank)  # now, so that its shapes are not noted
    monkeypatch.setattr(repeated.FixedShape, "__init__", noted)
    for name in ("LOOK_EVERY", "LOOK_EVERY_ON_GPU"):
        monkeypatch.setattr(batch, name, look_every)
    monkeypatch.setattr(batch, "COMPACT_BELOW_FIXED", compact_below)
    assert_same(sampled(bank, adapters, prompts, fixed=True), growing)
    assert len({columns for _, columns in shapes}) > 2
    assert (len({rows for rows, _ in shapes}) > 1) == (compact_below > 0)


def test_the_bare_base_and_a_few_tokens(bank: AdapterBank, prompts: list[list[list[int]]]) -> None:
    for new in (1, 2, 3):
        growing = sampled(bank, None, prompts[:1], fixed=False, max_new_tokens=new, end_tokens=[])
        assert_same(sampled(bank, None, prompts[:1], fixed=True, max_new_tokens=new, end_tokens=[]), growing)


def test_columns_ahead_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter thousand more, or half as many again, in blocks of 64 (2000 + 1000 = 3000 → 3008), within the room."""
    assert [columns_ahead(filled, 10_000) for filled in (1, 300, 1000, 2000)] == [320, 576, 1536, 3008]
    assert columns_ahead(300, 384) == 384


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [1, 2, 6])
def test_attention_is_the_textbooks(dtype: torch.dtype, shared: int, device: torch.device) -> None:
    """softmax(q kᵀ / √d + bias) v in float32, head by head, of which 6 / shared read the same keys; a row's hidden
    columns hold large numbers. The scale is that one unless another is given."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, n, t, 8, generator=draw).to(dtype) for n, t in ((6, 1), (shared, 9), (shared, 9))
    )
    hidden = torch.arange(9) < torch.tensor([0, 4, 8])[:, None]
    key, value = (states.masked_fill(hidden[:, None, :, None], 1e4) for states in (key, value))
    bias = torch.zeros(3, 9, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min / 2)
    cache = torch.zeros(2, 3, shared, 13, 8, dtype=dtype, device=device)  # what is read is a part of it
    cache[..., :9, :] = torch.stack([key, value])
    given = (query.to(device), cache[0, ..., :9, :], cache[1, ..., :9, :], bias[:, None, None].to(device))
    output, none = grouped_attention(nn.Module(), *given, scaling=8**-0.5)
    assert none is None
    assert output.shape == (3, 1, 6, 8)
    assert output.dtype == dtype
    assert torch.equal(output, grouped_attention(nn.Module(), *given)[0])
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for row in range(3):
        for head in range(6):
            k, v = (states[row, head // (6 // shared)].float() for states in (key, value))
            weights = (k @ query[row, head, 0].float() * 8**-0.5 + bias[row]).softmax(-1)
            expected = weights @ v
            torch.testing.assert_close(output[row, 0, head].cpu().float(), expected, rtol=tolerance, atol=tolerance)


def test_lean_layers_leave_no_trace_and_know_what_they_replace(device: torch.device) -> None:
    """Qwen3's norms are replaced, Gemma's, which multiply by 1 + weight, are not; afterwards all is as it was."""
    for config, replaced in ((Qwen3Config(**SHAPE), True), (GemmaConfig(**SHAPE), False)):
        bank = AdapterBank(model_of(config, device), "attention", rank=4, alpha=6)
        model = bank.model
        tokens = torch.tensor([[5, 6, 7]], device=device)
        with torch.no_grad():
            before, own = model(tokens).logits, {m: vars(m).get("forward") for m in model.modules()}
            with lean_layers(bank):
                norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
                assert norms
                assert all(("forward" in vars(m)) == replaced for m in norms)
                assert model.config._attn_implementation == decoding.ATTENTION
            assert model.config._attn_implementation == "sdpa"
            assert {m: vars(m).get("forward") for m in model.modules()} == own
            assert torch.equal(model(tokens).logits, before)


def test_an_architecture_that_counts_tokens_itself_takes_growing_steps(
    bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]], caplog: pytest.LogCaptureFixture
) -> None:
    """A layer that adds the length of the cache: what a replay would never see change."""
    growing_only = sampled(bank, adapters, prompts, fixed=False)

    def counts(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if cache is not None:
            output.last_hidden_state += 0.3 * cache.get_seq_length()
        return output

    hook = bank.model.base_model.register_forward_hook(counts, with_kwargs=True)
    with caplog.at_level(logging.WARNING):
        counted = sampled(bank, adapters, prompts, fixed=True)
    assert "qwen3 is decoded without CUDA graphs" in caplog.text
    assert_same(counted, sampled(bank, adapters, prompts, fixed=False))
    hook.remove()
    assert [r.tokens for g in counted for r in g] != [r.tokens for g in growing_only for r in g]


def test_a_text_that_rounding_decides_is_not_held_against_the_model(bank: AdapterBank) -> None:
    """After tokens 1 to 3 this model is never twice the same, as one in bfloat16 may be after tokens that were never
    trained; the other texts show that its steps can be repeated."""
    draw = torch.Generator().manual_seed(0)

    def unsteady(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(output.shape, generator=draw).to(output)
        return output + noise * ((args[0] >= 1) & (args[0] <= 3))[..., None]

    bank.model.get_input_embeddings().register_forward_hook(unsteady)
    assert repeated.is_repeatable(bank)


def test_a_context_that_is_too_short_is_still_refused(
    make_model: Callable[[], Any], random_adapters: Callable[..., Adapters]
) -> None:
    bank = AdapterBank(make_model(), "attention", rank=4, alpha=6)
    guard_context(bank.model, 128, "model")
    prompt = [[[5] * 120]]
    sampled(bank, None, prompt, fixed=True, max_new_tokens=8, end_tokens=[])
    with pytest.raises(BetastarError, match=r"model: a sequence of 129 tokens does not fit in the model's context of"):
        sampled(bank, None, prompt, fixed=True, max_new_tokens=10, end_tokens=[])


def test_unpacked_weights_compute_what_4_bit_layers_do(tmp_path: Path, device: torch.device) -> None:
    pytest.importorskip("bitsandbytes")
    shape = Geometry(hidden_size=64, intermediate_size=128, layers=2, heads=4, key_value_heads=2, context=64)
    tokenizer = build_byte_tokenizer()
    build_model(shape, len(tokenizer), root_seed=0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    choice = PretrainedBase(source="pretrained", model=str(tmp_path), quantization="nf4", dtype="float32")
    model = load_base(choice, device).model
    tokens = torch.arange(3, 11, device=device)[None]
    with torch.no_grad():
        packed = model(tokens).logits
        with unpacked_weights(model, 0) as done:
            assert done
            torch.testing.assert_close(model(tokens).logits, packed, rtol=1e-5, atol=1e-5)
        assert not any("forward" in vars(m) for m in model.modules() if type(m).__name__ == "Linear4bit")


def test_weights_that_do_not_fit_stay_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Linear4bit(nn.Module):
        in_features, out_features, compute_dtype = 10, 20, torch.bfloat16
        weight = torch.zeros(100, dtype=torch.uint8)

    model = nn.Sequential(Linear4bit())
    monkeypatch.setattr(decoding, "_free", lambda device: 400 + 999 + decoding.RESERVE)
    with unpacked_weights(model, 1000) as done:  # 400 bytes of weights, and one byte too few
        assert not done
    with unpacked_weights(nn.Sequential(nn.Linear(2, 2)), 0) as done:  # nothing to unpack
        assert not done


class Recorder:
    """torch.cuda's graphs, stood in for: work that is recorded is kept, and not done before the replay."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception | None = None):
        self.recorded = self.replayed = 0
        self.stream = "usual"
        recorder = self

        class Graph:
            def replay(self) -> None:
                recorder.replayed += 1

        class Recording:
            def __init__(self, graph: Graph, capture_error_mode: str):
                assert capture_error_mode == "thread_local"

            def __enter__(self) -> None:
                recorder.recorded += 1
                recorder.stream = recorder.draws.state = "recording"
                if error is not None:
                    raise error

            def __exit__(self, *_: object) -> None:
                recorder.stream = recorder.draws.state = "usual"

        class Draws:
            """The global generator, which a recording puts into a state of its own."""

            def __init__(self, state: str = "usual"):
                self.state = state

            def clone_state(self) -> Draws:
                return Draws(self.state)

            def graphsafe_set_state(self, other: Draws) -> None:
                self.state = other.state

        self.draws = Draws()
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "default_generators", (self.draws,))
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "graph", Recording)
        patch.setattr(torch.cuda, "current_stream", lambda: "usual")
        patch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "stream", stream))
        patch.setattr(Replayed, "failed", False)


def test_work_is_computed_once_then_recorded_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, calls = Recorder(monkeypatch), []
    replayed = Replayed(lambda: calls.append(recorder.stream), torch.device("cuda"))
    for _ in range(4):
        replayed()
    assert calls == ["usual", "recording"]
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    on_cpu = Replayed(lambda: calls.append("cpu"), torch.device("cpu"))
    on_cpu()
    on_cpu()
    assert calls[2:] == ["cpu", "cpu"]


def test_graphs_go_when_they_are_no_longer_needed_and_no_garbage_is_collected_meanwhile(
    bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]], narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several widths, hence several recordings: none may meet the end of an earlier graph."""
    Recorder(monkeypatch)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    own = Replayed.__init__

    def on_a_gpu(self: Replayed, work: Callable[[], None], device: torch.device) -> None:
        def checked() -> None:
            if self.computed and self.graph is None:
                assert not gc.isenabled()
                assert len(alive) <= 1  # the one that is being recorded
            work()

        own(self, checked, device)
        self.may_record = True

    class Graph:
        def __init__(self) -> None:
            alive.add(self)
            self.done = True  # what is recorded here is computed, too

        def replay(self) -> None:
            work = made[-1].work
            if not self.done:
                work()
            self.done = False

    made: list[Replayed] = []
    monkeypatch.setattr(Replayed, "__init__", lambda self, *given: (on_a_gpu(self, *given), made.append(self))[0])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    sampled(bank, adapters, prompts, fixed=True, end_tokens=[])
    assert len(made) > 2
    assert not alive
    assert gc.isenabled()


def test_what_cannot_be_recorded_is_computed_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, calls = Recorder(monkeypatch, RuntimeError("operation not permitted when stream is capturing\nmore")), []
    for _ in range(2):
        replayed = Replayed(lambda: calls.append(recorder.stream), torch.device("cuda"))
        for _ in range(3):
            replayed()
    assert calls == ["usual"] * 6
    assert recorder.recorded == 1
    assert recorder.draws.state == "usual"  # else whatever draws from it next is refused
    (line,) = caplog.messages
    assert line == (
        "decoding goes on without CUDA graphs, which is slower (operation not permitted when stream is capturing)"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_after_a_recording_that_fails_numbers_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replayed, "failed", False)
    there = torch.ones(3, device="cuda")
    replayed = Replayed(lambda: print(there.sum().item()), there.device)  # waits for the GPU, which is not allowed
    for _ in range(3):
        replayed()
    assert replayed.graph is None
    assert there.normal_().isfinite().all()


def test_memory_that_runs_out_while_recording_is_said_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recording's own end fails in turn, with an error that says nothing of memory."""
    second = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    second.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    recorder = Recorder(monkeypatch, second)
    replayed = Replayed(lambda: None, torch.device("cuda"))
    replayed()
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        replayed()
    assert recorder.stream == "usual"
    assert not Replayed.failed


def test_the_setting_for_plain_decoding_is_heeded(bank: AdapterBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdapterBank, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(repeated, "is_repeatable", lambda bank: True)
    assert repeated.shapes_may_be_fixed(bank, 100)
    assert not repeated.shapes_may_be_fixed(bank, 200)  # its context is 128
    bank.plain_decoding = True
    assert not repeated.shapes_may_be_fixed(bank, 100)
