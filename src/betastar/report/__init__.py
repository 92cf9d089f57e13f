"""Tables, charts and words made from a run's results."""
