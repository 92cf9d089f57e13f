"""Pure functions of the experiment: arrays in, arrays out. Each names the equation it computes."""
