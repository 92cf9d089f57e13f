"""Tables, figures, words and the page made from a run's results."""
