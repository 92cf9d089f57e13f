"""Responses and what is measured of them, held against TRL's own methods; and that nothing is left behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monitor.small import pairs

from betastar.monitor.answering import answer, generation_settings, policy, reference_of, tokenised, undisturbed

PROMPTS = [prompt for prompt, _ in pairs(6)]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].tolist()


SETTINGS = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.1}


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("settings", [{}, {**SETTINGS, "generation_kwargs": {"no_repeat_ngram_size": 4}}])
def test_generation_settings_are_trls(make_trainer: Callable[..., Any], kind: str, settings: dict[str, Any]) -> None:
    trainer = make_trainer(kind, **settings)
    ours, theirs = generation_settings(trainer, None).to_dict(), trainer.generation_config.to_dict()
    assert ours == theirs


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("prompts", [PROMPTS, CHATS], ids=["texts", "messages"])
def test_prompts_are_read_as_trl_reads_them(make_trainer: Callable[..., Any], kind: str, prompts: Any) -> None:
    trainer = make_trainer(kind)
    assert tokenised(trainer, prompts) == trainer._tokenize_prompts(prompts)[0]


def test_responses_are_those_that_trl_samples_with_the_same_seed(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(**SETTINGS)
    ids = tokenised(trainer, PROMPTS)
    with undisturbed(policy(trainer)):
        ours = answer(trainer, ids, generation_settings(trainer, None), reference_of(trainer), seed=3)
        torch.manual_seed(3)
        theirs, _ = trainer._generate_single_turn(ids, None, {}, 1)
    assert [a.tokens for a in ours] == theirs
    ends = {trainer.processing_class.eos_token_id}
    assert [a.at_limit for a in ours] == [len(t) == 12 and t[-1] not in ends for t in theirs]
    assert [a.text for a in ours] == trainer.processing_class.batch_decode(theirs, skip_special_tokens=True)


@pytest.mark.parametrize("settings", [{"lora": 0.0, "beta": 0.1}, {"beta": 0.1, "temperature": 0.7}, {"lora": 0.0}])
def test_entropy_and_log_ratio_are_trls(
    make_trainer: Callable[..., Any], model_folder: str, settings: dict[str, Any]
) -> None:
    """TRL's log-probabilities and entropies of the same tokens, by its fused head; the reference is the start."""
    trainer = make_trainer(**settings)
    model = policy(trainer)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "norm" not in name:
                weight += 0.3 * torch.randn(weight.shape, generator=rng)
    ids = tokenised(trainer, PROMPTS)
    with undisturbed(model):
        ours = answer(trainer, ids, generation_settings(trainer, None), reference_of(trainer), seed=1)
        for prompt, found in zip(ids, ours, strict=True):
            row = torch.tensor([[*prompt, *found.tokens]])
            shape = (row, torch.ones_like(row), len(found.tokens))
            now, entropy, _ = trainer._get_per_token_logps_and_entropies(model, *shape, compute_entropy=True)
            if trainer.ref_model is not None:
                before, *_ = trainer._get_per_token_logps_and_entropies(trainer.ref_model, *shape)
            else:
                with model.disable_adapter():
                    before, *_ = trainer._get_per_token_logps_and_entropies(model, *shape)
            assert found.entropy == pytest.approx(entropy.mean().item(), rel=1e-4)
            assert found.log_ratio == pytest.approx((now - before).sum().item(), rel=1e-3, abs=1e-4)
    assert max(abs(a.log_ratio or 0) for a in ours) > 0.1, "the policy has moved, or this compares zeros"


def test_without_a_reference_there_is_a_reason_and_no_number(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(beta=0.0)
    reference = reference_of(trainer)
    assert reference.enter is None
    assert reference.reason == "TRL keeps no reference model of a fully trained model with beta=0"
    with undisturbed(policy(trainer)):
        found = answer(trainer, tokenised(trainer, PROMPTS), generation_settings(trainer, 0), reference, seed=0)
    assert {a.log_ratio for a in found} == {None}


def test_a_pretrained_adapter_is_held_against_its_copy(make_trainer: Callable[..., Any], model_folder: str) -> None:
    """A PEFT model with a trained adapter: TRL copies it as `ref`, and the start differs from that by nothing."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        trained = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config)
    trainer = make_trainer(beta=0.1, model=trained)
    gradients = [name for name, weight in trained.named_parameters() if weight.requires_grad]
    with undisturbed(trained):
        found = answer(
            trainer, tokenised(trainer, PROMPTS), generation_settings(trainer, None), reference_of(trainer), seed=0
        )
    assert [a.log_ratio for a in found] == pytest.approx([0.0] * 6, abs=1e-5)
    assert trained.active_adapter == "default"
    assert [name for name, weight in trained.named_parameters() if weight.requires_grad] == gradients


def test_the_same_seed_is_the_same_noise_for_a_row_whatever_the_others_say(make_trainer: Callable[..., Any]) -> None:
    """Common random numbers: at a token that one row ends with, the others go on as they would have."""
    trainer = make_trainer()
    ids, config, reference = tokenised(trainer, PROMPTS), generation_settings(trainer, None), reference_of(trainer)
    other = [*ids[:-1], ids[0]]
    with undisturbed(policy(trainer)):
        first, again, changed = (
            [[a.tokens for a in answer(trainer, rows, config, reference, seed)] for seed in range(4)]
            for rows in (ids, ids, other)
        )
    assert first == again
    assert first[0] != first[1]
    assert [rows[:-1] for rows in first] == [rows[:-1] for rows in changed]
    assert [rows[-1] for rows in first] != [rows[-1] for rows in changed]


def test_temperature_zero_is_greedy(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(lora=0.0)
    config, model = generation_settings(trainer, 0), policy(trainer)
    prompt = tokenised(trainer, PROMPTS)[2]
    with undisturbed(model):
        (found,) = answer(trainer, [prompt], config, reference_of(trainer), seed=0)
        row = list(prompt)
        for token in found.tokens:
            assert model(input_ids=torch.tensor([row])).logits[0, -1].argmax().item() == token
            row.append(token)


def test_nothing_is_left_behind(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(lora=0.1)
    model = policy(trainer).train()
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.Linear)).eval()
    before = torch.get_rng_state(), random.getstate(), numpy_state()
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        answer(trainer, tokenised(trainer, PROMPTS), generation_settings(trainer, None), reference_of(trainer), seed=0)
        random.random()
        np.random.rand()  # noqa: NPY002
    after = torch.get_rng_state(), random.getstate(), numpy_state()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert not frozen.training
    assert sum(not module.training for module in model.modules()) == 1
    assert torch.is_grad_enabled()
