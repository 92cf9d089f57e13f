"""Language models: the adapter bank on one frozen base, sampling, log-probabilities, reward ensembles."""
