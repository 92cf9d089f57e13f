"""Tokens of every stage, worked by hand."""

from __future__ import annotations

from betastar.models.support import ModelFacts
from betastar.planning.derive import Facts
from betastar.planning.memory import Stage, Tokens, counts, stages
from betastar.settings.config import Resolved, load_config

MODEL = ModelFacts(64, 2, 2, 1, 32, 128, 10**6, 10**4, ((64, 64),) * 8, None)
FACTS = Facts(MODEL, MODEL, 80, 10, 20, 30, 16.0)  # 80 pairs of the 80/10/10 split; a pair has 10 + 20 + 20 tokens


def test_conditions_are_counted() -> None:
    micro = counts(load_config("micro"))
    assert micro == (5, 15, 25, 50, 50)  # 5 seeds with 3 members and no judge; 5 β × 5 seeds; 2 variants
    # one ensemble for the run, a judge beside 3 members; 3 β × 1 seed; 1 variant
    assert counts(load_config("paper")) == (1, 4, 3, 3, 3)
    assert counts(load_config("paper-strict")) == (3, 12, 21, 42, 14)  # 7 β × 3 seeds; 14 at once
    listed = load_config("micro", ["grid={method: list, values: [0.1, 1]}", "seeds=[4]", "variants.fixed="])
    assert counts(listed) == (1, 3, 2, 2, 2)


def test_stages_of_a_small_run() -> None:
    settings = [
        "base.training={steps: 5, batch_size: 4}", "preferences={prompts: 100, max_new_tokens: 7}",
        "rewards={batch_size: 32, epochs: 0.5}", "offline={batch_size: 100, epochs: 2}",
        "online={steps: 25, batch_size: 8}", "variants.fixed={steps: 3}", "evaluation={every: 10, answers: 2}",
        "evaluation={best_of: 16, best_of_problems: 5}", "offline.evaluate_every=1",
        "seeds=[0, 1, 2]", "grid={method: percentiles}",
    ]  # fmt: skip
    found = stages(Resolved.of(load_config("micro", settings)), FACTS, problems=6, float32=True)
    assert found == [
        Stage("base", 0, 5, Tokens(trained=5 * 4 * 30)),
        Stage("preferences", 0, None, Tokens(read=200 * 10, sampled=200 * 7)),
        # ⌈0.5 · 80 / 32⌉ = 2 steps of 3 · 3 members; validation and test pairs, 20, scored by them
        Stage("rewards", 9, 2, reward=Tokens(read=20 * 9 * 50, trained=9 * 2 * 32 * 50)),
        Stage("reference", 0, None, Tokens(read=100 * 50)),
        # a batch of at most 80 pairs: 2 steps; the 10 test pairs
        Stage("offline", 9, 2, Tokens(read=9 * 10 * 50, trained=9 * 2 * 80 * 50)),
        # 2 · 9 times 2 answers to 6 problems, read by the base, and 3 times as many of the bare base; sampling reads
        # prompts of 10
        Stage(
            "probe", 9, None, Tokens(216 * (10 + 40) + 36 * 10, 0, (216 + 36) * 30), Tokens(read=(216 + 36) * 3 * 40)
        ),
        # 16 answers of 9 checkpoints to 5 of the 6 problems
        Stage("best_of_n", 9, None, Tokens(720 * 10, 0, 720 * 30), Tokens(read=720 * 3 * 40)),
        # the base, after one step, the checkpoint: 3 points of 9 conditions; the base reads the answers again
        Stage("offline_curve", 9, None, Tokens(324 * (10 + 40), 0, 324 * 30), Tokens(read=324 * 3 * 40)),
        # updates: 9 · (25 + 3) · 8 = 2016, read by the reference; evaluations: 9 · (3 + 1) points · 12 = 432, read by
        # reference and base
        Stage(
            "online", 18, 25, Tokens(2016 * (10 + 40) + 432 * (10 + 80), 2016 * 40, 2448 * 30),
            Tokens(read=2448 * 3 * 40),
        ),
        # 10 test pairs' chosen responses in 9 + 18 policies, gradients of 8
        Stage("plasticity", 27, None, Tokens(read=27 * 10 * 30, trained=27 * 8 * 30)),
    ]  # fmt: skip


def test_a_fresh_task_trains_every_policy_on_all_texts_at_every_step() -> None:
    *before, off = stages(Resolved.of(load_config("micro")), FACTS, 6, float32=True)
    *others, on = stages(Resolved.of(load_config("micro", ["evaluation.fresh_steps=5"])), FACTS, 6, float32=True)
    assert others == before
    # 25 + 50 policies, 10 texts of 30 tokens: gradients of 8, then 5 steps on all 10, which are read once more
    assert off == Stage("plasticity", 75, None, Tokens(read=75 * 10 * 30, trained=75 * 8 * 30))
    assert on == Stage("plasticity", 75, 5, Tokens(read=75 * 2 * 10 * 30, trained=75 * (8 + 5 * 10) * 30))


def test_less_precision_reads_responses_once_more() -> None:
    micro = Resolved.of(load_config("micro"))
    exact, rounded = (
        next(stage.policy for stage in stages(micro, FACTS, 6, float32=kind) if stage.name == "online")
        for kind in (True, False)
    )
    rows = exact.sampled / 30
    assert rounded.read - exact.read == rows * 40
    assert rounded[1:] == exact[1:]


def test_trl_reads_the_prompt_with_each_response_and_the_reference_at_every_step() -> None:
    bank, trl = (
        stages(Resolved.of(load_config("micro", [f"offline.engine={engine}"])), FACTS, 6, float32=True)[4].policy
        for engine in ("bank", "trl")
    )
    assert trl.trained / bank.trained == (2 * 10 + 2 * 20) / (10 + 2 * 20)
    assert trl.read - bank.read == trl.trained
