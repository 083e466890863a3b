"""Tuning: a search for a better recipe on the validation split, from cached logits alone."""
