"""Training with TRL: the engine, and the worker that runs one job of it."""
