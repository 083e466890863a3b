"""All students beside their teacher: the table and the verdicts a person decides from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finstill.distil.loss import NO_LABEL
from finstill.evaluation.evaluate import Evaluation, StudentEvaluation
from finstill.evaluation.metrics import describe_difference, paired_interval
from finstill.students.recipe import Recipe


@dataclass(frozen=True)
class Verdict:
    """What distilling was worth to one student: its macro-F1 less its twin's, which learned from labels alone.

    Attributes:
        difference, low, high: the difference on the test split and its 95% interval.
    """

    student: str
    twin: str
    difference: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        points = describe_difference(self.difference, self.low, self.high)
        if self.low > 0:
            return f"{self.student} beats its directly trained twin {self.twin}: {points}."
        if self.high < 0:
            return f"{self.student} is worse than its directly trained twin {self.twin}: {points}."
        return f"No difference shown between {self.student} and its directly trained twin {self.twin}: {points}."


@dataclass(frozen=True)
class Comparison:
    """The teacher and the students, measured on the same test rows.

    Attributes:
        evaluations: the teacher first, then the students in the order of the recipes.
        verdicts: one for each student that has a twin.
    """

    evaluations: list[Evaluation]
    verdicts: list[Verdict]

    def table(self) -> list[dict[str, Any]]:
        """Return a row a classifier; speeds are of one thread, and the teacher's is from each student's own run."""
        return [self._row(evaluation) for evaluation in self.evaluations]

    def _row(self, evaluation: Evaluation) -> dict[str, Any]:
        measured = evaluation.quality or {}
        return {
            "name": evaluation.name,
            "accuracy": measured.get("accuracy"),
            "macro_f1": measured.get("macro_f1"),
            "agreement": evaluation.agreement,
            "divergence": evaluation.divergence,
            "calibration_error": measured.get("calibration_error"),
            "macro_f1_elsewhere": evaluation.elsewhere and evaluation.elsewhere.quality["macro_f1"],
            "agreement_elsewhere": evaluation.elsewhere and evaluation.elsewhere.agreement,
            "parameters": evaluation.parameters,
            "megabytes": evaluation.megabytes,
            "latency_ms": evaluation.speed.latency_ms,
            "texts_per_second": evaluation.speed.texts_per_second,
            "times_faster": evaluation.speed.texts_per_second / self.evaluations[0].speed.texts_per_second,
        }


def compare(students: Mapping[str, StudentEvaluation], recipes: Mapping[str, Recipe]) -> Comparison:
    """Compare students that were evaluated on the same test split.

    Args:
        students: evaluations by recipe name; at least one.
        recipes: tell which student is whose twin.

    Raises:
        ValueError: two students were evaluated on different test rows or against different teachers.
    """
    first = next(iter(students.values()))
    for name, student in students.items():
        same = (
            student.teacher.digest == first.teacher.digest
            and np.array_equal(student.labels, first.labels)
            and student.teacher.elsewhere == first.teacher.elsewhere
        )
        if not same:
            raise ValueError(f"'{name}' was evaluated on other data or another teacher: evaluate it again")
    verdicts = [
        _verdict(name, twin, students)
        for name in students
        for twin in students
        if recipes[twin].is_twin_of(recipes[name]) and (first.labels != NO_LABEL).any()
    ]
    return Comparison([first.teacher, *(student.student for student in students.values())], verdicts)


def _verdict(name: str, twin: str, students: Mapping[str, StudentEvaluation]) -> Verdict:
    labels = students[name].labels
    labelled = labels != NO_LABEL
    return Verdict(
        name,
        twin,
        *paired_interval(labels[labelled], students[name].logits[labelled], students[twin].logits[labelled]),
    )
