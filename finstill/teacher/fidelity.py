"""Whether a teacher of lower precision may label in the float32 one's place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, norm, sem

from finstill.inference.session import CPU_PROVIDER, OnnxClassifier
from finstill.metrics import row_kl
from finstill.progress import progress_logger

logger = logging.getLogger(__name__)

LEAST_AGREEMENT = 0.99
LARGEST_KL = 0.01
LARGEST_BATCH_DEPENDENCE = 1e-4

FIDELITY_TEXTS = 4096
"""Test texts that a float32 graph reads too: their agreement is uncertain by 0.003."""

ROWS_ALONE = 128
"""Texts that are also run one by one."""


@dataclass(frozen=True)
class Fidelity:
    """How the labels of a graph of lower precision compare with the float32 graph's on the same rows.

    Attributes:
        rows: texts compared.
        agreement: share of rows with the same most likely class.
        agreement_interval: its 95% interval (Wilson 1927).
        kl_to_float32: mean KL from the float32 probabilities, in nats.
        kl_interval: its 95% interval, by the standard error over the rows.
        batch_dependence: the largest distance of a logit in a batch from that of its text alone. An int8 graph's
            products of integers are exact, but a float before them that rounds the other way in another batch moves an
            activation by a level; in float16, every sum rounds.
    """

    rows: int
    agreement: float
    agreement_interval: tuple[float, float]
    kl_to_float32: float
    kl_interval: tuple[float, float]
    batch_dependence: float

    @property
    def holds(self) -> bool:
        return (
            self.agreement >= LEAST_AGREEMENT
            and self.kl_to_float32 < LARGEST_KL
            and self.batch_dependence <= LARGEST_BATCH_DEPENDENCE
        )

    def __str__(self) -> str:
        low, high = self.agreement_interval
        least, most = self.kl_interval
        return (
            f"{self.agreement:.2%} of {self.rows:,} texts get the same class (95% interval {low:.2%} to {high:.2%}), "
            f"the mean KL is {self.kl_to_float32:.2g} nats ({least:.2g} to {most:.2g}), and batch mates move a logit "
            f"by {self.batch_dependence:.2g}"
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
    advance = progress_logger(logger, "teacher_onnx, compared with float32", 2 * len(rows), "texts")
    ours = labelling.logits(rows, token_budget, advance)
    exact = OnnxClassifier(float32).logits(rows, token_budget, advance)
    alone = np.concatenate([labelling.logits([row], token_budget) for row in rows[:ROWS_ALONE]])
    dependence = float(np.abs(ours[:ROWS_ALONE] - alone).max())
    same = int((ours.argmax(axis=1) == exact.argmax(axis=1)).sum())
    interval = binomtest(same, len(rows)).proportion_ci(method="wilson")
    kl = row_kl(ours, exact)
    return Fidelity(
        rows=len(rows),
        agreement=same / len(rows),
        agreement_interval=(float(interval.low), float(interval.high)),
        kl_to_float32=float(kl.mean()),
        kl_interval=_interval_of_mean(kl),
        batch_dependence=dependence,
    )


def _interval_of_mean(values: np.ndarray) -> tuple[float, float]:
    half = float(norm.ppf(0.975)) * float(sem(values))
    return max(0.0, float(values.mean()) - half), float(values.mean()) + half
