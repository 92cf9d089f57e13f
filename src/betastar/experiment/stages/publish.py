"""Stage: what a person looks for in the run directory. `results.json`, the metrics, samples and answers of all
conditions, the adapters by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from betastar.data.preferences import Splits
from betastar.disk import read_json, read_jsonl_rows
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, OnlineCondition, Parts
from betastar.experiment.context import Context
from betastar.experiment.distances import reached
from betastar.experiment.evaluation import held_out, probe_prompts
from betastar.experiment.making import made
from betastar.experiment.store import Artefact, copy_out, write_atomically
from betastar.maths.methods import objective_named
from betastar.record.answers import complete, read_answers, write_answers
from betastar.record.entries import REGISTRY
from betastar.record.files import ANSWERS, METRICS, RESULTS, SAMPLES, read_points, to_json, to_json_lines
from betastar.record.points import EvaluationPoint
from betastar.record.series import POINTS, outside, write_series
from betastar.settings.config import Resolved

if TYPE_CHECKING:
    import pandas as pd

VERSION = 7
STAGE = "results"


class Made(NamedTuple):
    """What stages have made of every condition; the last four are empty where they are off. `reached`: distances of a
    search for strengths."""

    checkpoints: Parts[Condition]
    probes: Parts[Condition]
    online: Parts[OnlineCondition]
    sampled: Parts[Condition]
    curves: Parts[Condition]
    networks: Parts[Condition | OnlineCondition]
    reached: Parts[Condition] = Parts({}, {})


def run(
    ctx: Context[Resolved],
    preferences: Artefact,
    ensembles: Parts[int],
    problems: Artefact,
    found: Made,
    hyperparameters: dict[str, Any],
) -> Artefact:
    """Write everything and return the artefact that has the results."""
    config, folder = ctx.config, ctx.store.folder
    settings = [VERSION, config.model_dump(mode="json", exclude={"compute", "tracking"}), hyperparameters]
    sources = [preferences.key, problems.key, *(f"rewards of {s}: {key}" for s, key in ensembles.keys_of.items())]
    for name, parts in found._asdict().items():
        sources += [f"{name} of {condition}: {key}" for condition, key in parts.keys_of.items()]

    def build(out: Path, key: str) -> None:
        # Slow to import, and not needed when nothing has changed.
        import pandas as pd

        from betastar.analysis.results import build_results

        points, samples = _points(config, found.probes, found.online)
        diverged = diverged_conditions(points)
        answers = _answers(config, found.probes, found.online)
        results = build_results(
            points,
            {
                key: {**_extra(found, o), **({"diverged": diverged[key]} if key in diverged else {})}
                for o in found.online
                for key in [(_label(config, o), o.checkpoint.beta, o.checkpoint.seed)]
            },
            {
                **_context(ctx, preferences, ensembles, problems),
                **_methods(config, found),
                "hyperparameters": hyperparameters,
                **_inside(config, found),
            },
            root_seed=config.root_seed,
            trade_off=config.law.trade_off,
            primary=config.analysis.primary,
            smallest_effect=config.analysis.smallest_effect,
            answers=answers,
        )
        (out / RESULTS).write_text(to_json(results), encoding="utf-8")
        if outside(results):
            write_series(out / POINTS, results, pd.DataFrame(points))
        (out / METRICS).write_text(to_json_lines(points), encoding="utf-8")
        (out / SAMPLES).write_text(to_json_lines(samples), encoding="utf-8")
        write_answers(out / ANSWERS, answers)

    published = made(ctx, STAGE, settings, sources, build)
    write_atomically(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
    copy_out(published, folder)
    _link_adapters(folder / "adapters", ensembles, found.checkpoints, found.online)
    return published


def _label(config: Resolved, condition: OnlineCondition) -> str:
    """What an online condition's method and variant are called in the record."""
    return config.label(condition.checkpoint.method, condition.variant)


