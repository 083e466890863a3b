"""Whether a teacher of lower precision may label in the float32 one's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finstill.inference.session import CPU_PROVIDER, OnnxClassifier
from finstill.metrics import agreement, kl_to_teacher

LEAST_AGREEMENT = 0.99
LARGEST_KL = 0.01
LARGEST_BATCH_DEPENDENCE = 1e-4

ROWS_ALONE = 128
"""Texts that are also run one by one."""


@dataclass(frozen=True)
class Fidelity:
    """How the labels of a graph of lower precision compare with the float32 graph's on the same rows.

    Attributes:
        rows: texts compared.
        agreement: share of rows with the same most likely class.
        kl_to_float32: mean KL from the float32 probabilities, in nats.
        batch_dependence: the largest distance of a logit in a batch from that of its text alone. An int8 graph's
            products of integers are exact, but a float before them that rounds the other way in another batch moves an
            activation by a level; in float16, every sum rounds.
    """

    rows: int
    agreement: float
    kl_to_float32: float
    batch_dependence: float

    @property
    def holds(self) -> bool:
        return (
            self.agreement >= LEAST_AGREEMENT
            and self.kl_to_float32 < LARGEST_KL
            and self.batch_dependence <= LARGEST_BATCH_DEPENDENCE
        )


def measure_fidelity(
    lower: Path, float32: Path, rows: Sequence[Sequence[int]], token_budget: int, provider: str = CPU_PROVIDER
) -> Fidelity:
    """Compare two graphs of one teacher.

    Args:
        lower: the graph of lower precision.
        rows: token ids, special tokens included.
        token_budget: tokens of one batch, padding included.
        provider: that the graph of lower precision runs on; the float32 one runs on the CPU.
    """
    labelling = OnnxClassifier(lower, provider=provider)
    ours, exact = labelling.logits(rows, token_budget), OnnxClassifier(float32).logits(rows, token_budget)
    alone = np.concatenate([labelling.logits([row], token_budget) for row in rows[:ROWS_ALONE]])
    dependence = float(np.abs(ours[:ROWS_ALONE] - alone).max())
    return Fidelity(len(rows), agreement(ours, exact), kl_to_teacher(ours, exact), dependence)
