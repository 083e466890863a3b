"""Whether the classes of a corpus are in the shares that they were in."""

from __future__ import annotations

import math
from collections.abc import Mapping

NOTABLE_DRIFT = 0.1
"""The usual reading of the index: below 0.1 nothing moved, from 0.25 on the population is another."""


def population_stability_index(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """Return how far the shares of classes moved: the sum over classes of (q - p) ln(q / p), in nats.

    It is the symmetric Kullback-Leibler divergence between the two distributions (Siddiqi 2006, "Credit Risk
    Scorecards"; Jeffreys 1946). Each class counts half a row more than it has, so that one that is missing on one side
    is finite.

    Args:
        before, now: rows of each class; a class that one side lacks has none there.
    """
    classes = sorted({*before, *now})
    shares = []
    for counts in (before, now):
        total = sum(counts.values()) + len(classes) / 2
        shares.append([(counts.get(name, 0) + 0.5) / total for name in classes])
    return sum((q - p) * math.log(q / p) for p, q in zip(*shares, strict=True))
