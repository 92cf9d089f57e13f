"""Sampling: right against transformers, exact in law, and each row a function of its own key, prompt and adapter."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from scipy import stats

from betastar.models import batch, prefill, repeated
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.batch import _turnover
from betastar.models.generation import generate
from betastar.models.peft_io import export_adapter
from betastar.models.sequences import Row
from betastar.randomness import stream_key
from betastar.record.responses import Response

pytestmark = pytest.mark.filterwarnings(  # other libraries about one another
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*gradient_checkpointing:FutureWarning"
)

ENDS = list(range(40, 48))  # one token in eight ends a response, so lengths vary
LIMIT = 20


def sample(
    bank: AdapterBank, adapters: Adapters | None, prompts: Sequence[Sequence[Sequence[int]]], **settings: Any
) -> list[list[Response]]:
    """Every condition answers with the same keys, one per prompt."""
    keys = settings.pop("keys", [[stream_key(0, "row", b) for b in range(len(group))] for group in prompts])
    settings = {"end_tokens": ENDS, "pad": 0, "max_new_tokens": LIMIT, **settings}
    return generate(bank, adapters, prompts, keys, **settings)


def texts(samples: Sequence[Sequence[Response]]) -> list[list[list[int]]]:
    return [[s.tokens for s in group] for group in samples]


@pytest.fixture
def prompts(make_rows: Callable[..., list[Row]]) -> list[list[list[int]]]:
    """`[3][7]`: different prompts of different lengths for every condition."""
    return [[list(row.prompt) for row in make_rows(7, seed)] for seed in range(3)]


@pytest.mark.parametrize("exported", [False, True], ids=["bare base", "a condition"])
def test_greedy_is_transformers_greedy(
    bank: AdapterBank,
    adapters: Adapters,
    make_model: Callable[[], Any],
    prompts: list[list[list[int]]],
    tmp_path: Path,
    exported: bool,
) -> None:
    """`generate(do_sample=False)` of transformers, one unpadded prompt at a time; the condition through PEFT."""
    theirs: Any = make_model()
    if exported:
        export_adapter(tmp_path, adapters, 1, "base")
        theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
        ours = sample(bank, adapters, prompts, temperature=0.0)[1]
    else:
        ours = sample(bank, None, prompts[1:2], temperature=0.0)[0]
    ended = 0
    for prompt, mine in zip(prompts[1], ours, strict=True):
        tokens = torch.tensor([prompt], device=bank.device)
        settings = {"do_sample": False, "max_new_tokens": LIMIT, "eos_token_id": ENDS, "pad_token_id": 0}
        whole = theirs.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **settings)
        assert mine.tokens == whole[0, len(prompt) :].tolist()
        ended += not mine.hit_limit
    assert ended > 0


def test_another_condition_changes_no_text(
    bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]]
) -> None:
    """Every β of a seed has the same prompts and keys; adding one leaves the others' samples alone."""
    same = [prompts[0]] * 3
    together = texts(sample(bank, adapters, same))
    assert texts(sample(bank, adapters[:2], same[:2])) == together[:2]
    assert texts(sample(bank, adapters[2:], same[2:])) == together[2:]
    assert texts(sample(bank, adapters[[2, 0]], same[:2])) == [together[2], together[0]]
    assert together[0] != together[1] != together[2]
    # The noise is shared: the same adapter twice gives the same texts twice.
    twins = texts(sample(bank, adapters[[1, 1]], same[:2]))
    assert twins[0] == twins[1] == together[1]


