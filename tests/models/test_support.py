"""Architectures: those that are supported compute what transformers and PEFT do, the others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.generation import generate
from betastar.models.logprobs import pair_logprobs, response_logprobs
from betastar.models.peft_io import export_adapter, import_adapter
from betastar.models.sequences import Pair, Row, pair_pad, right_pad
from betastar.models.support import TOLERANCE, check_agreement, context_length, empty_model

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore::peft.utils.warning.PeftWarning",
)

LIMIT, END = 12, [*range(60, 64)]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2_SIZES = {"vocab_size": 64, "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 2}
SUPPORTED = {  # model type → its sizes beside the usual ones
    "qwen3": {"head_dim": 8, "num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "phi3": {"num_key_value_heads": 2},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": None,
}


def config_of(kind: str, **more: Any) -> Any:
    sizes = GPT2_SIZES if kind == "gpt2" else {**SIZES, **(SUPPORTED.get(kind) or {})}
    return transformers.AutoConfig.for_model(kind, **{**sizes, **more})


def random_model(config: Any, device: torch.device | str = "cpu") -> Any:
    """Large weights: distributions are peaked, and what is computed wrongly shows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return model.eval().to(device)


@torch.no_grad()
def teacher_forced(model: Any, row: Row) -> Tensor:
    """Log-probability of a response by the model's own forward pass, one row, nothing padded."""
    tokens = torch.tensor([[*row.prompt, *row.response]], device=model.device)
    logprobs = model(input_ids=tokens).logits[0].log_softmax(-1)
    start = len(row.prompt)
    return logprobs[start - 1 : -1].gather(-1, tokens[0, start:, None]).sum().cpu()


