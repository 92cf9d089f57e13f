"""Which column of a log is what, and which condition a log belongs to."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import regex

from betastar.analysis.logs.log import Log, check_runs
from betastar.analysis.logs.names import EPOCH, FIELDS, MEANS, PREFERENCE, PROXY, STEP, TRUE, patterns
from betastar.errors import BetastarError, argument
from betastar.record.entries import REGISTRY

# A name is a phase ("train/", "eval_", …) and a bare name. Patterns are for whole bare names, best first.
PREFIX = re.compile(r"(train|training|trainer|eval|evaluation|goodhart|betastar)[/_](?=.)")
EVALUATION = re.compile(r"(^|/)(eval|evaluation|val|val-core|val-aux|test|goodhart|betastar)[/_]")

# What a person calls a field on the command line and in Python, where that differs from its name in metrics.jsonl.
ALIASES = {
    "true": "true_strict",
    "uncertainty": "disagreement",
    "entropy": "response_entropy",
    "length": "response_tokens",
}
LABELS = {field: alias for alias, field in ALIASES.items()}
MAIN = ("step", "proxy", "true_strict")
SHOWN = 40


def others() -> dict[str, tuple[str, ...]]:
    """Field → patterns for every measure of a point that a log may have, beside the two rewards. One without patterns
    of its own is known by its name."""
    measures = [m.name for m in REGISTRY.logged if m.kind != "numbers" and m.name not in MAIN]
    known = {field: patterns(names) for field, names in FIELDS.items()}
    return {**known, **{name: (re.escape(name),) for name in measures if name not in known}}


def field_name(name: str) -> str:
    """The field that a person means; BetastarError where there is none of that name."""
    field = ALIASES.get(name, name)
    fields = {*MAIN, *others()}
    if field not in fields:
        known = sorted({*fields, *ALIASES} - {"true_strict"})
        raise BetastarError(f"{name!r} is not a field of an analysis; use one of {', '.join(known)}.")
    return field


class Choice(NamedTuple):
    """`columns`: field → column. `notes`: what was seen on the way, such as equal columns."""

    columns: dict[str, str]
    notes: list[str]


def choose(
    names: Sequence[str],
    told: Mapping[str, str],
    where: str,
    values: Mapping[str, Any] | None = None,
    empty: Sequence[str] = (),
) -> Choice:
    """The column of each field among `names`, the numeric columns of the log called `where`; with their `values` [rows]
    equal columns count as one. `empty`: columns without any number, for what is said of them.

    The proxy must be found, and of several that could be the true reward one be told; both are from evaluation if both
    are logged there. Without any column for the true reward it is left out. `told` maps fields to columns and overrides
    every guess. Raises BetastarError for a column that is absent, and where a reward is unknown or open.
    """
    for field, column in told.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"numeric columns: {_listed(names)}."
            raise BetastarError(
                f"{where}: there is no numeric column {column!r} for {LABELS.get(field, field)}; {hint}"
            )
    free = [name for name in names if name not in told.values()]
    seen = _Search(where, list(names), values or {}, empty, [])
    _not_of_pairs(seen, told)
    if "proxy" not in told and not any(first_match(free, patterns(PROXY))) and (why := seen.no_online_training()):
        raise BetastarError(f"{where}: {why}; give the log of online training, or name both rewards.")
    true = [told["true_strict"]] if "true_strict" in told else seen.reward(free, patterns(TRUE), "true")
    rest = _without(free, true)
    proxy = [told["proxy"]] if "proxy" in told else seen.reward(rest, patterns(PROXY), "proxy")
    phases = {is_evaluation(name) for name in proxy} & {is_evaluation(name) for name in true or proxy}
    evaluation = True in phases or (not phases and is_evaluation(true[0]))
    chosen = {"proxy": _of_phase(proxy, evaluation)}
    if true:
        chosen["true_strict"] = _of_phase(true, evaluation)
    for field, reward in (("proxy_std", "proxy"), ("true_std", "true_strict")):
        if reward not in chosen:
            continue
        companion = re.sub(r"(?<![a-z])(mean|avg)$", "std", chosen[reward])
        options = (
            [companion]
            if companion != chosen[reward]
            else [f"{companion}{end}" for end in ("_std", " Std", " std", "/std")]
        )
        options += [re.sub(r"(?<![a-z])mean(?=[_/])", "std", chosen[reward])]
        if found := [name for name in options if name in free and name not in chosen.values()]:
            chosen[field] = found[0]
    for field, known in others().items():
        if field not in chosen and (found := first_match(_without(free, [*chosen.values()]), known)):
            chosen[field] = max(found, key=lambda name: _nearness(name, chosen["proxy"]))
    if chosen["proxy"] == chosen.get("true_strict"):
        raise BetastarError(
            f"{where}: {chosen['proxy']} is both the proxy and the true reward; name another with {argument('true')}."
        )
    return Choice({**chosen, **told}, seen.notes)


class _Search(NamedTuple):
    """A search for the rewards of one log."""

    where: str
    names: list[str]
    values: Mapping[str, Any]
    empty: Sequence[str]
    notes: list[str]

    def reward(self, free: Sequence[str], known: Sequence[str], flag: str) -> list[str]:
        """The columns of one reward, which differ in phase alone."""
        found = self.distinct(first_match(free, known))
        if len({bare(name) for name in found}) == 1:
            return found
        problem = f"{_listed(found)} could each be" if found else "no column is recognised as"
        if not found and (empty := first_match(self.empty, known)):
            raise BetastarError(
                f"{self.where}: {empty[0]}, the {flag} reward by its name, is not a number in any of its rows; name "
                f"another column with {argument(flag)}."
            )
        if not found and flag == "true":
            return []
        if found or not (likely := self.likely()):
            raise BetastarError(
                f"{self.where}: {problem} the {flag} reward; name it with {argument(flag, 'COLUMN')}. "
                f"Numeric columns: {_listed(self.names)}."
            )
        raise BetastarError(
            f"{self.where}: {problem} the {flag} reward; name it, for example with {likely}. "
            f"Numeric columns: {_listed(self.names)}."
        )

    def no_online_training(self) -> str:
        """Why a log without any reward has none, where that can be seen."""
        tokens = any(re.fullmatch(r"(mean_)?token_acc(uracy)?", bare(name)) for name in self.names)
        if tokens:
            return "comes from supervised fine-tuning (it has token accuracies and no reward)"
        plain = {bare(name).lower() for name in self.names}
        if "loss" in plain and plain & {"accuracy", "acc"}:
            return (
                "holds a loss and an accuracy but no reward, as trainers on preference pairs write it (their accuracy "
                "is that of pairs, not a true reward)"
            )
        return ""

    def distinct(self, found: Sequence[str]) -> list[str]:
        """The columns without those that repeat another one of the same phase, value for value."""
        kept: list[str] = []
        fullest = {name: -int(np.isfinite(self.values[name]).sum()) if name in self.values else 0 for name in found}
        for name in sorted(found, key=lambda name: (fullest[name], len(bare(name)), found.index(name))):
            same = [k for k in kept if is_evaluation(k) == is_evaluation(name) and self.equal(k, name)]
            if same:
                self.notes.append(f"{name} and {same[0]} are equal wherever both are logged, and count as one column")
            else:
                kept.append(name)
        return [name for name in found if name in kept]

    def equal(self, one: str, other: str) -> bool:
        if one not in self.values or other not in self.values:
            return False
        a, b = self.values[one], self.values[other]
        both = ~(np.isnan(a) | np.isnan(b))
        some = max(np.isfinite(a).sum(), np.isfinite(b).sum())
        return bool(2 * both.sum() > some and np.allclose(a[both], b[both], rtol=1e-6, atol=0))

    def likely(self) -> str:
        """The likeliest columns for the proxy, as flags: those that vary and do not only rise, without words that mean
        a spread, a count or a step."""
        best = []
        for name in self.names:
            data = self.values.get(name, np.zeros(0))
            data = data[~np.isnan(data)]
            varies = data.size > 1 and np.ptp(data) > 0 and not (np.diff(data) > 0).all()
            if varies and re.fullmatch(f"{MEANS}.*", bare(name).lower()):
                best.append(name)
        return " or ".join(argument("proxy", _quoted(name)) for name in best[:3])


def _not_of_pairs(seen: _Search, told: Mapping[str, str]) -> None:
    """Raises BetastarError for the log of a trainer on preference pairs, of which no reward is told."""
    if "proxy" in told and "true_strict" in told:
        return
    if of_pairs := [name for name in seen.names if PREFERENCE.fullmatch(bare(name))]:
        raise BetastarError(
            f"{seen.where}: comes from a trainer on preference pairs (DPO or a reward model: it has "
            f"{_listed(of_pairs[:3])}); its accuracy is that of pairs, not a true reward. Give the log of online "
            f"training, or name both rewards with {argument('proxy')} and {argument('true')}."
        )


def _quoted(name: str) -> str:
    return f"'{name}'" if re.search(r"[^\w./@:-]", name) else name


def step_columns(names: Sequence[str]) -> list[str]:
    """The columns that count steps: several where a tracker keeps one for training and one for evaluation."""
    return first_match(names, patterns(STEP))


def epoch_column(names: Sequence[str]) -> str | None:
    """The column that counts epochs, for a log without steps."""
    return next((name for name in names if re.fullmatch(EPOCH, bare(name).lower())), None)


def is_evaluation(name: str) -> bool:
    """Whether a column comes from evaluation rather than from training batches."""
    return bool(EVALUATION.search(name))


def bare(name: str) -> str:
    """A column's name without what says from which phase it is: "train/", "eval_", "goodhart/", …"""
    while (shorter := PREFIX.sub("", name, count=1) if PREFIX.match(name) else name) != name:
        name = shorter
    return name


