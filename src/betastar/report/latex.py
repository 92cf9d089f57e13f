"""Text for LaTeX: what has a meaning there is escaped, and what Computer Modern lacks becomes mathematics."""

from __future__ import annotations

import re

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "#$%&_"},
}
# The signs that our own sentences and names hold; letters of other scripts are left to the document's engine.
MATHS = {
    "β": r"\beta",
    "τ": r"\tau",
    "κ": r"\kappa",
    "ρ": r"\rho",
    "λ": r"\lambda",
    "δ": r"\delta",
    "π": r"\pi",
    "χ": r"\chi",
    "û": r"\hat{u}",
    "★": r"^{\star}",
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "−": "-",
    "≤": r"\leq",
    "≥": r"\geq",
    "≈": r"\approx",
    "√": r"\surd",
    "∝": r"\propto",
    "→": r"\to",
    "²": "^{2}",
    "<": "<",
    ">": ">",
    "|": "|",
}
WORDS = {"r_UQ": r"$r_{\mathrm{UQ}}$", "–": "--", "…": r"\ldots{}"}
_TOKEN = re.compile("|".join([*map(re.escape, WORDS), "[" + re.escape("".join([*SPECIAL, *MATHS])) + "]"]))


def escaped(text: str) -> str:
    """A text as LaTeX that prints it, on one line."""

    def replaced(match: re.Match[str]) -> str:
        token = match[0]
        return WORDS.get(token) or SPECIAL.get(token) or f"${MATHS[token]}$"

    return _TOKEN.sub(replaced, " ".join(text.split()))


def in_maths(cell: str) -> str:
    """A table's cell, with its numbers (`-0.5`, `29.9 ± 1`, `1.2e+06`, `p = 1`) as mathematics, its words as text."""
    number = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    parts = re.split(rf"((?:p = )?{number}(?: ± {number})?)", cell)
    return "".join(_maths(part) if i % 2 else escaped_around(part) for i, part in enumerate(parts))


def escaped_around(text: str) -> str:
    """`escaped` with the blanks at both ends kept."""
    inner = escaped(text)
    return f"{' ' * text.startswith(' ')}{inner}{' ' * (text.endswith(' ') and bool(inner))}"


def _maths(number: str) -> str:
    powers = re.sub(r"e([+-]?)0*(\d+)", lambda m: rf" \times 10^{{{m[1].strip('+')}{m[2]}}}", number)
    return f"${powers.replace('±', chr(92) + 'pm')}$"