@pytest.mark.parametrize("kind", SUPPORTED)
def test_a_supported_architecture_is_what_transformers_and_peft_compute(
    kind: str,
    device: torch.device,
    random_adapters: Callable[..., Adapters],
    make_rows: Callable[..., list[Row]],
    tmp_path: Path,
) -> None:
    config = config_of(kind)
    empty_model(config, kind)
    bank = AdapterBank(random_model(config, device), "all-linear", rank=2, alpha=2)
    check_agreement(bank.model, torch.float32, kind)
    adapters = random_adapters(bank, 2)
    export_adapter(tmp_path, adapters, 1, "base", fan_in_fan_out=bank.conv1d)
    theirs: Any = peft.PeftModel.from_pretrained(random_model(config, device), tmp_path).eval()
    rows = [Row([x % 59 + 1 for x in row.prompt], [x % 59 + 1 for x in row.response]) for row in make_rows(5)]

    greedy = generate(
        bank,
        adapters,
        [[list(row.prompt) for row in rows]] * 2,
        [list(range(5))] * 2,
        end_tokens=END,
        pad=0,
        max_new_tokens=LIMIT,
        temperature=0.0,
    )[1]
    for row, ours in zip(rows, greedy, strict=True):
        tokens = torch.tensor([row.prompt], device=device)
        whole = theirs.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=LIMIT,
            eos_token_id=END,
            pad_token_id=0,
        )
        assert ours.tokens == whole[0, len(row.prompt) :].tolist()
        expected = teacher_forced(theirs, Row(row.prompt, ours.tokens))
        torch.testing.assert_close(torch.tensor(ours.logprob), expected, rtol=1e-4, atol=1e-3)

    expected = torch.stack([teacher_forced(theirs, row) for row in rows])
    with torch.no_grad(), bank.use(adapters[1:]):
        logprob = response_logprobs(bank.model, right_pad(rows, 0, bank.device))
        pairs = [Pair(row.prompt, row.response, other.response) for row, other in zip(rows, rows[::-1], strict=True)]
        packed = pair_logprobs(bank.model, pair_pad(pairs, 0, bank.device))
    torch.testing.assert_close(logprob.cpu(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(packed[:, 0].cpu(), expected, rtol=1e-4, atol=1e-3)
    rejected = [teacher_forced(theirs, Row(pair.prompt, pair.rejected)) for pair in pairs]
    torch.testing.assert_close(packed[:, 1].cpu(), torch.stack(rejected), rtol=1e-4, atol=1e-3)
    imported, _ = import_adapter(tmp_path, bank)
    assert all(torch.equal(a[0], adapters.a[name][1]) for name, a in imported.a.items())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (lambda: transformers.T5Config(), r"m: an encoder-decoder \(t5\); choose a decoder-only"),
        (lambda: transformers.CLIPConfig(), r"m: not a causal language model \(clip\); choose one that generates text"),
        (lambda: transformers.Gemma3Config(), "m: gemma3 takes more than text as input; give its language model alone"),
        (lambda: config_of("gemma2", head_dim=8), "m: gemma2 caps its logits"),
        (lambda: config_of("qwen3", quantization_config={"quant_method": "fp8"}), "m: its weights are already quanti"),
        (lambda: transformers.BloomConfig(), "m: bloom does not support scaled_dot_product_attention"),
        (lambda: transformers.MambaConfig(), "m: mamba does not support scaled_dot_product_attention"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BetastarError, match=sentence):
        empty_model(config(), "m")


@pytest.mark.parametrize(
    ("kind", "more", "sentence"),
    [
        ("cohere", {}, "m: betastar's way of running cohere gives other logits"),  # logits are scaled behind the head
        ("granite", {"logits_scaling": 8.0}, "m: betastar's way of running granite gives other logits"),
        ("bert", {"is_decoder": False}, "m: betastar's way of running bert gives other logits"),  # sees the future
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "m: lfm2 cannot be run with betastar's masks, positions"),
        ("falcon", {"alibi": True}, "m: falcon cannot be run with betastar's masks, positions"),
    ],
)
def test_an_architecture_that_computes_something_else_is_refused(
    kind: str, more: dict[str, Any], sentence: str
) -> None:
    model = random_model(config_of(kind, **more))
    with pytest.raises(BetastarError, match=sentence):
        check_agreement(model, torch.float32, "m")


def test_a_text_that_rounding_decides_is_not_held_against_the_model() -> None:
    """After tokens 1 to 3 this model is never twice the same, as one in bfloat16 may be after tokens that were never
    trained; another text shows that it is computed as it should be."""
    model = random_model(config_of("qwen3"))
    draw, texts = torch.Generator().manual_seed(0), []

    def unsteady(_module: Any, args: Any, output: Tensor) -> Tensor:
        texts.append(args[0].flatten().tolist())
        noise = torch.randn(output.shape, generator=draw)
        return output + noise * ((args[0] >= 1) & (args[0] <= 3))[..., None]

    model.get_input_embeddings().register_forward_hook(unsteady)
    check_agreement(model, torch.float32, "m")
    assert {1, 2, 3} & set(texts[0])
    assert not {1, 2, 3} & set(texts[-1])


def test_rounding_stays_below_the_tolerance() -> None:
    """A deep model in bfloat16, which rounds to 8 bits at every operation."""
    model = random_model(config_of("qwen3", num_hidden_layers=24)).bfloat16()
    check_agreement(model, torch.bfloat16, "m")
    model.model.rotary_emb.register_forward_pre_hook(  # positions that the caller gives are ignored
        lambda _module, args: (args[0], torch.arange(args[0].shape[1])[None])
    )
    with pytest.raises(BetastarError, match="gives other logits"):
        check_agreement(model, torch.bfloat16, "m")
    assert TOLERANCE[torch.float32] < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(
    ("kind", "more", "length"),
    [
        ("qwen3", {}, 48),
        ("mistral", {"sliding_window": None}, 48),
        ("mistral", {"sliding_window": 16}, 16),
        ("mistral", {"sliding_window": 4096}, 48),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, 48),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}, 16),
        ("gemma3_text", {"sliding_window": 32}, 32),
        ("gpt2", {}, 48),
    ],
)
def test_the_context_ends_with_the_positions_or_the_window(kind: str, more: dict[str, Any], length: int) -> None:
    assert context_length(config_of(kind, **more)) == length


def test_within_its_window_sliding_attention_is_ordinary() -> None:
    model = random_model(config_of("mistral", sliding_window=40))
    check_agreement(model, torch.float32, "m")
