"""The unit of work that every engine shares: some parts of a stage, named by their keys.

A stage declares what it has to make as a `Work`: a key for each part, how to build a group of parts, and which other
parts each one needs. A loop in this process, a process that a shell or SLURM starts, and a Ray actor all build the same
groups by the same function, so it does not matter which of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple

from betastar import __version__
from betastar.disk import content_key, make_folder, sealed, unseal, unsealed, write_atomically
from betastar.errors import BetastarError
from betastar.experiment.conditions import K
from betastar.experiment.place import Place
from betastar.settings.config import Config


def no_needs(condition: Any) -> Sequence[str]:
    """What a part needs that only starts from the opening."""
    return ()


def own_log(condition: Any) -> Sequence[str]:
    """The part's own folder is the only one with a log."""
    return [str(condition)]


@dataclass(frozen=True)
class Work(Generic[K]):
    """What a stage makes for each of its conditions.

    `keys`: the content key of each part. `build(conditions, folders, key)` makes some of them in one bank; `key` is the
    artefact's. `at_once`: the most in one bank, None for no limit. `needs`: keys of the parts, of other stages, that a
    part is built from. `logged`: the names of the folders, side by side in the artefact, that have a log of their own.
    """

    stage: str
    keys: Mapping[K, str]
    build: Callable[[Sequence[K], Sequence[Path], str], None]
    at_once: int | None = None
    needs: Callable[[K], Sequence[str]] = no_needs
    logged: Callable[[K], Sequence[str]] = own_log


class Unit(NamedTuple):
    """Parts of a stage to be built together, by key. What comes before the sweep has no parts, and no keys."""

    stage: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.stage, *self.keys])

    @property
    def artefact(self) -> str:
        """The key of the artefact in which its parts are together."""
        return content_key(self.stage, list(self.keys))


OPENING = Unit("opening")
"""The bases, the task, the preference pairs and what follows from them: made once, before anything else."""
REFERENCE = Unit("reference")
"""The log-probabilities under the base, from which the grid follows: made once, beside the reward models."""


def in_groups(
    missing: Sequence[K], at_once: int | None, steps: Callable[[K], int] = lambda condition: 0
) -> list[Sequence[K]]:
    """Parts in groups of at most `at_once`, in order; only those that are equally far, by the `steps` of their
    checkpoints, are in one group. Every engine groups by this, so that the same limit gives the same groups and with
    them the same rounding."""
    classes: dict[int, list[K]] = {}
    for condition in missing:
        classes.setdefault(steps(condition), []).append(condition)
    size = at_once or max(1, len(missing))
    return [together[start : start + size] for together in classes.values() for start in range(0, len(together), size)]


def share_of(conditions: int, workers: int, at_once: int | None) -> int:
    """How many conditions a worker is given at once: an equal share, but no more than fit one bank."""
    equal = max(1, -(-conditions // workers))
    return min(equal, at_once) if at_once else equal


def planned_units(
    declared: Iterable[Work[Any]],
    workers: int,
    finished: Collection[str] = (),
    steps: Mapping[str, int] | None = None,
) -> list[Unit]:
    """All parts but those that are `finished`, in groups, each stage shared among `workers`; `steps`: how far
    unfinished ones are, by key. The groups depend on nothing else, not on who is faster."""
    far = steps or {}
    units = []
    for work in declared:
        missing = [key for key in work.keys.values() if key not in finished]
        groups = in_groups(missing, share_of(len(work.keys), workers, work.at_once), lambda key: far.get(key, 0))
        units += [Unit(work.stage, tuple(group)) for group in groups]
    return units


def needs_of(declared: Iterable[Work[Any]]) -> dict[str, list[str]]:
    """Of each part the parts that it is built from, by key."""
    return {key: list(work.needs(condition)) for work in declared for condition, key in work.keys.items()}


def work_of(declared: Iterable[Work[Any]], unit: Unit) -> tuple[Work[Any], list[Any]]:
    """The declared work that a unit belongs to, and its conditions. Raises BetastarError for keys that this run does
    not have, or that no one bank can build."""
    mine = [work for work in declared if work.stage == unit.stage]
    if not mine:
        stages = ", ".join(dict.fromkeys([OPENING.stage, REFERENCE.stage, *(work.stage for work in declared)]))
        raise BetastarError(
            "no stage of this run that can be made now", where=unit.stage, remedy=f"choose one of {stages}"
        )
    for work in mine:
        conditions = {key: condition for condition, key in work.keys.items()}
        if all(key in conditions for key in unit.keys):
            return work, [conditions[key] for key in unit.keys]
    known = {key for work in mine for key in work.keys.values()}
    strange = [key for key in unit.keys if key not in known]
    what = f"{strange[0]} is not a part of it" if strange else "these keys belong to banks with different settings"
    raise BetastarError(what, where=unit.stage, remedy="`betastar work RUN` lists what is ready to be made")


SETTINGS = "settings.json"


def write_settings(folder: Path, config: Config, place: Place | None = None) -> None:
    """Leave in a run directory, and in its place, the settings as they were asked for, so that workers need nothing
    else."""
    record = {"betastar": __version__, "settings": config.model_dump(mode="json")}
    make_folder(folder / "store")
    write_atomically(folder / "store" / SETTINGS, sealed(record))
    if place is not None:
        place.write(f"store/{SETTINGS}", sealed(record))


def read_settings(folder: Path, place: Place | None = None) -> Config:
    """The settings of a run directory, or of its place. Raises BetastarError if nobody has begun a run there, or if
    another version of betastar has."""
    try:
        if place is None:
            record = unsealed(folder / "store" / SETTINGS)
        else:
            record = unseal(place.read(f"store/{SETTINGS}") or b"")
    except (OSError, ValueError):
        where = str(folder) if place is None else place.uri
        raise BetastarError(
            "no run has been begun here", where=where, remedy="begin one with `betastar work RUN --source PRESET`"
        ) from None
    check_version(record["betastar"], f"the run in {folder}", "this machine")
    return Config.model_validate(record["settings"])


def check_version(theirs: str, begun_by: str, here: str) -> None:
    """Raises BetastarError if a run was begun by another version of betastar than is installed `here`: the keys of its
    parts would not be the same."""
    if theirs != __version__:
        raise BetastarError(
            f"{begun_by} is of betastar {theirs}, and {here} has {__version__}",
            remedy=f"install betastar {theirs} there",
        )
