"""Scoring texts with a packaged student: onnxruntime, numpy and tokie are all it needs for BERT's tokenizers."""

from finstill.serving.classifier import Score, StudentClassifier

__all__ = ["Score", "StudentClassifier"]