def _methods(config: Resolved, found: Made) -> dict[str, Any]:
    """What the record says of methods, where there are others than DPO."""
    if config.default_methods:
        return {}
    searched = reached(found.reached)
    methods = {}
    for name in config.methods:
        (offline, grid), labels = config.method(name), [config.label(name, variant) for variant in config.variants]
        entry = objective_named(offline.objective)
        methods[name] = {
            "objective": offline.objective,
            "strength": entry.strength,
            "closer": entry.closer,
            "options": {n: option.default for n, option in entry.options.items()} | dict(offline.options),
            **({"beta_schedule": schedule.model_dump()} if (schedule := offline.beta_schedule) else {}),
            "grid": grid.model_dump(mode="json", exclude_none=True),
            "strengths": sorted({c.beta for c in found.checkpoints if c.method == name}),
            "variants": labels,
            **({"searched": searched[name]} if name in searched else {}),
        }
    return {"methods": methods}


def _points(
    config: Resolved, probes: Parts[Condition], online: Parts[OnlineCondition]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All evaluation points and all kept responses; the point t=0 of a checkpoint stands in each of its variants."""
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for condition, folder in online.items():
        name = {
            "variant": _label(config, condition),
            "beta": condition.checkpoint.beta,
            "seed": condition.checkpoint.seed,
        }
        probe = probes[condition.checkpoint]
        start = EvaluationPoint.of_row(read_json(probe / "point.json")["start"])
        rows += [{**name, **point.row()} for point in [start, *read_points(folder / METRICS)]]
        kept = [{"step": 0, **s} for s in read_json(probe / "samples.json")] + read_jsonl_rows(folder / "samples.jsonl")
        samples += [{**name, **sample} for sample in kept]
    return rows, samples


def diverged_conditions(points: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], str]:
    """Why nothing of a condition counts, by (variant, β, seed), where a policy no longer computes numbers. A point
    leaves out what is NaN, so what every sound point has is missing there; the rewards of what such a policy samples
    may be finite, and mean nothing."""
    measured = {name for row in points for name in ("proxy", "response_entropy", "policy_entropy", "kl") if name in row}
    measured |= {"proxy", "policy_entropy"}  # of every policy
    found: dict[tuple[Any, ...], str] = {}
    for row in points:
        if lost := [REGISTRY.get("point", name).words for name in sorted(measured - row.keys())]:
            key = row["variant"], row["beta"], row["seed"]
            found.setdefault(key, f"diverged: {', '.join(lost)} not a finite number at step {row['step']}")
    return found


def _answers(config: Resolved, probes: Parts[Condition], online: Parts[OnlineCondition]) -> pd.DataFrame:
    """The table of answers; those of a checkpoint stand in each of its variants."""
    import pandas as pd

    starts = {condition: read_answers(probes[condition] / ANSWERS) for condition in {c.checkpoint for c in online}}
    tables = []
    for condition, folder in online.items():
        label = _label(config, condition)
        tables += [
            table.assign(variant=label) for table in (starts[condition.checkpoint], read_answers(folder / ANSWERS))
        ]
    return complete(pd.concat(tables, ignore_index=True))


def _inside(config: Resolved, found: Made) -> dict[str, Any]:
    """Best-of-n, where it was drawn, and what went on inside the networks."""
    from betastar.analysis.inside import Checkpoint, best_of_n_record, inside_record

    def name(c: Condition) -> Checkpoint:
        return Checkpoint(c.beta, c.seed, c.method if c.named else "")

    answers = {name(c): read_json(folder / "answers.json") for c, folder in found.sampled.items()}
    networks = {c: read_json(folder / "network.json") for c, folder in found.networks.items()}
    inside = inside_record(
        {name(c): read_json(folder / "metrics.json") for c, folder in found.checkpoints.items()},
        {name(c): read_jsonl_rows(folder / "training.jsonl") for c, folder in found.checkpoints.items()},
        {name(c): read_jsonl_rows(folder / "curve.jsonl") for c, folder in found.curves.items()},
        {name(c): network for c, network in networks.items() if isinstance(c, Condition)},
        {
            (_label(config, c), c.checkpoint.beta, c.checkpoint.seed): network
            for c, network in networks.items()
            if isinstance(c, OnlineCondition)
        },
    )
    return {
        **({"best_of_n": best_of_n_record(answers, root_seed=config.root_seed)} if answers else {}),
        "inside": inside,
    }


def _extra(found: Made, condition: OnlineCondition) -> dict[str, Any]:
    from betastar.analysis.inside import condition_extras

    checkpoint = condition.checkpoint
    point = read_json(found.probes[checkpoint] / "point.json")
    trained = read_json(found.checkpoints[checkpoint] / "metrics.json")
    start, end = (
        read_json(found.networks[c] / "network.json") if c in found.networks else None for c in (checkpoint, condition)
    )
    return {
        **condition_extras(trained, start, end),
        "alignment": {
            "pair_accuracy": trained["pair_accuracy"],
            "test_pairs": trained["test_pairs"],
            "win_rate": point["win_rate"],
            "judge": point["judge"],
        },
        "base": {name: value for name, value in point["base"].items() if name != "step"},
        "log_ratio_noise": point["log_ratio_noise"],
        "again": {name: point["again"][name] for name in ("proxy", "true_strict", "true_lenient", "disagreement")},
    }


def _context(
    ctx: Context[Resolved], preferences: Artefact, ensembles: Parts[int], problems: Artefact
) -> dict[str, Any]:
    """What the record says of a run beside what follows from its evaluation points. A setting that is not set is left
    out."""
    config, found = ctx.config, readers.problems(problems)
    splits = {name: len(read_jsonl_rows(preferences.folder / f"{name}.jsonl")) for name in Splits._fields}
    return {
        "name": config.name,
        "root_seed": config.root_seed,
        "prompt_split": config.online.prompt_split,
        "grid": config.grid.model_dump(mode="json", exclude_none=True),
        "variants": {
            config.label(method, name): config.variant(name).model_dump(mode="json", exclude_none=True)
            for method in config.methods
            for name in config.variants
        },
        "evaluation": config.evaluation.model_dump(mode="json"),
        "problems": {
            "train": len(found.train),
            "test": len(found.test),
            "evaluated": len(held_out(ctx, found.test)),
            "probe": len(probe_prompts(ctx, found.test)),
        },
        "preferences": config.preferences.model_dump(mode="json", exclude_none=True),
        "data": {**read_json(preferences.folder / "statistics.json"), "splits": splits},
        "rewards": _rewards(ctx, ensembles),
    }


def _rewards(ctx: Context[Resolved], ensembles: Parts[int]) -> dict[str, Any]:
    """How well the ensembles rank pairs that they have not seen: members in the order of seeds, means over seeds."""
    own = ctx.config.rewards.per == "seed"
    found = [read_json(folder / "metrics.json") for folder in dict.fromkeys(ensembles.values())]

    def of_all(part: str) -> dict[str, Any]:
        every = [metrics[part] for metrics in found]
        return {
            "pairs": every[0]["pairs"],
            **{n: [value for each in every for value in each[n]] for n in every[0] if n.startswith("member_")},
            **{n: sum(each[n] for each in every) / len(every) for n in ("mean_accuracy", "sign_disagreement")},
        }

    seeds = {"seeds": list(ensembles)} if own else {}
    return {"members": found[0]["members"], **seeds, "validation": of_all("validation"), "test": of_all("test")}


def _link_adapters(
    folder: Path, ensembles: Parts[int], checkpoints: Parts[Condition], online: Parts[OnlineCondition]
) -> None:
    """`adapters/<stage>/<condition>` as relative links into the store: PEFT folders by name, nothing copied."""
    wanted = {folder / "offline" / str(c): path / "adapter" for c, path in checkpoints.items()}
    wanted |= {folder / "online" / str(c): path / "adapter" for c, path in online.items()}
    for ensemble in ensembles.values():  # its members are beside it
        members = [path for path in ensemble.parent.glob("*") if (path / "adapter_config.json").is_file()]
        wanted |= {folder / "rewards" / path.name: path for path in members}
    run = folder.parent.resolve()
    for stage in ("offline", "online", "rewards"):
        for link in (folder / stage).glob("*"):
            if _is_ours(link, run / "store" / stage):
                link.unlink()
    for link, target in wanted.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(link):  # somebody's own file or link of that name stays
            link.symlink_to(os.path.relpath(run / target.relative_to(folder.parent), link.parent.resolve()))


def _is_ours(link: Path, store: Path) -> bool:
    """Whether a link is one that `_link_adapters` made: to an adapter of the same name in this part of the store."""
    if not link.is_symlink():
        return False
    target = Path(os.path.normpath(link.parent.resolve() / link.readlink()))
    home, name = (target.parent, target.parent.name) if target.name == "adapter" else (target, target.name)
    return name == link.name and home.parent.parent == store
