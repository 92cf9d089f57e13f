"""What stages share: their context, readers of one another's artefacts, evaluation, and the loop over pairs."""
