"""A reward that is a weighted sum of logged rewards, with the true one among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from betastar.analysis.logs.cells import Array
from betastar.errors import argument

COMPONENT = re.compile(r"(^|[/_])(rewards?|scores?)([/_]|$)")
SPREAD = re.compile(r"(std|min|max|frac_reward_zero_std)$")
MOST_COMPONENTS = 8


def without_the_truth(
    rows: dict[str, Array], fields: Mapping[str, str], told: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, str], str | None]:
    """A guessed proxy that is a weighted sum of logged rewards with the true one among them, less its true part: what
    is optimised beside the truth. The rows, the fields, and what was done."""
    proxy, true = fields["proxy"], fields["true_strict"]
    parts = [n for n in rows if n != proxy and COMPONENT.search(n) and not SPREAD.search(n) and n != true]
    weights = _weights(rows[proxy], [rows[name] for name in [true, *parts]]) if parts else None
    # With nothing else in it the proxy is the truth itself, as the analysis says.
    if weights is None or not weights[0] > 1e-6 or np.abs(weights[1:]).max() <= 1e-6:
        return rows, dict(fields), None
    share = f"{weights[0]:.3g}"
    if "proxy" in told:
        return rows, dict(fields), f"{proxy} is a sum that holds the true reward ({true}) with weight {share}"
    rest = f"{proxy} − {share} × {true}"
    rows = rows | {rest: rows[proxy] - weights[0] * rows[true]}
    fields = {field: column for field, column in fields.items() if field != "proxy_std"} | {"proxy": rest}
    counted = [(name, w) for name, w in zip(parts, weights[1:], strict=True) if abs(w) > 1e-6]
    if len(counted) == 1:  # the spread of the rest is that of its only part
        ((name, weight),) = counted
        spread = re.sub(r"(?<![a-z])mean$", "std", name)
        if spread != name and spread in rows:
            rows = rows | {f"{abs(weight):.3g} × {spread}": abs(weight) * rows[spread]}
            fields["proxy_std"] = f"{abs(weight):.3g} × {spread}"
    said = (
        f"{proxy} is a sum that holds the true reward ({true}) with weight {share}; the proxy is what remains without "
        f"it ({argument('proxy', 'COLUMN')} takes another)"
    )
    return rows, fields, said


def _weights(total: Array, parts: Sequence[Array]) -> Array | None:
    """The weights with which parts add up to the total; None where they do not, or rows are too few to tell."""
    table = np.column_stack(parts)
    known = ~np.isnan(total) & ~np.isnan(table).any(axis=1)
    if len(parts) > MOST_COMPONENTS or known.sum() < 2 * len(parts) + 1:
        return None
    total, table = total[known], table[known]
    solved = np.linalg.lstsq(table, total, rcond=1e-9)
    weights, rank = np.asarray(solved[0], dtype=np.float64), int(solved[2])
    if rank < len(parts) or np.abs(table @ weights - total).max() > 1e-4 * max(float(np.ptp(total)), 1e-9):
        return None
    return weights
