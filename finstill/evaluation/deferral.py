"""A student that asks its teacher about the texts it is least sure of: what that is worth, and from when on it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finstill.config.task import OperatingPoint, Task, class_groups
from finstill.evaluation.calibration import fit_temperature
from finstill.evaluation.decisions import fit_threshold, probability_of
from finstill.serving.classifier import calibrated, sureness
from finstill.serving.package import DecisionRule, Deferral
from finstill.training.rows import NO_LABEL, TrainingRows


def fit_deferral(
    share: float,
    task: Task,
    teacher_labels: Sequence[str],
    validation: TrainingRows,
    logits: np.ndarray,
    temperature: float | None,
    decision: DecisionRule | None,
) -> Deferral:
    """Return when a student leaves a text to its teacher.

    Args:
        share: of the texts, at most, that are left.
        teacher_labels: the teacher's classes, in the order of its logits.
        validation: a row a text, with the teacher's logits over the task's labels.
        logits: float32, (rows, labels), the student's.
        temperature, decision: the student's.
    """
    assert validation.teacher_logits is not None
    sure = sureness_of(logits, temperature, decision)
    theirs, theirs_temperature = teachers_rule(task.labels, validation, decision)
    return Deferral(
        share=share,
        below=asked_below(sure, share),
        classes=class_groups(task, teacher_labels),
        temperature=theirs_temperature,
        threshold=theirs.threshold if theirs else None,
    )


def sureness_of(logits: np.ndarray, temperature: float | None, decision: DecisionRule | None) -> np.ndarray:
    """Return how sure a student is of each row, as it does in service: float64, (rows,)."""
    return sureness(
        calibrated(logits, temperature), None if decision is None else (decision.position, decision.threshold)
    )


def teachers_rule(
    labels: tuple[str, ...], validation: TrainingRows, decision: DecisionRule | None
) -> tuple[DecisionRule | None, float | None]:
    """Return a teacher's own rule at a student's operating point, and its temperature; fitted as the student's are.

    Args:
        validation: a row a text, with the teacher's logits.
        decision: the student's, None where the task decides about no label.
    """
    assert validation.teacher_logits is not None
    labelled = validation.labels != NO_LABEL
    temperature = fit_temperature(validation.labels[labelled], validation.teacher_logits[labelled])
    if decision is None:
        return None, temperature
    scores = probability_of(decision.position, validation.teacher_logits, temperature)
    point = OperatingPoint(**decision.point)
    return fit_threshold(labels, decision.label, point, validation.labels, scores), temperature


def asked_below(sureness: np.ndarray, share: float) -> float:
    """Return the sureness below which at most `share` of these rows lie, halfway between two rows.

    Args:
        sureness: float64, (rows,), see `finstill.serving.classifier.sureness`; of the validation split.
    """
    ordered, asked = np.sort(sureness), int(share * len(sureness))
    return float((ordered[asked - 1] + ordered[asked]) / 2) if asked else 0.0


@dataclass(frozen=True)
class DeferralCurve:
    """Macro-F1 where the teacher answers the rows that the student is least sure of.

    Attributes:
        macro_f1: float64, (rows + 1,), where it answers 0, 1, ... and all of them.
    """

    macro_f1: np.ndarray

    @classmethod
    def of(
        cls, truth: np.ndarray, student: np.ndarray, teacher: np.ndarray, sureness: np.ndarray, classes: int
    ) -> DeferralCurve:
        """Return the curve of some labelled rows.

        Args:
            truth, student, teacher: int64, (rows,): the class, and what each says.
            sureness: float64, (rows,), the student's.
        """
        order = np.argsort(sureness, kind="stable")
        each = np.arange(classes)
        actual = truth[order, None] == each

        def counts(of_student: np.ndarray, of_teacher: np.ndarray) -> np.ndarray:
            """Count each class over the rows, the first 0, 1, ... as the teacher says and the rest as the student."""
            changes = of_teacher.astype(np.int64) - of_student
            return of_student.sum(axis=0) + np.pad(changes.cumsum(axis=0), ((1, 0), (0, 0)))

        by_student, by_teacher = student[order, None] == each, teacher[order, None] == each
        hits = counts(by_student & actual, by_teacher & actual)
        return cls((2 * hits / np.maximum(counts(by_student, by_teacher) + actual.sum(axis=0), 1)).mean(axis=1))

    @property
    def shares(self) -> np.ndarray:
        """The share of rows that the teacher answers at each point: float64, (rows + 1,)."""
        return np.linspace(0, 1, len(self.macro_f1))

    @property
    def share_for_teacher_quality(self) -> float:
        """The smallest share at which the two together are no worse than the teacher alone."""
        return float(self.shares[(self.macro_f1 >= self.macro_f1[-1]).argmax()])
