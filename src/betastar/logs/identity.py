"""Which condition a log belongs to: variant, β and seed, from columns, from names, or told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from betastar.errors import BetastarError
from betastar.logs.log import Log

NUMBER = r"(?:\d+(?:[.p]\d+)?|\.\d+)(?:e[-+]?\d+)?"  # 0.5, 1e-3, and 0p5 where a file system dislikes dots
NAMED_IN_PATHS = (
    rf"(?<![a-z])(?:beta|β)[-_= ]?(?P<beta>{NUMBER})",
    rf"(?<![a-z0-9])b=(?P<beta>{NUMBER})",
    r"(?<![a-z])seed[-_= ]?(?P<seed>\d+)",
    r"(?<![a-z0-9])s=(?P<seed>\d+)",
)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "variant": ("variant",),
    "beta": ("beta", "β", "Beta"),
    "seed": ("seed", "random_seed"),
    "run": ("run", "run_id", "run_name", "experiment"),
}


class Identity(NamedTuple):
    """What is known of a run; None is unknown."""

    variant: str | None = None
    beta: float | None = None
    seed: int | None = None


def split(log: Log, told: Mapping[str, str | float]) -> Iterator[tuple[Log, Identity]]:
    """The runs of a log whose columns tell several apart, each with what those columns say.

    `told` may name a column for `variant`, `beta` or `seed`. Rows without any value there belong to no run.
    """
    columns = {part: column for part, names in COLUMNS.items() if (column := _column(log, part, names, told))}
    keys = list(columns.values())
    if not keys:
        yield log, Identity()
        return
    rows: Any = log.rows
    nowhere = rows[keys].isna().all(axis=1)
    if (rows[keys].nunique() == 1).all():  # one run, and a tracker may write what it is in one row alone
        rows = rows.assign(**{key: rows[key].dropna().iloc[0] for key in keys})
    elif nowhere.any():
        note = f"{nowhere.sum()} rows have no value in {' or '.join(keys)} and are left out"
        rows, log = rows[~nowhere], log._replace(note="; ".join([*filter(None, [log.note]), note]))
    groups: Any = rows.groupby(keys, sort=False, dropna=False)
    for values, group in groups:
        found = {part: value for part, value in zip(columns, values, strict=True) if value == value}  # not NaN
        name = log.name if groups.ngroups == 1 else f"{log.name}, {', '.join(f'{k} {v}' for k, v in found.items())}"
        variant, beta, seed = (found.get(part) for part in ("variant", "beta", "seed"))
        identity = Identity(
            None if variant is None else str(variant),
            None if beta is None else _number(beta, log.name, columns["beta"]),
            None if seed is None else int(_number(seed, log.name, columns["seed"])),
        )
        yield log._replace(name=name, rows=group.drop(columns=keys)), identity
        log = log._replace(note=None)  # once is enough


def from_name(name: str, patterns: Sequence[str]) -> Identity:
    """What `patterns`, and after them the usual ways of naming, find in a run's name. The last place of several
    counts, and the user's patterns over the usual ones."""
    found: dict[str, str] = {}
    for pattern in (*map(_ignoring_case, NAMED_IN_PATHS), *compiled(patterns)):
        for match in pattern.finditer(name):
            found |= {part: text for part, text in match.groupdict().items() if text}
    return Identity(
        found.get("variant"),
        _number(found["beta"].replace("p", "."), name, "beta") if "beta" in found else None,
        int(_number(found["seed"], name, "seed")) if "seed" in found else None,
    )


def compiled(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Patterns with the named groups variant, beta and seed; BetastarError for one that is faulty or names none."""
    result = []
    for pattern in patterns:
        try:
            result.append(_ignoring_case(pattern))
        except re.error as error:
            raise BetastarError(f"--pattern {pattern}: not a regular expression ({error}).") from None
        if not {*result[-1].groupindex} & {*Identity._fields}:
            raise BetastarError(f"--pattern {pattern}: name what it finds, for example (?P<beta>[0-9.]+).")
    return result


def conditions(names: Sequence[str], found: Sequence[Identity]) -> list[Identity]:
    """One condition for every run, with a variant and a seed. What is unknown must not be averaged: a run without β and
    seed is a variant of its own; runs of one β without seeds are numbered as its seeds.

    Raises BetastarError where two runs would be the same condition.
    """
    known = {identity.variant for identity in found if identity.beta is not None}
    taken: dict[Identity, str] = {}
    for name, short, identity in zip(names, short_names(names), found, strict=True):
        variant, beta, seed = _variant(identity, short, known), identity.beta, identity.seed
        if seed is None:
            seed = next(i for i in range(len(names)) if Identity(variant, beta, i) not in taken)
        place = Identity(variant, beta, int(seed))
        if place in taken:
            raise BetastarError(
                f"{name} and {taken[place]} are both variant {variant}, β {beta}, seed {place.seed}; tell them apart "
                "with --pattern, for example '(?P<variant>[^/]+)/'."
            )
        taken[place] = name
    return list(taken)


def short_names(names: Sequence[str]) -> list[str]:
    """Paths without the folders that all share; the last part alone where they are one."""
    parts = [name.split("/") for name in names]
    shared = next((i for i, column in enumerate(zip(*parts, strict=False)) if len({*column}) > 1), None)
    return ["/".join(part[-1:] if shared is None else part[shared:]) for part in parts]


def _variant(identity: Identity, name: str, known: set[str | None]) -> str:
    """The variant of a run called `name`; `known`: the variants of which some run has a β."""
    variant, beta, seed = identity
    if beta is not None:
        return "logged" if variant is None else variant
    unknown = name if seed is None else "β unknown"
    if variant is None:
        return unknown
    return f"{variant}, {unknown}" if variant in known or seed is None else variant


def _ignoring_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _column(log: Log, part: str, names: Sequence[str], told: Mapping[str, str | float]) -> str | None:
    """The column that tells a part of the identity, if the log has one."""
    if part in told:
        column = told[part]
        if isinstance(column, str) and column not in log.rows:
            raise BetastarError(f"{log.name}: there is no column {column!r} for {part}; give a column or a number.")
        return column if isinstance(column, str) else None
    for name in names:
        # What changes at almost every row, as a KL coefficient named beta may, tells no runs apart.
        if name in log.rows and 0 < 2 * len(log.rows[name].dropna().unique()) <= max(2, len(log.rows)):
            return name
    return None


def _number(value: Any, where: str, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BetastarError(f"{where}: {what} is {value!r}, which is no number; give one for it.") from None
