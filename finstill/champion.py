"""The student in service, replaced only by a better one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finstill.distil.loss import NO_LABEL
from finstill.evaluation.evaluate import STUDENT_TOKEN_BUDGET, StudentEvaluation
from finstill.evaluation.metrics import agreement, describe_difference, macro_f1, paired_interval
from finstill.files import whole_folder
from finstill.onnx_classifier import OnnxClassifier
from finstill.package import Package
from finstill.tokens import load_tokenizer
from finstill.training import TrainingRows


@dataclass(frozen=True)
class Decision:
    """Whether the student in service changed, and why.

    Attributes:
        champion: name of the student in service now.
        digest: of its package.
        promoted: whether it is new.
        reason: a sentence for people.
    """

    champion: str
    digest: str
    promoted: bool
    reason: str


def choose_champion(
    students: Mapping[str, StudentEvaluation],
    packages: Mapping[str, Package],
    test: TrainingRows,
    texts: Sequence[str],
    folder: Path,
) -> Decision:
    """Put the best student into service where it is better than the one that is.

    The best is the one with the highest macro-F1 on the test split (agreement with the teacher where no test text is
    labelled). It replaces a champion only where the 95% interval of the difference, both scoring today's test split,
    lies above 0: chance does not change what is in service. The champion replaced is kept in `folder`/previous.

    Args:
        students, packages: by recipe name.
        test: the rows of the test split.
        texts: their texts, in the same order.
        folder: of the champion; holds a copy of its package in `current`.
    """
    labelled = test.labels != NO_LABEL

    def score(logits: np.ndarray) -> float:
        if labelled.any():
            return macro_f1(test.labels[labelled], logits[labelled])
        assert test.teacher_logits is not None
        return agreement(logits, test.teacher_logits)

    best = max(students, key=lambda name: score(students[name].logits))
    challenger, current = packages[best], folder / "current"
    if not current.exists():
        return _promote(challenger, folder, "it is the first champion")
    champion = Package.read(current)
    if champion.digest == challenger.digest:
        return Decision(best, champion.digest, False, f"{best} is in service already")
    if (champion.task, champion.labels) != (challenger.task, challenger.labels):
        return _promote(challenger, folder, f"the task changed from {champion.task} to {challenger.task}")
    # The champion scores today's test split with its own tokenizer, so that both are measured on the same texts.
    tokenizer = load_tokenizer(current, champion.max_length)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    logits = OnnxClassifier(champion.graph).logits(rows, STUDENT_TOKEN_BUDGET)
    truth = test.labels if labelled.any() else test.teacher_logits.argmax(axis=1)  # type: ignore[union-attr]
    counted = labelled if labelled.any() else np.ones(len(test), dtype=bool)
    difference, low, high = paired_interval(truth[counted], students[best].logits[counted], logits[counted])
    interval = describe_difference(difference, low, high)
    if low > 0:
        return _promote(challenger, folder, f"it is better than {champion.name}: {interval}")
    return Decision(champion.name, champion.digest, False, f"{best} is not shown to be better: {interval}")


def _promote(package: Package, folder: Path, reason: str) -> Decision:
    current, previous = folder / "current", folder / "previous"
    if current.exists():
        with whole_folder(previous) as unfinished:
            shutil.copytree(current, unfinished, dirs_exist_ok=True)
    with whole_folder(current) as unfinished:
        shutil.copytree(package.folder, unfinished, dirs_exist_ok=True)
    return Decision(package.name, package.digest, True, f"{package.name} is in service: {reason}")
