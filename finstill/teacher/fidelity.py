"""Whether an int8 teacher may label in the float32 one's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finstill.evaluation.metrics import agreement, divergence
from finstill.onnx_classifier import OnnxClassifier

LEAST_AGREEMENT = 0.99
LARGEST_DIVERGENCE = 0.01


@dataclass(frozen=True)
class Fidelity:
    """How the int8 graph's labels compare with the float32 graph's on the same rows.

    Attributes:
        rows: texts compared.
        agreement: share of rows with the same most likely class.
        divergence: mean KL from the float32 probabilities, in nats.
    """

    rows: int
    agreement: float
    divergence: float

    @property
    def holds(self) -> bool:
        return self.agreement >= LEAST_AGREEMENT and self.divergence < LARGEST_DIVERGENCE


def int8_fidelity(int8: Path, float32: Path, rows: Sequence[Sequence[int]], token_budget: int) -> Fidelity:
    """Compare two graphs of one teacher.

    Args:
        rows: token ids, special tokens included.
        token_budget: tokens of one batch, padding included.
    """
    ours, exact = (OnnxClassifier(graph).logits(rows, token_budget) for graph in (int8, float32))
    return Fidelity(len(rows), agreement(ours, exact), divergence(ours, exact))
