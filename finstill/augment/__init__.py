"""Augmentation: more texts of the corpus's own kind for the teacher to label, made from its train rows."""
