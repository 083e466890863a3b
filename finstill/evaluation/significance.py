"""Which differences between students are shown, and which may be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finstill.config.recipe import Recipe
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.metrics import macro_f1, mcnemar, paired_interval
from finstill.training.rows import NO_LABEL


@dataclass(frozen=True)
class Difference:
    """The difference of two groups of students on the same labelled test rows, and whether it is shown.

    It is shown where two tests agree: the interval of macro-F1 lies clear of 0, and McNemar's test rejects at the same
    level that both are right equally often, in favour of the same one. Whatever Finstill says of two classifiers is
    said by this rule.

    Attributes:
        points, low, high: of mean macro-F1, and its interval by the paired bootstrap over seeds and rows.
        accuracy: of the two groups' middle students, the first's less the other's.
        p: of McNemar's exact test between these two.
        level: of the interval; 1 less the level of McNemar's test.
    """

    points: float
    low: float
    high: float
    accuracy: float
    p: float
    level: float = 0.95

    @classmethod
    def between(
        cls, labels: np.ndarray, runs: np.ndarray, rival_runs: np.ndarray, *, level: float = 0.95
    ) -> Difference:
        """Return what the first runs are better by than their rivals.

        Args:
            labels: int64, (rows,); each row has one.
            runs, rival_runs: logits, float, (seeds, rows, classes).
        """
        ours, theirs = (_middle(labels, each) for each in (runs, rival_runs))
        accuracy = float((ours.argmax(axis=1) == labels).mean() - (theirs.argmax(axis=1) == labels).mean())
        interval = paired_interval(labels, runs, rival_runs, level=level)
        return cls(*interval, accuracy, mcnemar(labels, ours, theirs), level)

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
        return f"{points:+.1f} points of macro-F1, {interval}; McNemar p = {self.p:.2g}"

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
        """Return `macro_f1` or `agreement` of each student: float64, (seeds,)."""
        evaluations = [student.student for student in self.students.values()]
        if measure == "agreement":
            return np.array([evaluation.agreement for evaluation in evaluations])
        return np.array([evaluation.quality["macro_f1"] for evaluation in evaluations if evaluation.quality])

    def against(self, other: Group) -> Difference:
        """Return this group less `other`; some test rows are labelled."""
        labels = next(iter(self.students.values())).labels
        labelled = labels != NO_LABEL
        ours, theirs = (
            np.stack([student.logits[labelled] for student in group.students.values()]) for group in (self, other)
        )
        return Difference.between(labels[labelled], ours, theirs)


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
    """Return a row a group: means and spreads over its seeds, and how it stands against the best by mean macro-F1.

    Args:
        teacher_macro_f1: None where no test row is labelled; then agreement alone is told.
    """
    if teacher_macro_f1 is None:
        return [{"recipe": group.name, "seeds": len(group.students), **_spread(group, "agreement")} for group in groups]
    best = max(groups, key=lambda group: group.figures("macro_f1").mean())
    return [
        {
            "recipe": group.name,
            "seeds": len(group.students),
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


def _middle(labels: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the logits of the run with the median macro-F1, the lower one of two."""
    order = np.argsort([macro_f1(labels, run) for run in runs], kind="stable")
    return runs[order[(len(runs) - 1) // 2]]
