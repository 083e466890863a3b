"""How long a classifier takes, beside another in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from finstill.inference.session import OnnxClassifier

REPEATS = 5


@dataclass(frozen=True)
class Contender:
    """A classifier, the token budget it runs best at, and the texts as it reads them.

    Attributes:
        texts: the token ids of each window of each text, of the same texts for each contender; tokenizing is no part of
            the time.
    """

    classifier: OnnxClassifier
    token_budget: int
    texts: Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Speed:
    """Medians: milliseconds of one text alone, and texts a second of many in length-sorted batches."""

    latency_ms: float
    texts_per_second: float


def compare_speed(contenders: Sequence[Contender]) -> list[Speed]:
    """Return the speed of each contender on the same texts.

    They take turns, so that whatever else the machine does meets all of them alike.
    """
    latencies: list[list[float]] = [[] for _ in contenders]
    totals: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        _seconds(contender, contender.texts[:4])
    for _ in range(REPEATS):
        for times, contender in zip(totals, contenders, strict=True):
            times.append(_seconds(contender, contender.texts))
        for times, contender in zip(latencies, contenders, strict=True):
            times += [_seconds(contender, [text]) for text in contender.texts[:8]]
    return [
        Speed(1000 * statistics.median(alone), len(contender.texts) / statistics.median(many))
        for alone, many, contender in zip(latencies, totals, contenders, strict=True)
    ]


def one_after_the_other(speeds: Sequence[Speed]) -> Speed:
    """Return the speed of several classifiers that each read every text."""
    return Speed(sum(speed.latency_ms for speed in speeds), 1 / sum(1 / speed.texts_per_second for speed in speeds))


def _seconds(contender: Contender, texts: Sequence[Sequence[Sequence[int]]]) -> float:
    rows = list(chain.from_iterable(texts))
    started = time.perf_counter()
    contender.classifier.logits(rows, contender.token_budget)
    return time.perf_counter() - started
