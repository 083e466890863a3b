"""The corpus: texts from files or the hub, normalised, each once, in a split that never changes."""
