"""A corpus of three kinds of sentence and two students that train in a second."""

from __future__ import annotations

RECIPES = """\
# Two students that learn the corpus in a second, though their teacher is random.
small: &small
  architecture: {embedding: random, embedding_width: 8, hidden_width: 8, layers: 1}
  alpha: 0.1
  epochs: 6
  batch_size: 16
  learning_rate: 0.05
small-baseline:
  <<: *small
  alpha: 0
"""

TEXTS = {
    "negative": "Shares fell {} points after the warning",
    "neutral": "The meeting takes place in room {}",
    "positive": "Profit rose {} percent on strong orders",
}


def csv_rows(numbers: range) -> str:
    """Return a line of text and label for each number and label."""
    return "".join(f"{text.format(i)},{label}\n" for i in numbers for label, text in TEXTS.items())
