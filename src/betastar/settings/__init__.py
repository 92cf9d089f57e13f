"""Settings: every one with its meaning, and how a configuration of them is read."""
