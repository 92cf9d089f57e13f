"""What an experiment will take: memory by part, tokens by stage, and time from a short measurement on this machine."""
