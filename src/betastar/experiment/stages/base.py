"""Stage: the base policy. Trains the micro world's own, makes a random one, or points to the user's folder."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from betastar.data.micro import language
from betastar.data.micro.language import (
    Language,
    build_tokenizer,
    draw_request,
    draw_style,
    is_held_out,
    write_response,
)
from betastar.disk import write_json
from betastar.errors import BetastarError
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.store import Artefact
from betastar.models.hub import fingerprint
from betastar.models.loading import quiet
from betastar.models.optimise import one_cycle_schedule, optimiser_state, restore_optimiser, set_learning_rate
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.randomness import numpy_generator
from betastar.settings.config import Config
from betastar.settings.sections import BaseModelChoice, BuiltInTask, MicroTask, PretrainedBase, TrainedBase

VERSION = 1
STAGE = "base"
ROWS_PER_PIECE = 64  # sorted by length: shorter pieces waste less padding, longer ones less overhead


def run(ctx: Context[Config], choice: BaseModelChoice) -> Artefact:
    if isinstance(choice, PretrainedBase):
        quiet()
        where = choice.model_dump()
        return made(
            ctx,
            STAGE,
            [VERSION, where, fingerprint(choice)],
            [],
            lambda out, key: write_json(out / "pretrained.json", where),
        )
    settings = [VERSION, choice.model_dump(mode="json"), ctx.config.root_seed]
    if isinstance(choice, TrainedBase):
        task = ctx.config.task
        assert isinstance(task, BuiltInTask)  # the configuration sees to it
        settings.append(task.largest if isinstance(task, MicroTask) else [task.kind, task.longest])
        return made(ctx, STAGE, settings, [], lambda out, key: _train(ctx, choice, language(task), out, key))

    def random(out: Path, key: str) -> None:
        quiet()
        tokenizer = build_byte_tokenizer()
        build_model(choice.geometry, len(tokenizer), ctx.config.root_seed).save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")

    return made(ctx, STAGE, settings, [], random)


def _demonstrations(choice: TrainedBase, spoken: Language, root_seed: int, step: int) -> list[str]:
    """The texts of one training step: problems that are not held out, and small talk, each with a demonstration."""
    training, rng = choice.training, numpy_generator(root_seed, "base", "demonstrations", step)
    texts = []
    while len(texts) < training.batch_size:
        prompt = draw_request(rng) if rng.random() < training.request_share else spoken.problem(rng)
        if not is_held_out(prompt.text) or not prompt.gold:
            wrong = bool(rng.random() < training.wrong_share)
            response = write_response(spoken, rng, prompt, draw_style(rng), wrong)
            texts.append(f"<user> {prompt.text} <assistant> {response} <end>")
    return texts


def _train(ctx: Context[Config], choice: TrainedBase, spoken: Language, out: Path, key: str) -> None:
    quiet()
    tokenizer = build_tokenizer(spoken)
    model = build_model(choice.geometry, len(tokenizer), ctx.config.root_seed).to(ctx.runtime.device)
    training, checkpoint = choice.training, ctx.store.checkpoint(STAGE, key)
    adam = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    start = 0
    if saved := checkpoint.load():
        start, state = saved
        restore_optimiser(adam, state)
    for step in range(start, training.steps):
        texts = _demonstrations(choice, spoken, ctx.config.root_seed, step)
        ids = sorted(tokenizer(texts)["input_ids"], key=len)
        targets = sum(map(len, ids)) - len(ids)
        loss = 0.0
        for first in range(0, len(ids), ROWS_PER_PIECE):
            rows = ids[first : first + ROWS_PER_PIECE]
            tokens = torch.tensor([row + [0] * (len(rows[-1]) - len(row)) for row in rows], device=ctx.runtime.device)
            hidden = model.base_model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
            real = tokens[:, 1:] != tokenizer.pad_token_id
            logits = model.get_output_embeddings()(hidden[real])
            piece = F.cross_entropy(logits, tokens[:, 1:][real], reduction="sum") / targets
            piece.backward()
            loss += piece.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise BetastarError(
                f"the training of the base has diverged (gradient norm {norm:g})",
                where=f"{STAGE}, step {step + 1} of {training.steps}",
                remedy="lower base.training.learning_rate",
            )
        set_learning_rate(adam, training.learning_rate * one_cycle_schedule(step, training.steps))
        adam.step()
        adam.zero_grad(set_to_none=True)
        ctx.reporter.progress(step + 1, training.steps, "steps", f"loss {loss:.3f}")
        if step + 1 < training.steps:
            checkpoint.save_if_due(step + 1, lambda: optimiser_state(adam))
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
