"""A night: which students it makes again, which runs come next, and what it did."""
