"""Logs of finished training runs, ours and other people's: one reader per format, one guess per column, one table."""