def first_match(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The columns that match the first pattern that any matches."""
    for pattern in patterns:
        if found := [name for name in names if re.fullmatch(pattern, bare(name), re.IGNORECASE)]:
            return found
    return []


def _of_phase(names: Sequence[str], evaluation: bool) -> str:
    return next((name for name in names if is_evaluation(name) == evaluation), names[0])


def _nearness(name: str, proxy: str) -> tuple[bool, bool]:
    """How sure it is that a column was measured on the same responses as the proxy: larger is surer."""
    return name.removesuffix(bare(name)) == proxy.removesuffix(bare(proxy)), is_evaluation(name) == is_evaluation(proxy)


def _without(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    return [name for name in names if name not in taken]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


NUMBER = r"(?:\d+(?:[.p]\d+)?|\.\d+)(?:e[-+]?\d+)?"  # 0.5, 1e-3, and 0p5 where a file system dislikes dots
NAMED_IN_PATHS = (
    rf"(?<![a-z])(?:beta|β)[-_= ]?(?P<beta>{NUMBER})",
    rf"(?<![a-z0-9])b=(?P<beta>{NUMBER})",
    r"(?<![a-z0-9])b(?P<beta>\d+[.p]\d+)(?![a-z0-9])",
    r"(?<![a-z])seed[-_= ]?(?P<seed>\d+)",
    r"(?<![a-z0-9])s=?(?P<seed>\d+)(?![a-z0-9.])",
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


def split(log: Log, told: Mapping[str, str | float], most: int | None = None) -> Iterator[tuple[Log, Identity]]:
    """The runs of a log whose columns tell several apart, each with what those columns say.

    `told` may name a column for `variant`, `beta` or `seed`. Rows without any value there belong to no run. Raises
    TooManyRunsError for more than `most` runs.
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
        note = f"{nowhere.sum()} rows have no value in {' or '.join(keys)} and are skipped"
        rows, log = rows[~nowhere], log._replace(note="; ".join([*filter(None, [log.note]), note]))
    groups: Any = rows.groupby(keys, sort=False, dropna=False)
    check_runs(groups.ngroups, log.name, most)
    for values, group in groups:
        found = {part: value for part, value in zip(columns, values, strict=True) if value == value}  # not NaN
        name = log.name if groups.ngroups == 1 else f"{log.name}, {', '.join(f'{k} {v}' for k, v in found.items())}"
        yield log._replace(name=name, rows=group.drop(columns=keys)), _identity(found, log.name, columns)
        log = log._replace(note=None)  # once is enough


def finished_runs(log: Log, told: Mapping[str, str | float], most: int | None = None) -> list[tuple[Log, Identity]]:
    """The rows of a table of finished runs, each as a log with what its columns say of it: no two rows have the same
    variant, β and seed (or run), and no column of steps tells rows apart. Empty for any other log. Raises
    TooManyRunsError for more than `most`."""
    rows: Any = log.rows
    keys = {part: c for part, names in COLUMNS.items() if (c := _named_column(log, part, names, told)) is not None}
    steps = [name for name in step_columns(list(map(str, rows))) if rows[name].nunique() > 1]
    varying = [c for part, c in keys.items() if rows[c].nunique() > 1 and (part != "seed" or len(keys) > 1)]
    if len(rows) < FEWEST_FINISHED or "step" in told or steps or epoch_column(list(map(str, rows))) or not varying:
        return []
    if rows[varying].isna().any(axis=None) or rows.duplicated(varying).any():
        return []
    check_runs(len(rows), log.name, most)
    found = []
    for i in range(len(rows)):
        row = rows.iloc[[i]]
        told_here = {part: row[c].iloc[0] for part, c in keys.items()}
        name = f"{log.name}, {', '.join(f'{c} {row[c].iloc[0]}' for c in varying)}"
        identity = _identity(told_here, log.name, keys)
        if identity.variant is None and "run" in keys and identity.beta is None:
            identity = identity._replace(variant=str(told_here["run"]), seed=identity.seed or 0)
        found.append((log._replace(name=name, rows=row.drop(columns=list(keys.values()))), identity))
    return found


FEWEST_FINISHED = 3


def _named_column(log: Log, part: str, names: Sequence[str], told: Mapping[str, str | float]) -> str | None:
    """The column that a part of the identity is told to have or is named by."""
    column = told.get(part)
    if column is not None:
        return column if isinstance(column, str) and column in log.rows else None
    return next((name for name in names if name in log.rows), None)


def _identity(found: Mapping[str, Any], where: str, columns: Mapping[str, str]) -> Identity:
    """The identity in the values of columns."""
    variant, beta, seed = (found.get(part) for part in ("variant", "beta", "seed"))
    return Identity(
        None if variant is None else str(variant),
        None if beta is None else beta_of(beta, where, columns["beta"]),
        None if seed is None else seed_of(seed, where, columns["seed"]),
    )


def from_name(name: str, patterns: Sequence[str]) -> Identity:
    """What `patterns`, and after them the usual ways of naming, find in a run's name. The last place of several
    counts, and the user's patterns over the usual ones."""
    found: dict[str, str] = {}
    for pattern in map(_ignoring_case, NAMED_IN_PATHS):
        for match in pattern.finditer(name):
            found |= {part: text for part, text in match.groupdict().items() if text}
    for text, pattern in zip(patterns, compiled(patterns), strict=True):
        for groups in found_by(pattern, name, text):
            found |= {part: part_text for part, part_text in groups.items() if part_text}
    return Identity(
        found.get("variant"),
        beta_of(found["beta"].replace("p", "."), name, "beta") if "beta" in found else None,
        seed_of(found["seed"], name, "seed") if "seed" in found else None,
    )


def found_by(pattern: regex.Pattern[str], name: str, told: str) -> list[dict[str, str]]:
    """The groups of every match of a user's pattern in a name. Raises BetastarError if that takes over a second, as
    nested repetitions can."""
    try:
        return [match.groupdict() for match in pattern.finditer(name, timeout=SECONDS)]
    except TimeoutError:
        raise BetastarError(
            f"takes more than {SECONDS} s on the name {name[:60]!r}",
            where=argument("patterns", told),
            remedy="avoid repetitions of repetitions, such as (a+)+",
        ) from None


SECONDS = 1
"""A pattern's time for one name."""


def compiled(patterns: Sequence[str]) -> list[regex.Pattern[str]]:
    """Patterns with the named groups variant, beta and seed; BetastarError for one that is faulty or names none."""
    result = []
    for pattern in patterns:
        try:
            result.append(regex.compile(pattern, regex.IGNORECASE))
        except (regex.error, RecursionError) as error:
            raise BetastarError(f"{argument('patterns', pattern)}: not a regular expression ({error}).") from None
        if not {*result[-1].groupindex} & {*Identity._fields}:
            raise BetastarError(f"{argument('patterns', pattern)}: name the group, for example (?P<beta>[0-9.]+).")
    return result


def conditions(names: Sequence[str], found: Sequence[Identity]) -> list[Identity]:
    """One condition for every run, with a variant and a seed. What is unknown must not be averaged: a run without β and
    seed is a variant of its own; runs of one β without seeds are numbered as its seeds.

    Raises BetastarError where two runs would be the same condition.
    """
    known = {identity.variant for identity in found if identity.beta is not None}
    alike = Counter(found)
    taken: dict[Identity, str] = {}
    for name, short, identity in zip(names, short_names(names), found, strict=True):
        variant, beta, seed = _variant(identity, short, known), identity.beta, identity.seed
        if seed is None:
            seed = next(i for i in range(len(names)) if Identity(variant, beta, i) not in taken)
        place = Identity(variant, beta, int(seed))
        if beta is None and (place in taken or (identity.seed is not None and alike[identity] > 1)):
            # Nothing says that they are runs of one kind: each has its own name.
            place = place._replace(variant=short)
        if place in taken:
            raise BetastarError(
                f"{name} and {taken[place]} are both variant {variant}, β {beta}, seed {place.seed}; tell them apart "
                f"with {argument('patterns')}, for example '(?P<variant>[^/]+)/'."
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


def beta_of(value: Any, where: str, what: str) -> float:
    """A β. Raises BetastarError for what is none."""
    number = _number(value, where, what)
    if not 0 <= number < math.inf:
        raise BetastarError(f"{where}: {what} is {value}, but β is a finite number from 0; correct it.")
    return number


def seed_of(value: Any, where: str, what: str) -> int:
    """A seed. Raises BetastarError for a number that is not whole, and one that no column of integers holds."""
    if isinstance(value, str) and value.lstrip("-").isdecimal() and len(value) < 20:
        value = int(value)
    number = value if isinstance(value, int) else _number(value, where, what)
    if number % 1 != 0 or not abs(number) < 2**63:
        raise BetastarError(f"{where}: {what} is {value}, but a seed is a whole number below 2^63; correct it.")
    return int(number)


def _number(value: Any, where: str, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        shown = repr(value)[:60]
        raise BetastarError(f"{where}: {what} is {shown}, which is not a number; give one.") from None
