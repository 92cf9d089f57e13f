"""Which columns are taken for what: the names that real trainers log, and the sentences where they leave it open."""

from __future__ import annotations

from typing import Any

import pytest

from betastar.analysis.logs.columns import choose, field_name, step_columns
from betastar.errors import BetastarError

TRL = [
    *("loss", "grad_norm", "learning_rate", "num_tokens", "step", "epoch", "step_time"),
    *("completions/mean_length", "completions/min_length", "completions/max_length", "completions/clipped_ratio"),
    *("rewards/rm/mean", "rewards/rm/std", "rewards/accuracy_reward/mean", "rewards/accuracy_reward/std"),
    *("reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "clip_ratio/low_mean"),
]
VERL = [
    *("step", "global_seqlen/min", "actor/entropy", "actor/kl_loss", "actor/pg_loss", "actor/ppo_kl"),
    *("critic/score/mean", "critic/score/max", "critic/rewards/mean", "critic/rewards/min", "critic/advantages/mean"),
    *("response_length/mean", "response_length/max", "response_length/clip_ratio", "prompt_length/mean"),
    *("val-core/openai/gsm8k/acc/mean@1", "val-aux/openai/gsm8k/reward/mean@1", "training/global_step"),
]
OPENRLHF = [
    *("policy_loss", "reward", "return", "response_length", "total_length", "kl", "actor_lr", "step"),
    *("eval_gsm8k_pass4", "eval_gsm8k_pass1"),
]


def test_trl_with_a_reward_model() -> None:
    found = choose(TRL, {}, "run").columns
    assert found == {
        "proxy": "rewards/rm/mean",
        "true_strict": "rewards/accuracy_reward/mean",
        "proxy_std": "rewards/rm/std",
        "true_std": "rewards/accuracy_reward/std",
        "kl": "kl",
        "response_entropy": "entropy",
        "response_tokens": "completions/mean_length",
        "at_limit": "completions/clipped_ratio",
    }


def test_of_trl_the_evaluation_is_preferred_where_both_rewards_have_one() -> None:
    evaluated = [f"eval_{name}" for name in TRL if name not in ("step", "epoch")]
    found = choose(TRL + evaluated, {}, "run").columns
    assert all(column.startswith("eval_") for column in found.values())
    # TensorBoard's names for the same.
    board = [f"train/{name}" for name in TRL] + [name.replace("eval_", "eval/", 1) for name in evaluated]
    assert choose(board, {}, "run").columns["proxy"] == "eval/rewards/rm/mean"
    # The truth only in training batches: then the proxy of the same batches.
    found = choose([*TRL, "eval_rewards/rm/mean", "eval_reward"], {}, "run").columns
    assert (found["proxy"], found["true_strict"]) == ("rewards/rm/mean", "rewards/accuracy_reward/mean")


def test_trl_without_a_reward_model_optimises_the_total() -> None:
    names = [name.replace("rewards/rm", "rewards/length") for name in TRL]
    found = choose(names, {}, "run").columns
    assert (found["proxy"], found["proxy_std"]) == ("reward", "reward_std")


def test_trl_before_it_logged_means_of_functions() -> None:
    names = ["step", "reward", "reward_std", "rewards/accuracy_reward", "rewards/reward_model_score", "kl"]
    found = choose(names, {}, "run").columns
    assert found == {"proxy": "rewards/reward_model_score", "true_strict": "rewards/accuracy_reward", "kl": "kl"}


def test_verl() -> None:
    found = choose(VERL, {}, "run").columns
    assert found == {
        "proxy": "critic/score/mean",
        "true_strict": "val-core/openai/gsm8k/acc/mean@1",
        "kl": "actor/kl_loss",
        "response_entropy": "actor/entropy",
        "response_tokens": "response_length/mean",
        "at_limit": "response_length/clip_ratio",
    }
    older = [*VERL[:-3], "val/test_score/openai/gsm8k"]
    assert choose(older, {}, "run").columns["true_strict"] == "val/test_score/openai/gsm8k"


@pytest.mark.parametrize("prefixed", [False, True])
def test_openrlhf(prefixed: bool) -> None:
    """With TensorBoard and Weights & Biases it writes train/ and eval/ before the same names."""
    names = [f"eval/{n}" if n.startswith("eval") else f"train/{n}" for n in OPENRLHF] if prefixed else OPENRLHF
    found = {field: column.split("/")[-1] for field, column in choose(names, {}, "run").columns.items()}
    assert found == {
        "proxy": "reward",
        "true_strict": "eval_gsm8k_pass1",
        "kl": "kl",
        "response_tokens": "response_length",
    }


def test_our_own_metrics() -> None:
    names = ["step", "n", "proxy", "proxy_std", "disagreement", "correct_strict", "true_strict", "true_lenient", "kl"]
    assert choose(names, {}, "run").columns == {name: name for name in names if name != "step"}


@pytest.mark.parametrize("prefix", ["goodhart/", "train/goodhart/"])
def test_what_our_monitor_adds_to_a_trainers_logs_is_preferred(prefix: str) -> None:
    mine = ["true", "proxy", "proxy_std", "kl", "n", "at_limit", "response_entropy"]
    found = choose([*TRL, *(f"eval_{name}" for name in TRL), *(f"{prefix}{name}" for name in mine)], {}, "run").columns
    assert {column for field, column in found.items() if field != "response_tokens"} == {f"{prefix}{n}" for n in mine}
    assert found["response_tokens"] == "eval_completions/mean_length"  # the monitor's is not there: of evaluation, then


@pytest.mark.parametrize(
    ("names", "proxy", "true"),
    [
        (["rm_score", "gsm8k_acc"], "rm_score", "gsm8k_acc"),
        (["proxy_reward", "gold_reward"], "proxy_reward", "gold_reward"),
        (["mean_reward", "accuracy", "eval_mean_token_accuracy"], "mean_reward", "accuracy"),
        (["objective/scores", "objective/rlhf_reward", "pass_rate"], "objective/scores", "pass_rate"),
    ],
)
def test_plain_names(names: list[str], proxy: str, true: str) -> None:
    found = choose(names, {}, "run").columns
    assert (found["proxy"], found["true_strict"]) == (proxy, true)


def test_what_is_told_wins_and_sets_the_phase() -> None:
    names = [*TRL, *(f"eval_{name}" for name in TRL)]
    told = {"proxy": "rewards/rm/mean", "disagreement": "grad_norm"}
    found = choose(names, told, "run").columns
    assert found["proxy"] == "rewards/rm/mean"
    assert found["true_strict"] == "rewards/accuracy_reward/mean"  # not eval_…: the told proxy is of training
    assert found["disagreement"] == "grad_norm"


@pytest.mark.parametrize(
    ("names", "told", "said"),
    [
        (["step", "acc"], {}, r"no column is recognised as the proxy reward; .*Numeric columns: step, acc\."),
        (
            ["reward", "math_acc", "code_acc"],
            {},
            r"math_acc, code_acc could each be the true reward; name it with true=",
        ),
        (["a_score", "b_score", "acc"], {}, r"a_score, b_score could each be the proxy reward; name it with proxy="),
        (["reward", "acc"], {"kl": "akc"}, r"run: there is no numeric column 'akc' for kl; did you mean acc\?"),
        (["reward", "acc"], {"kl": "zzz"}, r"no numeric column 'zzz' for kl; numeric columns: reward, acc\."),
        ([f"c{i}" for i in range(50)], {}, r"c39 and 10 more"),
    ],
)
def test_what_is_open_is_said(names: list[str], told: dict[str, str], said: str) -> None:
    with pytest.raises(BetastarError, match=said):
        choose(names, told, "run")


def test_one_column_is_never_both_rewards() -> None:
    with pytest.raises(BetastarError, match="proxy"):
        choose(["step", "true_reward"], {}, "run")
    with pytest.raises(BetastarError, match="is both the proxy and the true reward"):
        choose(["accuracy", "step"], {"proxy": "accuracy", "true_strict": "accuracy"}, "run")


def test_a_log_may_have_no_truth() -> None:
    assert choose(["step", "reward", "reward_std", "kl"], {}, "run").columns == {
        "proxy": "reward",
        "proxy_std": "reward_std",
        "kl": "kl",
    }


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["epoch", "step", "_step"], ["step"]),
        (["train/global_step", "eval/global_step", "_step"], ["train/global_step", "eval/global_step"]),
        (["Step", "reward"], ["Step"]),
        (["epoch", "reward"], []),
    ],
)
def test_steps(names: list[str], found: list[str]) -> None:
    assert step_columns(names) == found


def test_fields_have_plain_names() -> None:
    said: Any = {name: field_name(name) for name in ("true", "uncertainty", "entropy", "length", "kl")}
    assert list(said.values()) == ["true_strict", "disagreement", "response_entropy", "response_tokens", "kl"]
    with pytest.raises(BetastarError, match=r"'loss' is not a field of an analysis; use one of .*uncertainty"):
        field_name("loss")
