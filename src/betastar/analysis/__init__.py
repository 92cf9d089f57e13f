"""From evaluation points to conclusions: the same code for betastar's own runs and for tables from elsewhere."""
