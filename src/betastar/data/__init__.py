"""Data: preference records, verifiable tasks and their graders."""
