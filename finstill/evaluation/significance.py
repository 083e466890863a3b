"""Which differences between students are shown, and which may be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finstill.config.recipe import Recipe
from finstill.config.task import OperatingPoint
from finstill.evaluation.decisions import counted_at, decided_at, difference_at, value_at
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.metrics import macro_f1, mcnemar, paired_interval
from finstill.training.rows import NO_LABEL


@dataclass(frozen=True)
class Difference:
    """The difference of two groups of students on the same labelled test rows, and whether it is shown.

    It is shown where two tests agree: the interval of the measure lies clear of 0, and McNemar's test rejects at the
    same level that both are right equally often, in favour of the same one. Whatever Finstill says of two classifiers
    is said by this rule. Where the measure is a recall, McNemar's test counts the rows that have the label alone.

    Attributes:
        points, low, high: of the mean of the measure, and its interval by the paired bootstrap over seeds and rows.
        accuracy: of the two groups' middle students on the rows of McNemar's test, the first's less the other's.
        p: of McNemar's exact test between these two.
        level: of the interval; 1 less the level of McNemar's test.
        measure: macro-F1, or what the task's operating point is measured by.
    """

    points: float
    low: float
    high: float
    accuracy: float
    p: float
    level: float = 0.95
    measure: str = "macro-F1"

    @classmethod
    def between(
        cls, labels: np.ndarray, runs: np.ndarray, rival_runs: np.ndarray, *, level: float = 0.95
    ) -> Difference:
        """Return what the first runs are better by than their rivals.

        Args:
            labels: int64, (rows,); each row has one.
            runs, rival_runs: logits, float, (seeds, rows, classes).
        """
        right = [
            _middle(each, [macro_f1(labels, run) for run in each]).argmax(axis=1) == labels
            for each in (runs, rival_runs)
        ]
        interval = paired_interval(labels, runs, rival_runs, level=level)
        return cls(*interval, _accuracy_gained(*right), mcnemar(*right), level)

    @classmethod
    def between_decisions(
        cls,
        truth: np.ndarray,
        scores: np.ndarray,
        rival_scores: np.ndarray,
        point: OperatingPoint,
        *,
        level: float = 0.95,
    ) -> Difference:
        """Return what the first runs are better by than their rivals where both keep to `point`.

        McNemar's test is between the decisions of the middle runs, each at its own threshold there.

        Args:
            truth: bool, (rows,): which rows have the label that is decided, of those of `counted_at`.
            scores, rival_scores: float64, (seeds, rows): its probability.
        """
        middle = [_middle(each, [value_at(truth, run, point) for run in each]) for each in (scores, rival_scores)]
        # At a precision below one half, whoever finds more texts of the label is right on fewer texts.
        tested = truth if point.recall_at_least is None else np.ones(len(truth), bool)
        right = [(decided_at(truth, each, point) == truth)[tested] for each in middle]
        interval = difference_at(truth, scores, rival_scores, point, level=level)
        return cls(*interval, _accuracy_gained(*right), mcnemar(*right), level, point.measure)

    @property
    def shown(self) -> bool:
        """Whether both tests find a difference, in favour of the same one."""
        clear = self.low > 0 or self.high < 0
        return clear and self.accuracy * self.points > 0 and self.p < 1 - self.level

    @property
    def better(self) -> bool:
        return self.shown and self.points > 0

    @property
    def words(self) -> str:
        points, low, high = (100 * value for value in (self.points, self.low, self.high))
        interval = f"{100 * self.level:.4g}% interval {low:+.1f} to {high:+.1f}"
        return f"{points:+.1f} points of {self.measure}, {interval}; McNemar p = {self.p:.2g}"

    def __str__(self) -> str:
        return self.words if self.shown else f"no difference shown: {self.words}"


@dataclass(frozen=True)
class Group:
    """Students of one recipe that differ in their seed alone.

    Attributes:
        recipe: the first one's.
        students: their evaluations by name, in the order of the recipes.
    """

    recipe: Recipe
    students: dict[str, StudentEvaluation]

    @property
    def name(self) -> str:
        """The first student's name, with the number of seeds where there are several."""
        first, *others = self.students
        return f"{first} ({len(self.students)} seeds)" if others else first

    def figures(self, measure: str) -> np.ndarray:
        """Return `macro_f1`, `agreement` or `at_the_point` of each student: float64, (seeds,)."""
        evaluations = [student.student for student in self.students.values()]
        if measure == "agreement":
            return np.array([evaluation.agreement for evaluation in evaluations])
        if measure == "at_the_point":
            return np.array(
                [each.decision.at_the_point for each in evaluations if each.decision and each.decision.positives]
            )
        return np.array([evaluation.quality["macro_f1"] for evaluation in evaluations if evaluation.quality])

    def against(self, other: Group) -> Difference:
        """Return this group less `other`; some test rows are labelled."""
        return difference(list(self.students.values()), list(other.students.values()))


