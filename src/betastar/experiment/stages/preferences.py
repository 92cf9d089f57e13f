"""Stage: preference pairs. Read from a dataset, or sampled from the base and rated by the built-in annotator."""

from __future__ import annotations

from pathlib import Path

from betastar.data.micro import language
from betastar.data.micro.language import Prompt, draw_request, is_held_out, prefers_first, score
from betastar.data.preferences import (
    LoadedPreferences,
    PreferencePair,
    coverage,
    read_preferences,
    sequence_lengths,
    split_by_prompt,
    write_pairs,
)
from betastar.data.sources import open_rows
from betastar.disk import write_json
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.store import Artefact
from betastar.models.generation import generate
from betastar.randomness import numpy_generator, stream_key
from betastar.settings.config import Config
from betastar.settings.sections import BuiltInTask, DatasetPreferences, MicroPreferences

VERSION = 2
STAGE = "preferences"


def run(ctx: Context[Config], base: Artefact) -> Artefact:
    config = ctx.config
    source, lengths = config.preferences, config.lengths.model_dump(include={"prompt", "response"})
    max_bad_share = config.data.max_bad_share
    settings = [VERSION, source.model_dump(mode="json"), lengths, config.root_seed]
    rows = open_rows(source.source, "preferences.source") if isinstance(source, DatasetPreferences) else None
    settings += [config.task.model_dump(mode="json")] if rows is None else [rows.digest, max_bad_share]

    def build(out: Path, key: str) -> None:
        if isinstance(source, MicroPreferences):
            loaded = _annotated(ctx, base, source)
        else:
            assert rows is not None
            loaded = read_preferences(rows, source.columns, source.source.limit, max_bad_share)
        if loaded.malformed.n:
            ctx.reporter.say(f"{STAGE}: {loaded.malformed}")
        splits = split_by_prompt(loaded.pairs)
        for name, pairs in splits._asdict().items():
            write_pairs(out / f"{name}.jsonl", pairs)
        write_json(out / "statistics.json", _statistics(ctx, base, loaded))

    return made(ctx, STAGE, settings, [base.key], build)


def _statistics(ctx: Context[Config], base: Artefact, loaded: LoadedPreferences) -> dict:
    """Coverage of the logging data and the sequence lengths, in tokens of the policy's tokenizer."""
    chat, lengths = ctx.runtime.bare(base).chat, ctx.config.lengths
    pairs = loaded.pairs
    prompts = chat.prompts([p.prompt for p in pairs])
    sides = {side: chat.responses([getattr(p, side) for p in pairs]) for side in ("chosen", "rejected")}
    counts = {name: [len(row) for row in part] for name, part in {"prompt": prompts, **sides}.items()}
    responses = counts["chosen"] + counts["rejected"]
    auto = sequence_lengths(counts["prompt"], responses, numpy_generator(ctx.config.root_seed, "lengths"))
    prompt = auto.prompt if lengths.prompt == "auto" else lengths.prompt
    response = auto.response if lengths.response == "auto" else lengths.response
    seen = {token for part in (prompts, *sides.values()) for row in part for token in row}
    return {
        "coverage": coverage(
            pairs, counts["prompt"], counts["chosen"], counts["rejected"], len(seen), len(chat.tokenizer),
            loaded.n_equal_dropped, loaded.malformed,
        ),
        "lengths": {
            "prompt": prompt,
            "response": response,
            "share_prompts_truncated": sum(n > prompt for n in counts["prompt"]) / len(pairs),
            "share_responses_truncated": sum(n > response for n in responses) / len(responses),
        },
    }  # fmt: skip


def _annotated(ctx: Context[Config], base: Artefact, source: MicroPreferences) -> LoadedPreferences:
    """The base answers each prompt twice; the annotator says which answer it prefers."""
    task, seed, policy = ctx.config.task, ctx.config.root_seed, ctx.runtime.bare(base)
    assert isinstance(task, BuiltInTask)  # the configuration sees to it
    spoken = language(task)
    rng = numpy_generator(seed, "preferences", "prompts")
    prompts: list[Prompt] = []
    while len(prompts) < source.prompts:
        prompt = draw_request(rng) if rng.random() < source.request_share else spoken.problem(rng)
        if not prompt.gold or not is_held_out(prompt.text):
            prompts.append(prompt)
    tokens = policy.chat.prompts([p.text for p in prompts])
    texts: list[list[str]] = []
    size = max(1, ctx.config.compute.rows_per_decode // 2)
    # Prompts of similar length share a batch.
    order = sorted(range(len(prompts)), key=lambda i: len(tokens[i]))
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        responses = generate(
            policy.bank,
            None,
            [[tokens[i] for i in chunk for _ in range(2)]],
            [[stream_key(seed, "preferences", "response", i, copy) for i in chunk for copy in range(2)]],
            end_tokens=policy.ends,
            pad=policy.pad,
            max_new_tokens=source.max_new_tokens,
        )[0]
        decoded = [policy.chat.text(response.tokens) for response in responses]
        texts += [decoded[i : i + 2] for i in range(0, len(decoded), 2)]
        ctx.reporter.progress(len(texts), len(prompts), "prompts")
    pairs = []
    for i, (first, second) in sorted(zip(order, texts, strict=True)):
        rate = numpy_generator(seed, "preferences", "rating", i)
        if first != second and first and second:
            ours, theirs = (score(spoken, prompts[i], text, source.style) for text in (first, second))
            wins = prefers_first(rate, ours, theirs)
            pairs.append(PreferencePair(prompts[i].text, *((first, second) if wins else (second, first))))
    return LoadedPreferences(pairs, len(prompts) - len(pairs))
