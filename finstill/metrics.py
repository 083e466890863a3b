"""Measures of a classifier against true labels and against its teacher.

Logits are float32, (rows, classes); labels are int64, (rows,), positions in the task's labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

CALIBRATION_BINS = 15

RESAMPLES_BEYOND = 100
"""Draws of the bootstrap that fall outside of an interval, on both sides together: they decide where its ends are."""

DRAWN_AT_ONCE = 2**20
"""Counts of cells that the bootstrap holds at a time."""


def macro_f1(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean over all classes of F1, a class that is never given nor predicted counting 0."""
    classes = range(logits.shape[1])
    return float(f1_score(labels, logits.argmax(axis=1), labels=classes, average="macro", zero_division=0))


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Return the share of rows whose most likely class is the teacher's."""
    return float((logits.argmax(axis=1) == teacher_logits.argmax(axis=1)).mean())


def kl_to_teacher(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Return KL(teacher || student) at temperature 1 in nats, averaged over rows."""
    return float(row_kl(logits, teacher_logits).mean())


def row_kl(logits: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    """Return KL(teacher || student) at temperature 1 of each row, nats: float64, (rows,)."""
    teacher = log_softmax(teacher_logits.astype(np.float64), axis=1)
    student = log_softmax(logits.astype(np.float64), axis=1)
    return (np.exp(teacher) * (teacher - student)).sum(axis=1)


def reliability(labels: np.ndarray, logits: np.ndarray) -> list[dict[str, float]]:
    """Return, for each of 15 equal bins of the confidence that holds a row, its rows, mean confidence and accuracy."""
    probabilities = softmax(logits, axis=1)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        {
            "rows": int((bins == i).sum()),
            "confidence": float(confidence[bins == i].mean()),
            "accuracy": float(correct[bins == i].mean()),
        }
        for i in np.unique(bins)
    ]


def calibration_error(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks"), 15 bins."""
    return sum(
        bin_["rows"] / len(labels) * abs(bin_["confidence"] - bin_["accuracy"]) for bin_ in reliability(labels, logits)
    )


def quality(labels: np.ndarray, logits: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return every measure against true labels.

    Args:
        names: the task's labels, in the order of the logits.
    """
    predicted = logits.argmax(axis=1)
    classes = range(len(names))
    precision, recall, f1, rows = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1.mean()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "classes": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(rows[i]),
            }
            for i, name in enumerate(names)
        },
        "confusion": confusion_matrix(labels, predicted, labels=classes).tolist(),
        "calibration_error": calibration_error(labels, logits),
        "reliability": reliability(labels, logits),
    }


def paired_interval(
    labels: np.ndarray, logits: np.ndarray, rival_logits: np.ndarray, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Return by how much macro-F1 exceeds a rival's on the same rows, and the interval of that difference.

    The interval is the percentile bootstrap over rows, the same rows drawn for both (Efron and Tibshirani 1993, "An
    Introduction to the Bootstrap", chapter 13): what the two have in common cancels out. Macro-F1 depends only on how
    often each cell (a label and what every run predicts) occurs, and rows drawn with replacement fill the cells by a
    multinomial distribution with the observed shares (chapter 4). So the counts are drawn and not the rows: the
    distribution is the same, memory depends on the number of distinct cells, and the order of the rows is of no
    account. Where either was trained with several seeds, the seeds are drawn too, for each on its own, so that the
    interval is one of the recipe and not of its lucky run.

    Args:
        logits, rival_logits: float32, (rows, classes) or (seeds, rows, classes).
        level: share of such intervals that hold the true difference.

    Returns:
        difference of the means over seeds, low, high.
    """
    ours, theirs = (scores.reshape(-1, *scores.shape[-2:]).argmax(axis=-1) for scores in (logits, rival_logits))
    cells, counts = distinct_cells(labels, np.concatenate([ours, theirs]))
    classes = logits.shape[-1]
    return bootstrap_difference(counts, lambda drawn: macro_f1_of_cells(cells, drawn, classes), len(ours), level=level)


def bootstrap_difference(
    counts: np.ndarray, measure: Callable[[np.ndarray], np.ndarray], ours: int, *, level: float
) -> tuple[float, float, float]:
    """Return by how much a measure of our runs exceeds that of the others, and the interval: see `paired_interval`.

    Args:
        counts: int64, (cells,): how many rows each cell has.
        measure: takes counts, int64, (draws, cells), and returns the measure of every run: float64, (runs, draws); NaN
            where a draw has none.
        ours: the first runs, which are ours; the others are the rival's.

    Returns:
        difference of the means over runs, low, high.
    """
    random = np.random.default_rng(0)
    observed = measure(counts[None])
    drawn = np.concatenate([measure(each) for each in drawn_counts(counts, level, random)], axis=1)
    means, resampled = [], []
    for runs in (slice(ours), slice(ours, None)):
        means.append(float(observed[runs].mean()))
        chosen = random.integers(len(drawn[runs]), size=drawn[runs].shape)
        resampled.append(np.take_along_axis(drawn[runs], chosen, axis=0).mean(axis=0))
    low, high = np.nanquantile(resampled[0] - resampled[1], [(1 - level) / 2, (1 + level) / 2])
    return means[0] - means[1], float(low), float(high)


def drawn_counts(counts: np.ndarray, level: float, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield how often each cell occurs in the bootstrap's draws: int64, (draws, cells), so many draws at a time.

    Args:
        counts: int64, (cells,): how many rows each cell has.
        level: of the interval, which says how many draws there are.
    """
    rows, resamples = counts.sum(), round(RESAMPLES_BEYOND / (1 - level))
    at_once = max(1, DRAWN_AT_ONCE // len(counts))
    for start in range(0, resamples, at_once):
        yield random.multinomial(rows, counts / rows, size=min(at_once, resamples - start))


def distinct_cells(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each combination of a label and what every run predicts, and how many rows have it.

    Args:
        predicted: int64, (runs, rows).

    Returns:
        cells: int64, (cells, 1 + runs), in ascending order, the label first.
        counts: int64, (cells,).
    """
    return np.unique(np.stack([labels, *predicted], axis=1), axis=0, return_counts=True)


def macro_f1_of_cells(cells: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    """Return each run's `macro_f1` where the cells occur so often: float64, (runs, draws).

    Args:
        cells: see `distinct_cells`.
        counts: int64, (draws, cells).
    """
    label, *runs = cells.T
    # A sparse row a cell, so that memory does not grow with cells times classes.
    row = np.arange(len(cells) + 1)
    truth = csr_array((np.ones(len(cells)), label, row), shape=(len(cells), classes))
    scores = []
    for predicted in runs:
        hit = csr_array(((predicted == label).astype(np.float64), label, row), shape=truth.shape)
        prediction = csr_array((np.ones(len(cells)), predicted, row), shape=truth.shape)
        scores.append((2 * (counts @ hit) / np.maximum(counts @ (truth + prediction), 1)).mean(axis=-1))
    return np.stack(scores)


def mcnemar(right: np.ndarray, rival_right: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test that two classifiers are equally often right on the same rows.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages", with
    the binomial in place of the chi-squared distribution: only rows that one gets right and the other wrong count.

    Args:
        right, rival_right: bool, (rows,): which rows each gets right.
    """
    ahead, behind = int((right & ~rival_right).sum()), int((rival_right & ~right).sum())
    return float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0
