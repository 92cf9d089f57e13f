"""Proxy rewards: the same numbers as TRL's own trainers compute, and the ensemble's spread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from betastar.errors import BetastarError
from betastar.monitor.answering import held_out
from betastar.monitor.scoring import given_proxy, trainer_proxy

TEXTS = ["good good", "1 ####", "fine 2 good"]
IDS = [[6, 6, 1], [4, 3, 1], [7, 5, 6]]
ROWS = [{"prompt": p, "answer": a, "level": i} for i, (p, a) in enumerate([("1", "x"), ("good 2", "y"), ("fine", "z")])]
CHAT_ROWS = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]


def by_columns(completions: list[Any], answer: list[str], level: list[int], **columns: Any) -> list[float | None]:
    """Reads columns of the data set, and gives the second response no reward."""
    return [None if a == "y" else 0.5 * i + len(str(c)) for a, i, c in zip(answer, level, completions, strict=True)]


async def in_a_while(prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


def logging(completions: list[Any], log_metric: Any, log_extra: Any, trainer_state: Any, **columns: Any) -> list[float]:
    log_metric("noticed", 1.0)
    log_extra("column", [1.0] * len(completions))
    return [float(trainer_state.global_step)] * len(completions)


def nothing(completions: list[Any], **columns: Any) -> list[None]:
    return [None] * len(completions)


@pytest.fixture(scope="session")
def reward_models(tokenizer: Any) -> list[Any]:
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    made = []
    for seed in range(3):
        config = Qwen3Config(
            vocab_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, initializer_range=0.3, pad_token_id=0,
        )  # fmt: skip
        config.num_labels = 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(Qwen3ForSequenceClassification(config).eval())
    return made


def by_trl(trainer: Any, rows: list[dict[str, Any]], completions: list[Any]) -> np.ndarray:
    """[K, B] by the method of TRL's trainer itself."""
    prompts = [row["prompt"] for row in rows]
    return trainer._calculate_rewards(rows, prompts, completions, IDS).T.double().numpy()


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("rows", [ROWS, CHAT_ROWS], ids=["texts", "messages"])
def test_scores_and_total_are_those_of_trl(
    make_trainer: Callable[..., Any],
    reward_models: list[Any],
    tokenizer: Any,
    kind: str,
    rows: list[dict[str, Any]],
) -> None:
    trainer = make_trainer(
        kind,
        reward_funcs=[by_columns, reward_models[0], in_a_while, logging, nothing],
        reward_weights=[1.0, 2.0, 0.25, 1.0, 1.0],
        trainer={"reward_processing_classes": [None, tokenizer, None, None, None]},
    )
    completions: list[Any] = TEXTS if rows is ROWS else [[{"role": "assistant", "content": text}] for text in TEXTS]
    outside = by_trl(trainer, rows, completions)
    trainer._pending_metrics.clear()
    trainer._pending_extra_logs.clear()
    proxy = trainer_proxy(trainer)
    with torch.no_grad():
        scores = proxy.score(held_out(rows, "answer"), completions, IDS)
    np.testing.assert_allclose(scores, outside, rtol=1e-5)
    assert np.isnan(scores[0, 1])
    weights = np.array([1.0, 2.0, 0.25, 1.0, 1.0])
    # TRL: (rewards_per_func * reward_weights).nansum over the functions
    np.testing.assert_allclose(proxy.total(scores), np.nansum(outside * weights[:, None], axis=0), rtol=1e-5)
    assert not trainer._pending_metrics, "what a function logs of held-out responses stays out of the training logs"
    assert not trainer._pending_extra_logs


def test_reward_models_alone_are_an_ensemble(
    make_trainer: Callable[..., Any], reward_models: list[Any], tokenizer: Any
) -> None:
    def proxy(functions: list[Any], **settings: Any) -> Any:
        tokenizers = [tokenizer if isinstance(f, torch.nn.Module) else None for f in functions]
        return trainer_proxy(
            make_trainer(reward_funcs=functions, trainer={"reward_processing_classes": tokenizers}, **settings)
        )

    assert proxy(reward_models).no_ensemble is None
    assert proxy(reward_models[:1]).no_ensemble == "a single reward function has no disagreement"
    assert "not an equally weighted ensemble of reward models" in proxy([*reward_models, nothing]).no_ensemble
    assert "equally weighted" in proxy(reward_models, reward_weights=[1.0, 1.0, 2.0]).no_ensemble


def test_given_functions_are_members_and_their_mean_is_the_proxy() -> None:
    seen: list[Any] = []

    def first(prompts: list[Any], completions: list[Any]) -> list[float]:
        seen.append((prompts, completions))
        return [1.0, 2.0, 3.0]

    proxy = given_proxy([first, lambda prompts, completions: [3.0, 2.0, 5.0]])
    scores = proxy.score(held_out(ROWS, "answer"), TEXTS, IDS)
    assert scores.tolist() == [[1, 2, 3], [3, 2, 5]]
    assert proxy.total(scores).tolist() == [2, 2, 4]
    assert seen == [(["1", "good 2", "fine"], TEXTS)]
    assert proxy.no_ensemble is None
    assert given_proxy(first).no_ensemble == "a single reward function has no disagreement"


def test_a_response_without_any_score_has_no_proxy_reward() -> None:
    proxy = given_proxy([lambda p, c: [None, 1.0], lambda p, c: [None, None]])
    total = proxy.total(np.array([[np.nan, 1.0], [np.nan, np.nan]]))
    assert np.isnan(total[0])
    assert total[1] == 0.5  # as TRL: what a function does not score counts nothing


def test_mistakes_are_one_sentence(make_trainer: Callable[..., Any]) -> None:
    problems = held_out([(row["prompt"], row["answer"]) for row in ROWS], "answer")
    with pytest.raises(BetastarError, match=r"by_columns fails on the held-out problems .*'level'.* are answer: give"):
        trainer_proxy(make_trainer(reward_funcs=by_columns)).score(problems, TEXTS, IDS)
    with pytest.raises(BetastarError, match=r"<lambda> returned 1 rewards for 3 completions"):
        given_proxy(lambda p, c: [1.0]).score(problems, TEXTS, IDS)
    with pytest.raises(BetastarError, match=r"proxy must be a function"):
        given_proxy([])
