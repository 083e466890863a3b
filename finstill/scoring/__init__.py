"""Scoring tables of texts with a packaged student, from files, from streams, and again as they grow."""
