"""The experiment: the pipeline and its stages, the store that they meet in, and what they share."""
