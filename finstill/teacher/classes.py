"""Whether a teacher's classes are placed under the right labels, and whether what it says is worth distilling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix

from finstill.config.task import Task, UnmatchedClassesError, class_groups, task_logits
from finstill.errors import InputError
from finstill.metrics import bootstrap_difference, macro_f1, mcnemar, paired_interval

MAPPINGS_TRIED = 1000
MAPPINGS_SHOWN = 6


@dataclass(frozen=True)
class ClassMapping:
    """A way to place a teacher's classes under a task's labels.

    Attributes:
        accuracy: share of labelled texts that get their label, from 0 to 1.
        teacher_classes: the teacher's classes under each label, as a task's setting of this name.
    """

    accuracy: float
    teacher_classes: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        placed = ", ".join(f"{label}: [{', '.join(names)}]" for label, names in self.teacher_classes.items())
        return f"{{{placed}}}"


def possible_mappings(
    task: Task, teacher_labels: Sequence[str], labels: np.ndarray, logits: np.ndarray
) -> list[ClassMapping]:
    """Return every way to place the classes that leaves no label without one, the most accurate first.

    Where there are too many ways to try, the most accurate one alone is returned, if there are as many classes as
    labels, and else none.

    Args:
        labels: int64, (rows,), positions in the task's labels; each row has one.
        logits: float32, (rows, teacher classes), in the order of `teacher_labels`.
    """
    names = task.labels
    if len(names) ** len(teacher_labels) > MAPPINGS_TRIED:
        if len(names) != len(teacher_labels):
            return []
        said = logits.argmax(axis=1)
        best = _most_accurate(labels, said, len(names))
        classes: dict[str, tuple[str, ...]] = {
            name: (teacher_labels[each],) for name, each in zip(names, np.argsort(best), strict=True)
        }
        return [ClassMapping(float((best[said] == labels).mean()), classes)]
    found = []
    for placed in itertools.product(range(len(names)), repeat=len(teacher_labels)):
        if len(set(placed)) < len(names):
            continue
        classes = {
            name: tuple(each for each, label in zip(teacher_labels, placed, strict=True) if label == position)
            for position, name in enumerate(names)
        }
        mapped = task_logits(logits, task.model_copy(update={"teacher_classes": classes}), teacher_labels)
        found.append(ClassMapping(float((mapped.argmax(axis=1) == labels).mean()), classes))
    return sorted(found, key=lambda mapping: -mapping.accuracy)


def require_matching_classes(
    task: Task, teacher_labels: Sequence[str], answers: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> None:
    """Stop where the teacher's classes do not match the task's labels, and show how accurate the best mappings are.

    Args:
        answers: called only where they do not match; returns labels and logits of labelled texts of the corpus, as
            `possible_mappings` takes them, or no rows where there are none.

    Raises:
        InputError: they do not match.
    """
    try:
        class_groups(task, teacher_labels)
    except UnmatchedClassesError as error:
        labels, logits = answers()
        if not len(labels) or not (mappings := possible_mappings(task, teacher_labels, labels, logits)):
            raise
        best = "the first" if len(mappings) > 1 else "that"
        table = "; ".join(f"{mapping.accuracy:.1%} with {mapping}" for mapping in mappings[:MAPPINGS_SHOWN])
        raise InputError(
            f"{error.problem}. On {len(labels):,} labelled texts of the corpus the teacher is right in {table}",
            where="task.teacher_classes",
            remedy=f"If {best} is what you expect, write the task out in the profile as task: {{name: {task.name}, "
            f"labels: [{', '.join(task.labels)}], teacher_classes: {mappings[0]}}}",
        ) from error


@dataclass(frozen=True)
class Judgement:
    """A classifier beside one that answers every text with the majority class; in words, of a teacher.

    Attributes:
        rows: labelled texts that both answered.
        accuracy, majority_accuracy: share of texts that get their label.
        macro_f1, majority_macro_f1: mean over the labels of F1.
        verdict: whether the classifier is better than the majority class.
        exchanged: the label that each label's answers clearly fit better, where the classes look exchanged;
            empty where they do not.
    """

    rows: int
    accuracy: float
    majority_accuracy: float
    macro_f1: float
    majority_macro_f1: float
    verdict: Literal["better", "no difference shown", "worse"]
    exchanged: dict[str, str]

    def __str__(self) -> str:
        found = (
            f"On {self.rows:,} labelled texts the teacher's accuracy is {self.accuracy:.3f} and its macro-F1 "
            f"{self.macro_f1:.3f}; the majority class for every text has {self.majority_accuracy:.3f} and "
            f"{self.majority_macro_f1:.3f}. "
        )
        if self.exchanged:
            pairs = ", ".join(f"{given} for {better}" for given, better in self.exchanged.items() if given != better)
            return (
                f"{found}Its classes look exchanged: it says {pairs}. Correct corpus.label_names if it exchanges them, "
                "or else place the teacher's classes under the right labels in task.teacher_classes."
            )
        return (
            found
            + {
                "better": "The teacher is better.",
                "no difference shown": "No difference is shown: look at its mistakes, or label more texts.",
                "worse": "The teacher is worse, and so would be its students: check the task's labels and classes, and "
                "whether the teacher reads the corpus's language.",
            }[self.verdict]
        )


def judge_classifier(labels: np.ndarray, logits: np.ndarray, names: Sequence[str]) -> Judgement:
    """Compare a classifier with the majority class on the same labelled texts, by paired bootstraps over the texts.

    It is better where its accuracy or its macro-F1 is shown to be, at 95%: where a class is rare, a good one may gain
    in the second alone. It is worse where its accuracy is shown to be and its macro-F1 is not shown to
    be better; or where the same answers with its labels exchanged are more accurate, by McNemar's exact test, at 95%
    over all ways to exchange them.

    Args:
        labels: int64, (rows,), positions in `names`; each row has one, and there is at least one.
        logits: float32, (rows, task labels).
        names: the task's labels.
    """
    predicted, counts = logits.argmax(axis=1), np.bincount(labels, minlength=len(names))
    majority = np.zeros_like(logits)
    majority[:, counts.argmax()] = 1
    right, majority_right = predicted == labels, labels == counts.argmax()
    ahead, behind = np.sum(right & ~majority_right), np.sum(~right & majority_right)
    cells = np.array([ahead, behind, len(labels) - ahead - behind])
    _, low, high = bootstrap_difference(cells, lambda drawn: drawn[:, :2].T / len(labels), 1, level=0.95)
    _, f1_low, _ = paired_interval(labels, logits, majority)
    exchanged = _exchanged(labels, predicted, names)
    if exchanged or (high < 0 and f1_low <= 0):
        verdict: Literal["better", "no difference shown", "worse"] = "worse"
    else:
        verdict = "better" if low > 0 or f1_low > 0 else "no difference shown"
    return Judgement(
        rows=len(labels),
        accuracy=float(right.mean()),
        majority_accuracy=float(counts.max() / len(labels)),
        macro_f1=macro_f1(labels, logits),
        majority_macro_f1=macro_f1(labels, majority),
        verdict=verdict,
        exchanged=exchanged,
    )


def _exchanged(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, str]:
    """Return the permutation of the labels that makes the answers most accurate, where that is shown to be more.

    One that is no better than the majority class tells nothing of what the classes mean.
    """
    best = _most_accurate(labels, predicted, len(names))
    right = best[predicted] == labels
    # Bonferroni's, since this is the best of all permutations.
    p = mcnemar(right, predicted == labels)
    shown = p == 0 or math.log(p) + math.lgamma(len(names) + 1) < math.log(0.05)
    if not shown or right.sum() <= np.bincount(labels).max():
        return {}
    return {names[i]: names[best[i]] for i in range(len(names))}


def _most_accurate(labels: np.ndarray, said: np.ndarray, count: int) -> np.ndarray:
    """Return the label of each class, each label once, that makes the answers most accurate: int64, (count,)."""
    counts = confusion_matrix(said, labels, labels=range(count))
    # Of equally good permutations the one that moves the fewest labels: a class that is never said tells nothing.
    preferred = counts * (count + 1) + np.eye(count, dtype=counts.dtype)
    _, best = linear_sum_assignment(preferred, maximize=True)
    return best
