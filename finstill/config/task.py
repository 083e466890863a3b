"""Tasks, and how a teacher's classes become a task's: by name, never by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finstill.errors import InputError

if TYPE_CHECKING:
    import numpy as np


NAMELESS = re.compile(r"LABEL_\d+")
"""What transformers calls a class whose name nobody wrote down."""


class UnmatchedClassesError(InputError):
    """A teacher's classes are not the task's labels.

    Attributes:
        problem: lists both sides.
    """

    def __init__(self, problem: str):
        super().__init__(
            problem, remedy="Give the task `teacher_classes` that place each of the teacher's classes under one label"
        )
        self.problem = problem


def _fold(name: str) -> str:
    return name.strip().casefold()


class Task(BaseModel):
    """What a text is classified into.

    Attributes:
        name: how reports call the task.
        labels: the task's classes, in the order of every student's logits.
        teacher_classes: for each label, the teacher's classes that count as it; needed only where a teacher does not
            use the task's own label names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    labels: tuple[str, ...] = Field(min_length=2)
    teacher_classes: dict[str, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        folded = [_fold(label) for label in self.labels]
        if len(set(folded)) != len(folded):
            raise ValueError(f"the labels {list(self.labels)} are not distinct")
        if self.teacher_classes and set(self.teacher_classes) != set(self.labels):
            raise ValueError(
                f"teacher_classes must name each of {list(self.labels)} once, and names {list(self.teacher_classes)}"
            )
        return self


SENTIMENT = Task(name="sentiment", labels=("negative", "neutral", "positive"))
RISK = Task(
    name="risk",
    labels=("no_risk", "risk"),
    teacher_classes={"no_risk": ("neutral", "positive"), "risk": ("negative",)},
)
TASKS = {task.name: task for task in (SENTIMENT, RISK)}


def class_groups(task: Task, teacher_labels: Sequence[str]) -> list[list[int]]:
    """Return, for each label of `task`, the positions in `teacher_labels` of the classes that count as it.

    Names are compared without regard to case. A teacher that uses the task's own names is matched by them; another is
    matched by `task.teacher_classes`.

    Raises:
        UnmatchedClassesError: a label finds no class, or a class is left over; the message lists both sides.
    """
    position = {_fold(name): i for i, name in enumerate(teacher_labels)}
    own = {label: (label,) for label in task.labels}
    for names in (own, task.teacher_classes):
        wanted = [[_fold(name) for name in names.get(label, ())] for label in task.labels]
        flat = [name for group in wanted for name in group]
        if sorted(flat) == sorted(position):
            return [[position[name] for name in group] for group in wanted]
    nameless = all(NAMELESS.fullmatch(name) for name in teacher_labels)
    raise UnmatchedClassesError(
        f"the teacher's classes {list(teacher_labels)} do not match the labels {list(task.labels)} of task "
        f"'{task.name}'"
        + (f", nor its teacher_classes {task.teacher_classes}" if task.teacher_classes else "")
        + (": such names say nothing of what the classes mean" if nameless else "")
    )


def task_logits(logits: np.ndarray, task: Task, teacher_labels: Sequence[str]) -> np.ndarray:
    """Return a teacher's logits as logits over a task's labels.

    Classes that count as one label are added as probabilities are: log-sum-exp over their logits, which leaves every
    other log-odds as it was.

    Args:
        logits: float32, (rows, teacher classes), in the order of `teacher_labels`.

    Returns:
        float32, (rows, task labels), in the order of `task.labels`.
    """
    import numpy as np

    groups = class_groups(task, teacher_labels)
    columns = [np.logaddexp.reduce(logits[:, group], axis=1) for group in groups]
    return np.stack(columns, axis=1).astype(np.float32, copy=False)
