"""Numbers as people and spreadsheets write them: "12,5", "1,000", "58 %", "10/438", "True"."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
OF_TOTAL = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")
GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(e[-+]?\d+)?", re.IGNORECASE)
NUMPY = re.compile(r"(?:np|numpy|jnp|torch)?\.?(?:float|int|uint|bfloat|array|tensor)\w*\((.*?)(?:, dtype=.*)?\)")
NUMBER_LIKE = re.compile(
    rf"\s*([-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?\s*%?|{OF_TOTAL.pattern}|\w*\.?\w+\(.*\)|[-+]?inf(inity)?|[-–]|n/?a|nan|none|null|"
    r"true|false|yes|no)?\s*",
    re.IGNORECASE,
)
LONG = 10_000  # cells
LARGEST = 10**300
WORDS = {"true": "1", "false": "0", "yes": "1", "no": "0"}


class Numbers(NamedTuple):
    """Values [rows], NaN where a cell is empty or text; `how` they were written, where not as plain numbers."""

    values: Array
    how: str | None


def numbers(column: Any) -> Numbers:
    """The numbers in a column. Infinities and text become NaN."""
    if column.dtype.kind in "biuf":
        return Numbers(_finite(column.to_numpy(dtype=float, na_value=np.nan)), None)
    if column.dtype.kind in "mMc":  # dates and complex numbers are no quantity
        return Numbers(np.full(len(column), np.nan), None)
    if _is_prose(column):
        return Numbers(np.full(len(column), np.nan), None)
    try:
        plain = np.array(pd.to_numeric(column, errors="coerce"), dtype=float)
    except OverflowError:  # an integer of hundreds of digits
        column = column.map(lambda cell: np.nan if isinstance(cell, int) and abs(cell) > LARGEST else cell)
        plain = np.array(pd.to_numeric(column, errors="coerce"), dtype=float)
    text = column[np.isnan(plain) & column.notna().to_numpy()]
    if text.empty:
        return Numbers(_finite(plain), None)
    whole = column.astype("string").str.strip()
    written = whole[whole.notna() & (whole != "")]
    if written.empty:
        return Numbers(_finite(plain), None)
    for how, read in (
        ("thousands separated by commas", _grouped),
        ("decimal commas", _decimal_commas),
        ("percent signs, divided by 100", _percent),
        ("truth values", _truth_values),
        ("NumPy numbers", _numpy),
        ("a count and its total", _of_total),
    ):
        found = read(written)
        if found is not None:
            values = np.full(len(column), np.nan)
            values[np.flatnonzero(whole.index.isin(written.index))] = found
            return Numbers(_finite(values), how)
    return Numbers(_finite(plain), None)


def _is_prose(column: Any) -> bool:
    """Whether none of a thousand cells of a long column could be a number. Trying prompts and responses one by one
    takes seconds."""
    if len(column) < LONG:
        return False
    written = column.dropna()
    few = written.iloc[:: max(1, len(written) // 1000)].astype(str)
    return not any(NUMBER_LIKE.fullmatch(cell[:100]) for cell in few)


def with_points(column: Any) -> Any:
    """A column of a file whose cells are not separated by commas: numbers with decimal commas as such with points, any
    other column as it is."""
    if column.dtype.kind in "biufmM":
        return column
    text = column.astype("string").str.strip()
    found = _decimal_commas(text[text.notna() & (text != "")])
    return column if found is None else text.str.replace(",", ".", regex=False)


def _finite(values: Any) -> Array:
    values = np.array(values, dtype=float)
    values[np.isinf(values)] = np.nan
    return values


def _all_numbers(text: Any) -> Array | None:
    values = np.array(pd.to_numeric(text, errors="coerce"), dtype=float)
    said_nan = text.str.lower().isin(["nan", "none", "null", "n/a", "na", "-", "–"]).to_numpy(dtype=bool)
    return values if not (np.isnan(values) & ~said_nan).any() and not np.isnan(values).all() else None


def _grouped(text: Any) -> Array | None:
    with_comma = text[text.str.contains(",", regex=False)]
    if with_comma.empty or not with_comma.str.fullmatch(GROUPED.pattern).all():
        return None
    return _all_numbers(text.str.replace(",", "", regex=False))


def _decimal_commas(text: Any) -> Array | None:
    with_comma = text[text.str.contains(",", regex=False)]
    if with_comma.empty or not with_comma.str.fullmatch(DECIMAL_COMMA.pattern, case=False).all():
        return None
    return _all_numbers(text.str.replace(",", ".", regex=False))


def _percent(text: Any) -> Array | None:
    if not text.str.contains("%", regex=False).all():
        return None
    rest = text.str.replace("%", "", regex=False).str.strip()
    values = _all_numbers(rest)
    values = _decimal_commas(rest) if values is None else values
    return None if values is None else values / 100


def _truth_values(text: Any) -> Array | None:
    lower = text.str.lower()
    return _all_numbers(lower.map(WORDS)) if lower.isin(WORDS).all() else None


def _numpy(text: Any) -> Array | None:
    if not text.str.contains("(", regex=False).any():
        return None
    return _all_numbers(text.str.replace(NUMPY.pattern, r"\1", regex=True))


def _of_total(text: Any) -> Array | None:
    parts = text.str.extract(f"^{OF_TOTAL.pattern}$")
    if parts.isna().any(axis=None):
        return None
    return _all_numbers(parts[0])
