"""Tasks, and how a teacher's classes become a task's: by name, never by position."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finstill.errors import InputError
from finstill.files import digest

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


class OperatingPoint(BaseModel):
    """Where on the curve of precision and recall a class is decided; exactly one setting is given.

    Attributes:
        recall_at_least: share of the class's texts that are found; the precision is then as high as can be.
        precision_at_least: share of the alerts that are right; the recall is then as high as can be.
        alerts_at_most: share of all texts that are alerts; the recall is then as high as can be.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recall_at_least: float | None = Field(None, gt=0, le=1)
    precision_at_least: float | None = Field(None, gt=0, le=1)
    alerts_at_most: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one(self) -> OperatingPoint:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError(f"give exactly one of {list(OperatingPoint.model_fields)}")
        return self

    @property
    def measure(self) -> str:
        """What classifiers are compared by at this point, in words."""
        if self.recall_at_least is not None:
            return f"precision at a recall of {self.recall_at_least:g}"
        if self.precision_at_least is not None:
            return f"recall at a precision of {self.precision_at_least:g}"
        return f"recall at {1000 * (self.alerts_at_most or 0):g} alerts in a thousand texts"


def digest_of_decisions(decide: Mapping[str, OperatingPoint]) -> str:
    """Return a digest of a task's `decide`, empty where it decides about no label."""
    return digest(*(f"{label} {point!r}" for label, point in decide.items())) if decide else ""


class Task(BaseModel):
    """What a text is classified into.

    Attributes:
        name: how reports call the task.
        labels: the task's classes, in the order of every student's logits.
        teacher_classes: for each label, the teacher's classes that count as it; needed only where a teacher does not
            use the task's own label names, or uses them wrongly.
        decide: the label that a text is decided to have or not, beside its most likely one, with the operating point.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    labels: tuple[str, ...] = Field(min_length=2)
    teacher_classes: dict[str, tuple[str, ...]] = {}
    decide: dict[str, OperatingPoint] = Field({}, max_length=1)

    @model_validator(mode="before")
    @classmethod
    def _built_in(cls, values: object) -> object:
        """A built-in task may be named, and the rest of it be said anew."""
        if isinstance(values, dict) and "labels" not in values and values.get("name") in TASKS:
            return {**TASKS[values["name"]].model_dump(), **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if unknown := set(self.decide) - set(self.labels):
            raise ValueError(f"decide names {sorted(unknown)}, and the labels are {list(self.labels)}")
        folded = [_fold(label) for label in self.labels]
        if len(set(folded)) != len(folded):
            raise ValueError(f"the labels {list(self.labels)} are not distinct")
        if self.teacher_classes and set(self.teacher_classes) != set(self.labels):
            raise ValueError(
                f"teacher_classes must name each of {list(self.labels)} once, and names {list(self.teacher_classes)}"
            )
        return self


TASKS: dict[str, Task] = {}
"""The built-in tasks by name."""

SENTIMENT = Task(name="sentiment", labels=("negative", "neutral", "positive"))
RISK = Task(
    name="risk",
    labels=("no_risk", "risk"),
    teacher_classes={"no_risk": ("neutral", "positive"), "risk": ("negative",)},
)
TASKS |= {task.name: task for task in (SENTIMENT, RISK)}


def class_groups(task: Task, teacher_labels: Sequence[str]) -> list[list[int]]:
    """Return, for each label of `task`, the positions in `teacher_labels` of the classes that count as it.

    Names are compared without regard to case. `task.teacher_classes` counts where it names the teacher's classes, even
    if these are the task's own names: a checkpoint may use them wrongly. Otherwise the task's names are matched.

    Raises:
        UnmatchedClassesError: a label finds no class, or a class is left over; the message lists both sides.
    """
    position = {_fold(name): i for i, name in enumerate(teacher_labels)}
    own = {label: (label,) for label in task.labels}
    for names in (task.teacher_classes, own):
        wanted = [[_fold(name) for name in names.get(label, ())] for label in task.labels]
        flat = [name for group in wanted for name in group]
        if sorted(flat) == sorted(map(_fold, teacher_labels)):
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
