"""All students beside their teacher: the table and the verdicts a person decides from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finstill.config.recipe import Recipe
from finstill.evaluation.decisions import DecisionQuality
from finstill.evaluation.evaluate import Evaluation, StudentEvaluation
from finstill.evaluation.months import Month, by_month
from finstill.evaluation.significance import Difference, Group, group_by_recipe, leaderboard, without_seed
from finstill.training.rows import NO_LABEL

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What distilling was worth to a recipe's students, against their label-only baselines.

    Attributes:
        student, baseline: the groups, each of one recipe's students with all their seeds.
        difference: on the test split.
        steps, baseline_steps: batches that they were trained on, on the average over their seeds.
    """

    student: str
    baseline: str
    difference: Difference
    steps: int
    baseline_steps: int

    @property
    def sentence(self) -> str:
        words = f"{self.difference.words}; {self.steps:,} and {self.baseline_steps:,} training steps"
        if not self.difference.shown:
            return f"No difference shown between {self.student} and its label-only baseline {self.baseline}: {words}."
        verb = "beats" if self.difference.better else "is worse than"
        return f"{self.student} {verb} its label-only baseline {self.baseline}: {words}."


@dataclass(frozen=True)
class Comparison:
    """The teacher and the students, measured on the same test rows.

    Attributes:
        students: in the order of the recipes, each with its teacher as it was timed in the same run.
        verdicts: one for each recipe that has a label-only baseline.
        leaderboard: a row a recipe, its students of several seeds taken together; see `leaderboard`.
        months: of each classifier its measures by month; empty where no test text has a date that can be read.
    """

    students: list[StudentEvaluation]
    verdicts: list[Verdict]
    leaderboard: list[dict[str, Any]]
    months: dict[str, list[Month]] = field(default_factory=dict)

    @property
    def evaluations(self) -> list[Evaluation]:
        """The teacher's, as it was measured beside the first student, and the students'."""
        return [self.students[0].teacher, *(each.student for each in self.students)]

    def table(self) -> list[dict[str, Any]]:
        """Return a row a classifier; speeds are of one thread, `times_faster` against the teacher in the same run."""
        teacher, *_ = self.evaluations
        return [self._row(teacher, teacher), *(self._row(each.student, each.teacher) for each in self.students)]

    def _row(self, evaluation: Evaluation, teacher: Evaluation) -> dict[str, Any]:
        measured = evaluation.quality or {}
        return {
            "name": evaluation.name,
            "accuracy": measured.get("accuracy"),
            "macro_f1": measured.get("macro_f1"),
            "agreement": evaluation.agreement,
            "kl_to_teacher": evaluation.kl_to_teacher,
            "calibration_error": measured.get("calibration_error"),
            "calibrated_error": evaluation.calibrated_error,
            "macro_f1_out_of_domain": evaluation.out_of_domain and evaluation.out_of_domain.quality["macro_f1"],
            "agreement_out_of_domain": evaluation.out_of_domain and evaluation.out_of_domain.agreement,
            **_decision_figures(evaluation.decision),
            "parameters": evaluation.parameters,
            "megabytes": evaluation.megabytes,
            "latency_ms": evaluation.speed and evaluation.speed.latency_ms,
            "texts_per_second": evaluation.speed and evaluation.speed.texts_per_second,
            "times_faster": evaluation.times_faster(teacher),
        }


def _decision_figures(decision: DecisionQuality | None) -> dict[str, float | None]:
    """Return the table's columns of a task that decides about a label; none for another."""
    figures = (
        "at_the_point",
        "threshold",
        "precision",
        "recall",
        "alerts_per_thousand",
        "average_precision",
        "roc_area",
    )
    return {} if decision is None else {name: getattr(decision, name) for name in figures}


def compare(
    students: Mapping[str, StudentEvaluation],
    recipes: Mapping[str, Recipe],
    steps: Mapping[str, int],
    dates: Sequence[str | None] = (),
) -> Comparison:
    """Compare students that were evaluated on the same test split.

    Args:
        students: evaluations by recipe name; at least one.
        recipes: tell which student is whose baseline.
        steps: batches that each student was trained on.
        dates: of the test texts, in the order of the evaluations; empty where they are of no account.

    Raises:
        ValueError: two students were evaluated on different rows or against different teachers.
    """
    first = next(iter(students.values()))
    for name, student in students.items():
        if student.inputs != first.inputs:
            raise ValueError(f"'{name}' was evaluated on other data or another teacher: evaluate it again")
    logger.info("comparison: compares %s students", len(students))
    groups = group_by_recipe(students, recipes)

    def mean_steps(group: Group) -> int:
        return round(sum(steps[name] for name in group.students) / len(group.students))

    labelled = (first.labels != NO_LABEL).any()
    verdicts = [
        Verdict(group.name, baseline.name, group.against(baseline), *(mean_steps(each) for each in (group, baseline)))
        for group in groups
        for baseline in groups
        if without_seed(baseline.recipe).is_baseline_of(without_seed(group.recipe)) and labelled
    ]
    teacher_macro_f1 = first.teacher.quality["macro_f1"] if first.teacher.quality else None
    answers = {"teacher": first.teacher_logits, **{name: student.logits for name, student in students.items()}}
    months = {
        name: months
        for name, logits in answers.items()
        if (months := by_month(first.labels, logits, first.teacher_logits, dates))
    }
    return Comparison(list(students.values()), verdicts, leaderboard(groups, teacher_macro_f1), months)
