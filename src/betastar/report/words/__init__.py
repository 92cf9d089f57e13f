"""What a result says in words: one source for terminal, page, summary and comparison.

`headline` leads: truth, β, which β, how sure. `tables` has the outcomes by β and by run. Everything in `secondary` and
`signs` follows.
"""

from betastar.report.words.headline import Headline, headline, headlines, measure_note, one_beta, penalty
from betastar.report.words.secondary import (
    conclusions,
    damage_columns,
    damage_rows,
    difference_sentences,
    distance_conclusions,
    mechanism_columns,
    mechanism_rows,
)
from betastar.report.words.signs import (
    CHAIN_COLUMNS,
    SIGNAL_COLUMNS,
    TIMING_COLUMNS,
    chain_notes,
    chain_rows,
    signal_name,
    signal_notes,
    signal_rows,
    signs_sentence,
    timing_rows,
)
from betastar.report.words.tables import condition_columns, condition_rows, outcome_columns, outcome_rows

__all__ = [
    "CHAIN_COLUMNS",
    "SIGNAL_COLUMNS",
    "TIMING_COLUMNS",
    "Headline",
    "chain_notes",
    "chain_rows",
    "conclusions",
    "condition_columns",
    "condition_rows",
    "damage_columns",
    "damage_rows",
    "difference_sentences",
    "distance_conclusions",
    "headline",
    "headlines",
    "measure_note",
    "mechanism_columns",
    "mechanism_rows",
    "one_beta",
    "outcome_columns",
    "outcome_rows",
    "penalty",
    "signal_name",
    "signal_notes",
    "signal_rows",
    "signs_sentence",
    "timing_rows",
]
