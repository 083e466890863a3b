"""Scoring texts with a packaged student: onnxruntime and numpy are all it needs where it reads by WordPiece."""

from finstill.serving.classifier import Score, StudentClassifier

__all__ = ["Score", "StudentClassifier"]