@pytest.mark.parametrize("compact_below", [0.0, 0.5, 1.0])
def test_a_text_does_not_depend_on_the_batch(
    bank: AdapterBank,
    adapters: Adapters,
    prompts: list[list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    compact_below: float,
) -> None:
    """However often rows are dropped, whatever stands beside a row, in any order: the text it has alone."""
    for name in ("COMPACT_BELOW", "COMPACT_BELOW_FIXED"):  # of growing steps, and of a GPU's
        monkeypatch.setattr(batch, name, compact_below)
    whole = sample(bank, adapters, prompts)
    keys = [stream_key(0, "row", b) for b in range(7)]
    for c in range(3):
        for b in range(7):
            [[alone]] = sample(bank, adapters[c : c + 1], [[prompts[c][b]]], keys=[[keys[b]]])
            assert alone.tokens == whole[c][b].tokens
            assert alone.logprob == pytest.approx(whole[c][b].logprob, rel=1e-4, abs=1e-4)
            assert alone.entropy == pytest.approx(whole[c][b].entropy, rel=1e-4, abs=1e-4)
    order = [4, 0, 6, 2, 1, 5, 3]
    mixed = [[group[b] for b in order] for group in prompts]
    reordered = sample(bank, adapters, mixed, keys=[[keys[b] for b in order]] * 3)
    assert texts(reordered) == [[group[b].tokens for b in order] for group in whole]


@pytest.mark.parametrize("fixed", [False, True])
def test_a_prompt_with_several_answers_is_read_once(
    bank: AdapterBank,
    adapters: Adapters,
    prompts: list[list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    fixed: bool,
) -> None:
    """With the texts it gives when read for each: here two answers each, in no order, and a condition with one more
    prompt than the others, for which all are read."""
    monkeypatch.setattr(repeated, "FIXED_SHAPES", fixed)
    repeated.shapes_may_be_fixed(bank, 30)  # tried now, so that its passes are not counted
    read: list[int] = []
    bank.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    order = [0, 3, 1, 3, 0, 2, 1, 2]
    twice = [[group[i] for i in order] for group in prompts]
    keys = [[stream_key(0, "row", c, b) for b in range(8)] for c in range(3)]
    together = texts(sample(bank, adapters, twice, keys=keys))
    width = max(len(prompt) for group in twice for prompt in group)
    assert read[0] == 3 * 4 * width
    for c in range(3):
        for b in range(8):
            [[alone]] = sample(bank, adapters[c : c + 1], [[twice[c][b]]], keys=[[keys[c][b]]])
            assert alone.tokens == together[c][b]
    read.clear()
    uneven = [[*twice[0][:-1], prompts[0][4]], *twice[1:]]
    assert texts(sample(bank, adapters, uneven, keys=keys))[1:] == together[1:]
    assert read[0] == 3 * 8 * max(width, len(prompts[0][4]))


@pytest.mark.parametrize("fixed", [False, True])
def test_prompts_of_about_one_length_are_read_together(
    bank: AdapterBank, adapters: Adapters, monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    """Two answers to each of five prompts, in no order, of 3 to 40 tokens: the same texts, with less padding."""
    monkeypatch.setattr(repeated, "FIXED_SHAPES", fixed)
    repeated.shapes_may_be_fixed(bank, 60)
    draw = torch.Generator().manual_seed(3)
    lengths = [[5, 38, 9, 3, 40], [37, 4, 3, 40, 11], [3, 12, 39, 6, 38]]
    prompts = [[torch.randint(1, 40, (n,), generator=draw).tolist() for n in mine] * 2 for mine in lengths]
    keys = [[stream_key(0, "row", c, b) for b in range(10)] for c in range(3)]
    read: list[int] = []
    bank.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    made = []
    for overhead in (100_000, 0):
        for name in ("PASS_TOKENS", "PASS_TOKENS_ON_GPU"):
            monkeypatch.setattr(prefill, name, overhead)
        read.clear()
        made.append(sample(bank, adapters, prompts, keys=keys))
        passes = [n for n in read if n > 30]
        if overhead:
            assert passes == [3 * 5 * 40]
        else:  # the longest of each rank over conditions: 3, 6, 12, 38, 40
            assert passes == [3 * 38, 3 * 40] or passes == [3 * 12, 3 * 38, 3 * 40]
    assert texts(made[0]) == texts(made[1])
    for ours, theirs in zip(*made, strict=True):
        assert [s.logprob for s in ours] == pytest.approx([s.logprob for s in theirs], rel=1e-4, abs=1e-4)


def test_length_groups_by_hand_and_by_trying_all() -> None:
    """Two rows of each rank: [3, 4] cost 2 · 2 · 4 = 16, [9] costs 18; with a third group 6 + 8 + 18."""
    assert prefill.length_groups([3, 4, 9], 5, 2) == [range(2), range(2, 3)]
    assert prefill.length_groups([3, 4, 9], 1, 2) == [range(1), range(1, 2), range(2, 3)]
    assert prefill.length_groups([3, 4, 9], 99, 2) == [range(3)]
    draw = random.Random(0)
    for _ in range(20):
        longest, overhead = sorted(draw.choices(range(1, 50), k=7)), draw.choice([0, 5, 40])

        def cost(groups: list[range], longest: list[int] = longest, overhead: int = overhead) -> int:
            return sum(3 * len(group) * longest[group.stop - 1] + overhead for group in groups)

        cheapest = min(
            cost([range(a, b) for a, b in itertools.pairwise([0, *cuts, 7])])
            for n in range(7)
            for cuts in itertools.combinations(range(1, 7), n)
        )
        found = prefill.length_groups(longest, overhead, 3)
        assert [i for group in found for i in group] == list(range(7))
        assert cost(found) == cheapest


def test_the_prompt_may_be_read_in_pieces(
    bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sample(bank, adapters, prompts)
    for columns in (1, 3):  # 21 rows
        for name in ("PREFILL_TOKENS", "PREFILL_TOKENS_ON_GPU"):
            monkeypatch.setattr(prefill, name, columns * 21)
        pieces = sample(bank, adapters, prompts)
        assert texts(pieces) == texts(whole)
        for ours, theirs in zip(pieces, whole, strict=True):
            assert [s.logprob for s in ours] == pytest.approx([s.logprob for s in theirs], rel=1e-4, abs=1e-4)


def test_rows_that_end_leave_the_batch(
    bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model sees fewer rows as rows end: what a step needs is the fullest condition's live rows, times the
    conditions that have any; at most a quarter more (a batch at 0.8 of its places is made smaller).

    That is so where ends are looked for after every token. A GPU looks every eight, as it has to wait for a look, and
    replays steps that the model's code does not see: there this is the plain way, asked to look as often."""
    monkeypatch.setattr(batch, "LOOK_EVERY_ON_GPU", 1)
    bank.plain_decoding = True
    sizes: list[int] = []
    bank.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    samples = sample(bank, adapters, prompts)
    lengths = np.array([[len(s.tokens) for s in group] for group in samples])
    assert len(sizes) == lengths.max()
    for step, size in enumerate(sizes):
        live = (lengths > step).sum(axis=1)
        needed = live.max() * (live > 0).sum()
        assert needed <= size <= max(needed, 21 if step == 0 else needed / 0.8)
    assert sizes[-1] < sizes[0] == 21


def test_who_leaves_and_who_enters_by_hand() -> None:
    """Four places. The second of three conditions has ended; two rows each of the others stay: live ones first, in
    order, and for the third a finished one (its first) as filler. Where the second has one that waits and the third
    three, these enter: the fullest then has 2 + 0, 0 + 1, 1 + 3 = 4, and the others are filled up."""
    live = [[False, True, False, True], [False] * 4, [False, False, True, False]]
    assert _turnover(live, [0, 0, 0], 4) == ([0, 2], [[1, 3], [2, 0]], [0, 0])
    assert _turnover([[True] * 3] * 2, [0, 0], 3) == ([0, 1], [[0, 1, 2]] * 2, [0, 0])
    change = _turnover(live, [0, 1, 5], 4)
    assert change == ([0, 1, 2], [[1, 3, 0, 2], [0, 1, 2], [2]], [0, 1, 3])
    # Eight rows stay, numbered 0 to 7; the four that enter are 8 to 11.
    assert change.order() == [0, 1, 2, 3, 4, 5, 6, 8, 7, 9, 10, 11]


@torch.no_grad()
def test_statistics_are_teacher_forced_ones(
    bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]]
) -> None:
    """At any sampling temperature, log-probability and entropy are the policy's own."""
    for temperature in (1.0, 0.6, 0.0):
        samples = sample(bank, adapters, prompts, temperature=temperature)
        rows = [
            Row(p, s.tokens) for g, group in zip(prompts, samples, strict=True) for p, s in zip(g, group, strict=True)
        ]
        for i, (row, mine) in enumerate(zip(rows, [s for group in samples for s in group], strict=True)):
            condition = adapters[i // len(prompts[0]) :][:1]
            with bank.use(condition):
                tokens = torch.tensor([[*row.prompt, *row.response]], device=bank.device)
                logprobs = bank.model(tokens).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1).cpu()
            chosen = logprobs.gather(-1, torch.tensor(row.response)[:, None])
            entropy = torch.distributions.Categorical(logits=logprobs).entropy().mean()
            assert mine.logprob == pytest.approx(float(chosen.sum()), rel=1e-4, abs=1e-4)
            assert mine.entropy == pytest.approx(float(entropy), rel=1e-4, abs=1e-4)


def test_end_token_and_limit(bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]]) -> None:
    """A response stops at its first end token, which it keeps; one without is as long as the limit, and says so. An
    end token in the last place is an end, not a hit of the limit."""
    free = sample(bank, adapters, prompts, end_tokens=[])
    assert all(s.hit_limit and len(s.tokens) == LIMIT for group in free for s in group)
    samples = sample(bank, adapters, prompts)
    for group, unlimited in zip(samples, free, strict=True):
        for ended, whole in zip(group, unlimited, strict=True):
            ends = [i for i, token in enumerate(whole.tokens) if token in ENDS]
            assert ended.tokens == whole.tokens[: ends[0] + 1 if ends else LIMIT]
            assert ended.hit_limit == (not ends)
    c, b = next((c, b) for c in range(3) for b in range(7) if 1 < len(samples[c][b].tokens) < LIMIT)
    length = len(samples[c][b].tokens)
    in_time = sample(bank, adapters, prompts, max_new_tokens=length)[c][b]
    assert (in_time.tokens, in_time.hit_limit) == (samples[c][b].tokens, False)
    too_late = sample(bank, adapters, prompts, max_new_tokens=length - 1)[c][b]
    assert (too_late.tokens, too_late.hit_limit) == (samples[c][b].tokens[:-1], True)


def test_greedy_ignores_keys_and_sampling_does_not(
    bank: AdapterBank, adapters: Adapters, prompts: list[list[list[int]]]
) -> None:
    other = [[stream_key(1, c, b) for b in range(7)] for c in range(3)]
    greedy = [sample(bank, adapters, prompts, temperature=0.0, **keys) for keys in ({}, {"keys": other})]
    assert greedy[0] == greedy[1]
    assert texts(sample(bank, adapters, prompts)) != texts(sample(bank, adapters, prompts, keys=other))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_tokens_follow_the_models_distribution(bank: AdapterBank, adapters: Adapters, temperature: float) -> None:
    prompt, n = [7, 3, 9], 4000
    keys = [[stream_key(c, "draw", i) for i in range(n)] for c in range(2)]
    samples = sample(bank, adapters[:2], [[prompt] * n] * 2, keys=keys, max_new_tokens=1, temperature=temperature)
    with torch.no_grad(), bank.use(adapters[:2]):
        logits = bank.model(torch.tensor([prompt] * 2, device=bank.device)).logits[:, -1].double().cpu()
    for c in range(2):
        expected = n * (logits[c] / temperature).softmax(-1).numpy()
        seen = np.bincount([s.tokens[0] for s in samples[c]], minlength=64)
        common = expected >= 5  # the rest are pooled, as the chi-square law asks
        seen, expected = (np.append(x[common], x[~common].sum()) for x in (seen, expected))
        assert len(expected) > 5
        assert stats.chisquare(seen, expected).pvalue > 0.01


def test_second_tokens_follow_the_first(bank: AdapterBank, adapters: Adapters) -> None:
    """The noise of position 1 is fresh: given the likeliest first token, the second has the model's distribution."""
    prompt, n = [7, 3, 9], 6000
    keys = [[stream_key(0, "draw", i) for i in range(n)]]
    [samples] = sample(bank, adapters[:1], [[prompt] * n], keys=keys, max_new_tokens=2, end_tokens=[])
    first = np.bincount([s.tokens[0] for s in samples]).argmax()
    second = [s.tokens[1] for s in samples if s.tokens[0] == first]
    with torch.no_grad(), bank.use(adapters[:1]):
        logits = bank.model(torch.tensor([[*prompt, int(first)]], device=bank.device)).logits[0, -1].double().cpu()
    expected = len(second) * logits.softmax(-1).numpy()
    seen = np.bincount(second, minlength=64)
    common = expected >= 5
    seen, expected = (np.append(x[common], x[~common].sum()) for x in (seen, expected))
    assert stats.chisquare(seen, expected).pvalue > 0.01


def test_large_keys_are_taken(bank: AdapterBank) -> None:
    """Keys are unsigned 64-bit numbers; both halves matter."""
    prompt = [5, 6, 7]
    keys = [0, 1, 2**32, 2**63, 2**64 - 1]
    [samples] = sample(bank, None, [[prompt] * len(keys)], keys=[keys], end_tokens=[])
    assert len({tuple(s.tokens) for s in samples}) == len(keys)
