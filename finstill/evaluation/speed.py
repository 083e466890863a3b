"""How long a classifier takes, beside another in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from finstill.onnx_classifier import OnnxClassifier

REPEATS = 5


@dataclass(frozen=True)
class Contender:
    """A classifier and the token budget it runs best at."""

    classifier: OnnxClassifier
    token_budget: int


@dataclass(frozen=True)
class Speed:
    """Medians: milliseconds of one text alone, and texts a second of many in length-sorted batches."""

    latency_ms: float
    texts_per_second: float


def compare_speed(contenders: Sequence[Contender], rows: Sequence[Sequence[int]]) -> list[Speed]:
    """Return the speed of each contender on the same token ids.

    They take turns, so that whatever else the machine does meets all of them alike.

    Args:
        rows: token ids; tokenizing is the same work for all and is not part of the time.
    """
    latencies: list[list[float]] = [[] for _ in contenders]
    totals: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        contender.classifier.logits(rows[:4], contender.token_budget)
    for _ in range(REPEATS):
        for times, contender in zip(totals, contenders, strict=True):
            times.append(_seconds(contender, rows))
        for times, contender in zip(latencies, contenders, strict=True):
            times += [_seconds(contender, [row]) for row in rows[:8]]
    return [
        Speed(1000 * statistics.median(alone), len(rows) / statistics.median(many))
        for alone, many in zip(latencies, totals, strict=True)
    ]


def _seconds(contender: Contender, rows: Sequence[Sequence[int]]) -> float:
    started = time.perf_counter()
    contender.classifier.logits(rows, contender.token_budget)
    return time.perf_counter() - started
