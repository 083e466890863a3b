"""Finstill distils a financial-text classifier into small students, from logits computed once and kept in Parquet."""

__version__ = "0.1.0"