def difference(
    ours: Sequence[StudentEvaluation], theirs: Sequence[StudentEvaluation], *, level: float = 0.95
) -> Difference:
    """Return students of several seeds less others, by what the task compares; some test rows are labelled."""
    labels = ours[0].labels
    if (decided := ours[0].decided) is not None and (labels == decided.position).any():
        counted = counted_at(labels, decided.point)
        scores, rival_scores = (
            np.stack([each.decided.scores[counted] for each in group if each.decided]) for group in (ours, theirs)
        )
        truth = labels[counted] == decided.position
        return Difference.between_decisions(truth, scores, rival_scores, decided.point, level=level)
    labelled = labels != NO_LABEL
    runs, rival_runs = (np.stack([each.logits[labelled] for each in group]) for group in (ours, theirs))
    return Difference.between(labels[labelled], runs, rival_runs, level=level)


def group_by_recipe(students: Mapping[str, StudentEvaluation], recipes: Mapping[str, Recipe]) -> list[Group]:
    """Return students in groups of one recipe, the seed left out of account, in the order of the recipes."""
    groups: dict[str, Group] = {}
    for name, student in students.items():
        group = groups.setdefault(without_seed(recipes[name]).digest, Group(recipes[name], {}))
        group.students[name] = student
    return list(groups.values())


def without_seed(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"seed": 0})


def leaderboard(groups: Sequence[Group], teacher_macro_f1: float | None) -> list[dict[str, Any]]:
    """Return a row a group: means and spreads over its seeds, and how it stands against the best.

    The best is the one with the largest mean of macro-F1, or of `DecisionQuality.at_the_point` where the task decides
    about a label.

    Args:
        teacher_macro_f1: None where no test row is labelled; then agreement alone is told.
    """
    if teacher_macro_f1 is None:
        return [{"recipe": group.name, "seeds": len(group.students), **_spread(group, "agreement")} for group in groups]
    decisive = "at_the_point" if all(len(group.figures("at_the_point")) for group in groups) else "macro_f1"
    best = max(groups, key=lambda group: group.figures(decisive).mean())
    return [
        {
            "recipe": group.name,
            "seeds": len(group.students),
            **({} if decisive == "macro_f1" else _spread(group, decisive)),
            **_spread(group, "macro_f1"),
            "share_of_teacher": float(group.figures("macro_f1").mean()) / max(teacher_macro_f1, 1e-9),
            **_spread(group, "agreement"),
            "against_the_best": "the best" if group is best else str(group.against(best)),
        }
        for group in groups
    ]


def _spread(group: Group, measure: str) -> dict[str, float | None]:
    figures = group.figures(measure)
    # The sample's standard deviation, which one seed does not have.
    deviation = float(figures.std(ddof=1)) if len(figures) > 1 else None
    return {measure: float(figures.mean()), f"{measure}_deviation": deviation}


def _middle(runs: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """Return the run with the median value, the lower one of two."""
    return runs[np.argsort(values, kind="stable")[(len(runs) - 1) // 2]]


def _accuracy_gained(right: np.ndarray, rival_right: np.ndarray) -> float:
    return float(right.mean() - rival_right.mean())
