"""What a run is, typed: evaluation points, the record of `results.json`, the registry of measures, the one reader and
writer, data frames, and the tables of docs/results.md."""
