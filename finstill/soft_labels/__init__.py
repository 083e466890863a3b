"""Soft labels: what the teacher says of each text, computed once and kept for good."""
