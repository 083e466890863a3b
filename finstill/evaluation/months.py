"""Quality by month: whether a classifier answers later texts as well as earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import f1_score

from finstill.corpus.splits import day_of
from finstill.metrics import agreement
from finstill.training.rows import NO_LABEL


@dataclass(frozen=True)
class Month:
    """One classifier on the test texts of one month.

    Attributes:
        month: as `2019-07`.
        rows, labelled_rows: number of texts, and of those with a label.
        macro_f1: mean F1 over the classes that the month's labels hold; None where no text has a label. A class that
            does not occur in a month says nothing about it, where `finstill.metrics.macro_f1` counts 0.
        agreement: share of the texts with the teacher's class.
    """

    month: str
    rows: int
    labelled_rows: int
    macro_f1: float | None
    agreement: float


def by_month(
    labels: np.ndarray, logits: np.ndarray, teacher_logits: np.ndarray, dates: Sequence[str | None]
) -> list[Month]:
    """Return the measures of each month that has a text, in order; texts without a readable date are left out.

    Args:
        labels: int64, (rows,), `NO_LABEL` where a row has none.
        logits, teacher_logits: float32, (rows, classes).
        dates: ISO 8601 dates or datetimes, as the corpus holds them; empty where none is known.
    """
    months = np.array([_month(each) for each in dates], np.str_)
    measured = []
    for month in np.unique(months[months != ""]).tolist():
        rows = months == month
        labelled = rows & (labels != NO_LABEL)
        truth, predicted = labels[labelled], logits[labelled].argmax(axis=1)
        measured.append(
            Month(
                month,
                int(rows.sum()),
                len(truth),
                float(f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0))
                if len(truth)
                else None,
                agreement(logits[rows], teacher_logits[rows]),
            )
        )
    return measured


def _month(given: str | None) -> str:
    try:
        day = day_of(given)
    except ValueError:
        # Without a split by date nobody has asked that it be one.
        return ""
    return f"{day:%Y-%m}" if day else ""
