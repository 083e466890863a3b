"""What the test rows tell of each class, and where they are too few to tell anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

TELLING = 0.10
"""Half the width of an interval of recall, above which the rows are too few."""

GOOD = 0.05
"""Half the width of the interval for which the number of rows is given."""

LEVEL = 0.95


def by_class(quality: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a class: precision, recall and F1, with the 95% Wilson intervals of the first two.

    Args:
        quality: of `finstill.metrics.quality`.
    """
    confusion = np.array(quality["confusion"])
    hits, predicted = confusion.diagonal().tolist(), confusion.sum(axis=0).tolist()
    table = []
    for i, (name, figures) in enumerate(quality["classes"].items()):
        row: dict[str, Any] = {"class": name}
        for measure, trials in (("precision", predicted[i]), ("recall", figures["rows"])):
            low, high = wilson_interval(hits[i], trials)
            row |= {measure: figures[measure], f"{measure}_low": low, f"{measure}_high": high}
        table.append({**row, "f1": figures["f1"], "rows": figures["rows"]})
    return table


def wilson_interval(hits: int, rows: int) -> tuple[float, float]:
    """Return the 95% interval of a share of which `hits` of `rows` were seen; without a row it is from 0 to 1.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference": unlike the normal one it holds
    for few rows and for shares near 0 and 1.
    """
    if not rows:
        return 0.0, 1.0
    interval = binomtest(hits, rows).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def classes_with_too_few_rows(students: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Return the classes of which some student's recall is not known to within 10 points.

    Args:
        students: of each student its `finstill.metrics.quality` on the same rows, None where no row has a label.

    Returns:
        A row a class, with the student whose recall is known least, and the number of rows that 5 points take.
    """
    rows = [{"student": name, **row} for name, quality in students.items() if quality for row in by_class(quality)]
    wide = [row for row in rows if _width(row) > 2 * TELLING]
    shown = ("class", "rows", "student", "recall", "recall_low", "recall_high")
    # The widest of a class is its last one.
    return [
        {**{key: row[key] for key in shown}, "rows_needed": rows_needed(row["recall_low"], row["recall_high"])}
        for row in {row["class"]: row for row in sorted(wide, key=_width)}.values()
    ]


def _width(row: Mapping[str, Any]) -> float:
    return float(row["recall_high"] - row["recall_low"])


def rows_needed(low: float, high: float) -> int:
    """Return the number of rows at which a share's 95% Wilson interval is at most 5 points to either side.

    It is the half-width z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / (4 n^2)) solved for n, at the p from `low` to
    `high` that takes most rows, which is the one nearest to one half: what few rows show of p is not relied upon.
    """
    share = min(max(0.5, low), high)
    square, half = float(norm.ppf((1 + LEVEL) / 2)) ** 2, GOOD**2
    # half n^2 + linear n + constant = 0
    linear, constant = square * (2 * half - share * (1 - share)), square**2 * (half - 1 / 4)
    return math.ceil((-linear + math.sqrt(linear**2 - 4 * half * constant)) / (2 * half))
