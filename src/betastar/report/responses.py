"""Text of models and users made harmless for a page; and responses side by side, with what changed in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from betastar.printing import visible
from betastar.report.palette import beta_labels
from betastar.report.points import number

HEAD, TAIL = 3000, 1000  # characters kept of a response that is too long


def cut(text: str) -> str:
    """At most HEAD + TAIL characters, with a note of how many are left out, and `visible`."""
    if len(text) <= HEAD + TAIL:
        return visible(text)
    left_out = len(text) - HEAD - TAIL
    return f"{visible(text[:HEAD])}\n[… {left_out:,} characters omitted …]\n{visible(text[-TAIL:])}"


def script_json(value: Any) -> str:
    """JSON for a `<script type="application/json">`: ASCII only, without a character that HTML could read as markup.
    NaN and infinity are refused."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


BUDGET = 3_500_000  # characters of JSON in the page


def browser_data(samples: Sequence[Mapping[str, Any]], budget: int = BUDGET) -> dict[str, Any] | None:
    """Tables of distinct texts and problems, and `rows` that point into them: [variant, β, seed, step, problem,
    response, proxy, û, strict, lenient]. Text is already `visible`. `note` says what was left out to stay within the
    budget. None without samples."""
    rows = [s for s in samples if isinstance(s.get("response"), str) and s.get("step") is not None]
    if not rows:
        return None
    steps = sorted({row["step"] for row in rows})
    kept = steps
    data = _packed(rows)
    while len(script_json(data)) > budget and len(kept) > 2:
        # Every other step, the first and the last among them.
        kept = sorted({*kept[::2], kept[-1]}) if len(kept) > 3 else [kept[0], kept[-1]]
        data = _packed([row for row in rows if row["step"] in set(kept)])
    problems = sorted({_problem(row) for row in rows}, key=str)
    while len(script_json(data)) > budget and len(problems) > 1:
        problems = problems[: len(problems) // 2]
        data = _packed([r for r in rows if r["step"] in set(kept) and _problem(r) in set(problems)])
    lost = len(rows) - len(data["rows"])
    note = (
        f"{lost:,} of {len(rows):,} responses are omitted to keep the page small; samples.jsonl has all of them."
        if lost
        else ""
    )
    return {**data, "note": note}


def _packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    betas = beta_labels([row["beta"] for row in rows])
    variants = list(dict.fromkeys(str(row["variant"]) for row in rows))
    names = list(betas.values())
    texts: dict[str, int] = {}
    problems: dict[Any, int] = {}
    described = []
    packed = []
    for row in rows:
        key = _problem(row)
        if key not in problems:
            problems[key] = len(problems)
            described.append(
                {
                    "name": visible(str(key)),
                    "question": cut(_text(row, "question", "prompt")),
                    "gold": cut(_text(row, "gold")),
                }
            )
        text = cut(row["response"])
        packed.append(
            [
                variants.index(str(row["variant"])),
                names.index(betas[row["beta"]]),
                row["seed"],
                row["step"],
                problems[key],
                texts.setdefault(text, len(texts)),
                _short(row.get("proxy")),
                _short(row.get("disagreement")),
                _grade(row.get("strict")),
                _grade(row.get("lenient")),
            ]
        )
    return {
        "variants": [visible(v) for v in variants],
        "betas": names,
        "problems": described,
        "texts": list(texts),
        "rows": packed,
    }


def _problem(row: Mapping[str, Any]) -> Any:
    return row.get("problem", _text(row, "question", "prompt"))


def _text(row: Mapping[str, Any], *names: str) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), "")
    return value if isinstance(value, str) else str(value)


def _short(value: Any) -> float | None:
    there = number(value) if isinstance(value, int | float) else None
    return None if there is None else float(f"{there:.4g}")


def _grade(value: Any) -> int | None:
    return None if value is None else int(bool(value))
