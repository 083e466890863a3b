"""Scoring texts with a packaged student: onnxruntime, tokenizers and numpy are all it needs."""

from finstill.serving.classifier import Score, StudentClassifier

__all__ = ["Score", "StudentClassifier"]
