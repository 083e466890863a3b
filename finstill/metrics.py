"""Measures of a classifier against true labels and against its teacher.

Logits are float32, (rows, classes); labels are int64, (rows,), positions in the task's labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

CALIBRATION_BINS = 15


def macro_f1(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean over all classes of F1, a class that is never given nor predicted counting 0."""
    classes = range(logits.shape[1])
    return float(f1_score(labels, logits.argmax(axis=1), labels=classes, average="macro", zero_division=0))


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Return the share of rows whose most likely class is the teacher's."""
    return float((logits.argmax(axis=1) == teacher_logits.argmax(axis=1)).mean())


def divergence(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Return KL(teacher || student) at temperature 1 in nats, averaged over rows."""
    teacher = log_softmax(teacher_logits.astype(np.float64), axis=1)
    student = log_softmax(logits.astype(np.float64), axis=1)
    return float((np.exp(teacher) * (teacher - student)).sum(axis=1).mean())


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


def describe_difference(difference: float, low: float, high: float) -> str:
    """Return what `paired_interval` found, for people."""
    return f"{100 * difference:+.1f} points of macro-F1, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"


def paired_interval(
    labels: np.ndarray, logits: np.ndarray, rival_logits: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Return by how much macro-F1 exceeds a rival's on the same rows, and the 95% interval of that difference.

    The interval is the percentile bootstrap over rows, the same rows drawn for both (Efron and Tibshirani 1993,
    chapter 13): what the two have in common cancels out. Where either was trained with several seeds, the seeds are
    drawn too, for each on its own, so that the interval is one of the recipe and not of its lucky run.

    Args:
        logits, rival_logits: float32, (rows, classes) or (seeds, rows, classes).

    Returns:
        difference of the means over seeds, low, high.
    """
    random = np.random.default_rng(seed)
    rows = random.integers(len(labels), size=(resamples, len(labels)))
    means, resampled = [], []
    for scores in (logits, rival_logits):
        runs = scores.reshape(-1, *scores.shape[-2:])
        means.append(float(np.mean([macro_f1(labels, run) for run in runs])))
        drawn = np.stack([_f1_of_draws(labels, run, rows) for run in runs])
        chosen = random.integers(len(runs), size=(len(runs), resamples))
        resampled.append(np.take_along_axis(drawn, chosen, axis=0).mean(axis=0))
    low, high = np.quantile(resampled[0] - resampled[1], [0.025, 0.975])
    return means[0] - means[1], float(low), float(high)


def mcnemar(labels: np.ndarray, logits: np.ndarray, rival_logits: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test that two classifiers are equally often right on the same rows.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages", with
    the binomial in place of the chi-squared distribution: only rows that one gets right and the other wrong count.

    Args:
        logits, rival_logits: float32, (rows, classes).
    """
    right, rival_right = logits.argmax(axis=1) == labels, rival_logits.argmax(axis=1) == labels
    ahead, behind = int((right & ~rival_right).sum()), int((rival_right & ~right).sum())
    return float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0


def _f1_of_draws(labels: np.ndarray, logits: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return macro-F1 over each row of `draws`, positions of texts: float64, (draws,)."""
    classes = logits.shape[1]
    cell = labels * classes + logits.argmax(axis=1)
    offsets = np.arange(len(draws))[:, None] * classes**2
    counts = np.bincount((cell[draws] + offsets).ravel(), minlength=len(draws) * classes**2)
    confusion = counts.reshape(len(draws), classes, classes)
    hits = confusion.diagonal(axis1=1, axis2=2)
    total = confusion.sum(axis=1) + confusion.sum(axis=2)
    return (2 * hits / np.maximum(total, 1)).mean(axis=1)
