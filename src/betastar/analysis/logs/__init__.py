"""Reading the logs of runs that were trained elsewhere."""
