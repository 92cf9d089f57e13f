"""The micro world: a tiny language, its arithmetic problems and its annotator."""
