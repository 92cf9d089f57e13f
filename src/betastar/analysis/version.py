"""The version of `results.json` that is written and read here."""

SCHEMA_VERSION = 2
