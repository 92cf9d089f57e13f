"""Responses of a trainer's current policy to held-out problems, without leaving a trace in the training."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig

from betastar.disk import content_key
from betastar.errors import BetastarError
from betastar.maths.distributions import entropy

Prompt = str | list[dict[str, Any]]


class Problem(NamedTuple):
    """`prompt`: a text, or messages. `gold`: what the true reward compares with. `columns`: the whole row, which TRL
    hands to its reward functions, without the prompt."""

    prompt: Prompt
    gold: Any
    columns: dict[str, Any]


def held_out(problems: Iterable[Any], gold: str) -> list[Problem]:
    """Problems from pairs (prompt, gold answer), or from rows with `prompt` and the column named `gold`, as those of a
    `datasets.Dataset` are. Raises BetastarError for fewer than two, or a row that is neither."""
    result = [_problem(problem, gold, place) for place, problem in enumerate(problems)]
    if len(result) < 2:
        raise BetastarError(
            f"GoodhartMonitor has {len(result)} held-out problems; give at least 2, better 100 (docs/monitor.md)."
        )
    if len({isinstance(problem.prompt, str) for problem in result}) > 1:
        raise BetastarError("Some held-out prompts are texts and others are messages; give them all in one form.")
    return result


def digest(problems: list[Problem], settings: Sequence[Any]) -> str:
    """A hash of prompts, gold answers and settings of sampling, by which a resumed run knows that they are the same."""
    return content_key([[problem.prompt, repr(problem.gold)] for problem in problems], list(settings))


def _problem(given: Any, gold: str, place: int) -> Problem:
    if isinstance(given, Mapping):
        columns = dict(given)
        lacking = {"prompt", gold} - columns.keys()
    else:
        pair = isinstance(given, tuple | list) and len(given) == 2
        columns, lacking = (dict(zip(("prompt", gold), given, strict=True)), set()) if pair else ({}, {"prompt", gold})
    if lacking:
        has = f"has {', '.join(columns)}" if columns else f"is {given!r:.60}"
        raise BetastarError(
            f"Held-out problem {place} {has}; give pairs (prompt, gold answer), or rows with `prompt` and `{gold}` "
            "(gold=COLUMN names another column)."
        )
    prompt = columns.pop("prompt")
    if not isinstance(prompt, str) and not (
        isinstance(prompt, list) and prompt and all(isinstance(m, Mapping) and "role" in m for m in prompt)
    ):
        raise BetastarError(f"Held-out problem {place}: the prompt is neither a text nor a list of messages.")
    if {"image", "images"} & columns.keys():
        raise BetastarError(f"Held-out problem {place} has images; GoodhartMonitor answers text prompts only.")
    return Problem(prompt, columns[gold], columns)


class Answer(NamedTuple):
    """One response: `tokens` up to and including the first end token, which is absent where `at_limit`. `entropy`: mean
    over its tokens, nats. `log_ratio`: log π_θ − log π_ref, summed over its tokens; None without a reference."""

    tokens: list[int]
    text: str
    at_limit: bool
    entropy: float
    log_ratio: float | None


class Reference(NamedTuple):
    """`enter()` gives the reference model while the context lasts; None, with a reason, where there is none."""

    enter: Callable[[], AbstractContextManager[Any]] | None
    reason: str | None = None


def policy(trainer: Any) -> Any:
    """The model that is trained, without wrappers of distributed training."""
    return trainer.accelerator.unwrap_model(trainer.model)


def reference_of(trainer: Any) -> Reference:
    """What TRL takes for the reference policy: its `ref_model`, else the model with the adapter `ref`, or with none."""
    if getattr(trainer, "ref_model", None) is not None:
        return Reference(lambda: _same(trainer.accelerator.unwrap_model(trainer.ref_model)))
    model = policy(trainer)
    if not hasattr(model, "disable_adapter"):
        return Reference(None, "TRL keeps no reference model of a fully trained model with beta=0")
    return Reference(lambda: _adapter(model, "ref" if "ref" in model.peft_config else None))


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards modes and random states, of reward functions too, are as before."""
    modes = [(module, module.training) for module in model.modules()]
    kind = next(model.parameters()).device.type
    devices = [] if kind == "cpu" else range(getattr(torch, kind).device_count())
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices, device_type="cuda" if kind == "cpu" else kind), torch.no_grad():
            model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, training in modes:
            module.training = training


