"""Deciding whether texts have one label: thresholds of its probability, and what they are worth.

`truth` is bool, (rows,): whether a row has the label. `scores` are float64, (rows,): its calibrated probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score

from finstill.config.task import OperatingPoint
from finstill.errors import InputError
from finstill.metrics import bootstrap_difference, drawn_counts
from finstill.serving.classifier import calibrated
from finstill.serving.package import DecisionRule
from finstill.training.rows import NO_LABEL

LEVEL = 0.95


@dataclass(frozen=True)
class DecisionQuality:
    """What deciding is worth on labelled rows; a figure is None where it is not defined.

    Attributes:
        threshold: the one that decides.
        positives: rows with the label.
        precision, recall: of the alerts at that threshold.
        alerts_per_thousand: rows at or above the threshold, of a thousand.
        average_precision, roc_area: over all thresholds.
        at_the_point: what classifiers are compared by, see `value_at`.
    """

    threshold: float
    positives: int
    precision: float | None
    recall: float | None
    alerts_per_thousand: float
    average_precision: float | None
    roc_area: float | None
    at_the_point: float | None


def probability_of(position: int, logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """Return the calibrated probability of the label at `position`: float64, (rows,).

    Args:
        logits: float32, (rows, classes).
        temperature: that the logits are divided by; None leaves them as they are.
    """
    return calibrated(logits, temperature)[:, position]


def fit_threshold(
    task_labels: tuple[str, ...], label: str, point: OperatingPoint, labels: np.ndarray, scores: np.ndarray
) -> DecisionRule:
    """Return the rule that keeps to `point` on these rows, with the interval of its threshold by the bootstrap.

    Of the thresholds that keep to a recall, it is the one with the highest precision; to a precision, the one with the
    highest recall; to a share of alerts, the lowest one. It lies halfway between two probabilities, so that their
    rounding decides nothing. It is read on the rows of `counted_at`.

    Args:
        labels: int64, (rows,), `NO_LABEL` where a row has none; of rows that no weight was trained on.
        scores: float64, (rows,): the calibrated probabilities of `label`.

    Raises:
        InputError: no row has the label, so that recall and precision say nothing.
    """
    position = task_labels.index(label)
    counted = counted_at(labels, point)
    truth, scores = labels[counted] == position, scores[counted]
    if not len(scores) or (point.alerts_at_most is None and not truth.any()):
        raise InputError(
            f"the task decides about '{label}', and none of {len(scores):,} labelled validation texts has that label",
            where="task.decide",
            remedy="Label some, or decide by 'alerts_at_most', which needs no labels",
        )
    cells, counts = np.unique(np.stack([truth, scores], axis=1), axis=0, return_counts=True)
    curve = _Curve(cells[:, 0], cells[:, 1])
    (chosen,), _, (reached,) = curve.choose(counts[None], point)
    drawn = [curve.choose(each, point)[0] for each in drawn_counts(counts, LEVEL, np.random.default_rng(0))]
    low, high = np.quantile(curve.thresholds[np.concatenate(drawn)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    threshold = float(curve.thresholds[chosen])
    alerts = scores >= threshold
    known = labels[counted] != NO_LABEL
    precision, recall = _precision_and_recall(truth[known], alerts[known])
    return DecisionRule(
        label=label,
        position=position,
        point=point.model_dump(exclude_none=True),
        threshold=threshold,
        low=float(low),
        high=float(high),
        reached=bool(reached),
        rows=len(scores),
        positives=int(truth.sum()),
        precision=precision,
        recall=recall,
        alerts=float(alerts.mean()),
    )


def decision_quality(rule: DecisionRule, labels: np.ndarray, scores: np.ndarray) -> DecisionQuality:
    """Return what a rule is worth.

    Args:
        labels: int64, (rows,), `NO_LABEL` where a row has none: such rows count as alerts alone.
        scores: float64, (rows,).
    """
    known = labels != NO_LABEL
    truth, of_known = labels[known] == rule.position, scores[known]
    alerts = scores >= rule.threshold
    precision, recall = _precision_and_recall(truth, alerts[known])
    both = 0 < truth.sum() < len(truth)
    point = OperatingPoint(**rule.point)
    counted = counted_at(labels, point)
    return DecisionQuality(
        threshold=rule.threshold,
        positives=int(truth.sum()),
        precision=precision,
        recall=recall,
        alerts_per_thousand=1000 * float(alerts.mean()),
        average_precision=float(average_precision_score(truth, of_known)) if both else None,
        roc_area=float(roc_auc_score(truth, of_known)) if both else None,
        at_the_point=value_at(labels[counted] == rule.position, scores[counted], point) if truth.any() else None,
    )


def counted_at(labels: np.ndarray, point: OperatingPoint) -> np.ndarray:
    """Return the rows that `point` is read on: bool, (rows,).

    A share of alerts is one of all rows, and a row without a label counts as an alert alone: it is in `truth` as one
    that does not have the label. Recall and precision are those of the labelled rows.

    Args:
        labels: int64, (rows,), `NO_LABEL` where a row has none.
    """
    return np.ones(len(labels), bool) if point.alerts_at_most is not None else labels != NO_LABEL


def value_at(truth: np.ndarray, scores: np.ndarray, point: OperatingPoint) -> float:
    """Return the precision at a recall, the recall at a precision, or the recall at a share of alerts.

    The threshold is read on these rows, those of `counted_at`, as `fit_threshold` would choose it: so two classifiers
    are compared where both keep to the point. 0 where no threshold does.
    """
    return float(_Curve(truth, scores).choose(np.ones((1, len(truth)), int), point)[1][0])


def decided_at(truth: np.ndarray, scores: np.ndarray, point: OperatingPoint) -> np.ndarray:
    """Return which rows are alerts at the threshold that `value_at` reads, none where it reads 0: bool, (rows,)."""
    curve = _Curve(truth, scores)
    (chosen,), _, (reached,) = curve.choose(np.ones((1, len(truth)), int), point)
    return (scores >= curve.thresholds[chosen]) & reached


def difference_at(
    truth: np.ndarray, scores: np.ndarray, rival_scores: np.ndarray, point: OperatingPoint, *, level: float
) -> tuple[float, float, float]:
    """Return by how much `value_at` exceeds a rival's on the same rows, and the interval of that difference.

    The paired bootstrap of `finstill.metrics.paired_interval` over the rows of `counted_at`; each draw reads both
    thresholds anew.

    Args:
        scores, rival_scores: float64, (seeds, rows).

    Returns:
        difference of the means over seeds, low, high.
    """
    # The best threshold lies at the score of a row with the label. So each score counts as the next such one below it,
    # and there are few cells, however many rows have no label.
    runs = [_at_hits(truth, each) for each in (*scores, *rival_scores)]
    cells, counts = np.unique(np.stack([truth, *runs], axis=1), axis=0, return_counts=True)
    curves = [_Curve(cells[:, 0], cells[:, 1 + run]) for run in range(len(runs))]
    return bootstrap_difference(
        counts, lambda drawn: np.stack([curve.choose(drawn, point)[1] for curve in curves]), len(scores), level=level
    )


def orders_by_chance(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the p-value that the scores of rows with the label are no larger than those of the others.

    Mann and Whitney 1947, "On a Test of Whether one of Two Random Variables is Stochastically Larger than the Other";
    1 where all rows are of one kind.
    """
    if truth.all() or not truth.any():
        return 1.0
    return float(mannwhitneyu(scores[truth], scores[~truth], alternative="greater").pvalue)


