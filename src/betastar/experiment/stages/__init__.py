"""Stages of the experiment, one file each. A stage never imports another stage: they meet in the store."""