def generation_settings(trainer: Any, temperature: float | None) -> GenerationConfig:
    """How the trainer samples in training, from its arguments; another `temperature` on request, 0 for the likeliest
    token."""
    args, tokenizer = trainer.args, trainer.processing_class
    settings = {
        "max_new_tokens": args.max_completion_length,
        "do_sample": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": getattr(trainer, "eos_token_ids", [tokenizer.eos_token_id]),
        **{name: getattr(args, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
        "cache_implementation": args.cache_implementation,
        **(args.generation_kwargs or {}),
    }
    if temperature is not None:
        settings["temperature"] = temperature
    if settings["temperature"] == 0:
        settings |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "min_p": None}
    return GenerationConfig(**settings, disable_compile=True)


def tokenised(trainer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of prompts, as the trainer forms them."""
    if isinstance(prompts[0], str):
        return trainer.processing_class(text=list(prompts))["input_ids"]
    return trainer.processing_class.apply_chat_template(
        conversation=list(prompts),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        chat_template=getattr(trainer, "chat_template", None),
        **getattr(trainer, "chat_template_kwargs", {}),
    )["input_ids"]


def answer(
    trainer: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, reference: Reference, seed: int
) -> list[Answer]:
    """One response to each prompt. torch's global generators are set to `seed`, so that the same prompts and seed mean
    the same noise for every row, position and token, whatever the policy; call within `undisturbed`.

    Entropy and log-ratio are those of the distribution at the sampling temperature, as TRL's are, before top-p, top-k
    and other filters; at temperature 0 those at 1.
    """
    torch.manual_seed(seed)
    grid = _sampled(trainer, prompts, config)
    texts = trainer.processing_class.batch_decode(grid, skip_special_tokens=True)
    measured = [_measured(trainer, p, tokens, config, reference) for p, tokens in zip(prompts, grid, strict=True)]
    ends = _ends(config)
    return [
        Answer(tokens, text, tokens[-1] not in ends, *numbers)
        for tokens, text, numbers in zip(grid, texts, measured, strict=True)
    ]


def _sampled(trainer: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[list[int]]:
    longest = max(map(len, prompts))
    pad: Any = config.pad_token_id
    device = trainer.accelerator.device
    rows = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    output = policy(trainer).generate(input_ids=rows, attention_mask=mask, generation_config=config)
    return [_until_end(row, _ends(config)) for row in output[:, longest:].tolist()]


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))]


def _ends(config: GenerationConfig) -> Sequence[int]:
    ends: Any = config.eos_token_id
    return ends if isinstance(ends, Sequence) else [ends]


def _measured(
    trainer: Any, prompt: Sequence[int], tokens: list[int], config: GenerationConfig, reference: Reference
) -> tuple[float, float | None]:
    """Entropy and log-ratio of one response. One row at a time: no padding, and the logits of one row in memory."""
    temperature = config.temperature or 1.0
    now = _logprobs(trainer, policy(trainer), prompt, tokens, temperature)
    uncertainty = entropy(now).mean().item()
    if reference.enter is None:
        return uncertainty, None
    own = _chosen(now, tokens)
    with reference.enter() as model:
        ratio = own - _chosen(_logprobs(trainer, model, prompt, tokens, temperature), tokens)
    return uncertainty, ratio.sum().item()


def _logprobs(trainer: Any, model: Any, prompt: Sequence[int], tokens: list[int], temperature: float) -> torch.Tensor:
    """[T, V] log-probabilities, in float32, of every place of a response of T tokens."""
    row = torch.tensor([[*prompt, *tokens]], device=trainer.accelerator.device)
    with trainer.accelerator.autocast():
        logits = model(input_ids=row, logits_to_keep=len(tokens) + 1).logits[0, :-1]
    return (logits.float() / temperature).log_softmax(dim=-1)


def _chosen(logprobs: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    return logprobs.gather(1, torch.tensor(tokens, device=logprobs.device)[:, None])[:, 0]


@contextmanager
def _same(model: Any) -> Iterator[Any]:
    yield model


@contextmanager
def _adapter(model: Any, name: str | None) -> Iterator[Any]:
    """A PEFT model with another adapter, or with none."""
    if name is None:
        with model.disable_adapter():
            yield model
        return
    before = model.active_adapter
    model.set_adapter(name)
    try:
        yield model
    finally:
        model.set_adapter(before)