def _at_hits(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the largest score of a row with the label that is no larger than each score, 0 where none is."""
    levels = np.unique(np.append(scores[truth], 0.0))
    return levels[np.searchsorted(levels, scores, side="right") - 1]


def _precision_and_recall(truth: np.ndarray, alerts: np.ndarray) -> tuple[float | None, float | None]:
    hits = int((truth & alerts).sum())
    return hits / int(alerts.sum()) if alerts.any() else None, hits / int(truth.sum()) if truth.any() else None


class _Curve:
    """The thresholds of some cells, from one that none reaches to one that all reach.

    Attributes:
        thresholds: float64, descending.
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray):
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._truth = truth[self._order].astype(bool)
        self._last = np.flatnonzero(np.diff(ordered, append=-1.0))
        distinct = ordered[self._last]
        self.thresholds = np.concatenate([[np.nextafter(1.0, 2.0)], (distinct[:-1] + distinct[1:]) / 2, [0.0]])

    def choose(self, counts: np.ndarray, point: OperatingPoint) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, where the cells occur so often, the threshold's position, its value, and whether it keeps to `point`.

        Args:
            counts: int64, (draws, cells).

        Returns:
            position: int64, (draws,).
            value: float64, (draws,), see `value_at`; NaN where no row has the label.
            reached: bool, (draws,).
        """
        counts = counts[:, self._order]
        alerts, hits = (
            np.pad(each.cumsum(axis=1)[:, self._last], ((0, 0), (1, 0))) for each in (counts, counts * self._truth)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = hits / alerts, hits / hits[:, -1:]
        draws = np.arange(len(counts))
        if point.alerts_at_most is not None:
            # Alerts only grow as the threshold falls: the last that keeps to the share has the highest recall.
            position = (alerts <= point.alerts_at_most * alerts[:, -1:]).sum(axis=1) - 1
            return position, recall[draws, position], np.ones(len(counts), bool)
        if point.recall_at_least is not None:
            kept, value = recall >= point.recall_at_least, precision
        else:
            kept, value = precision >= point.precision_at_least, recall
        position = np.where(kept, value, -1.0).argmax(axis=1)
        reached = kept[draws, position]
        nearest = np.where(np.isnan(precision), -1.0, precision).argmax(axis=1)
        value = np.where(hits[:, -1] > 0, np.where(reached, value[draws, position], 0.0), np.nan)
        return np.where(reached, position, nearest), value, reached
