"""What the aggregates of an ensemble need. Without torch, because settings are checked against it."""

from __future__ import annotations

FEWEST = {"min": 2, "lcb": 2, "uwo": 2, "median": 3, "merged": 2}
"""Members with which an aggregate is another one than the mean or a single member."""
COMPARING = ("min", "lcb", "uwo", "median")
"""Aggregates that compare members, whose constants and scales are arbitrary."""
