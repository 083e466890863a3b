"""The texts on which a new teacher is looked at."""

from __future__ import annotations

import numpy as np
import pytest

from finstill.corpus.long_texts import mean_over_windows
from finstill.corpus.token_ids import TokenIds
from finstill.inference.session import OnnxClassifier
from finstill.teacher.export import TeacherGraph
from finstill.training import samples
from finstill.training.rows import NO_LABEL, TrainingRows, WindowsOfTexts
from finstill.training.samples import labelled_answers, rows_not_learned


def rows_of(first: int, labels: list[int]) -> TrainingRows:
    """Rows of one token each, numbered from `first`."""
    return TrainingRows(TokenIds.of([[first + i] for i in range(len(labels))]), np.array(labels, np.int64))


def test_precision_is_measured_on_evenly_spaced_rows_that_no_teacher_learned_from() -> None:
    train = rows_of(0, [1, NO_LABEL] * 4)
    rows = {"train": train, "validation": rows_of(10, [0, NO_LABEL]), "test": rows_of(20, [0, 1])}
    assert rows_not_learned(rows, 100).tolist() == [[10], [11], [20], [21], [1], [3], [5], [7]]
    assert rows_not_learned(rows, 4).tolist() == [[10], [20], [1], [5]]
    nothing = rows_of(0, [])
    known = {"train": rows_of(0, [0, 1, 2, 0]), "validation": nothing, "test": nothing}
    assert rows_not_learned(known, 2).tolist() == [[0], [2]]


def test_classes_are_matched_on_whole_texts_of_validation_and_then_of_train(
    teacher_of_packages: TeacherGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "ANSWERED_TEXTS", 4)
    # Three texts of validation, one of them without a label, of 1, 3 and 2 windows; three of train, of 2 each.
    of = {"validation": np.array([0, 1, 1, 1, 2, 2]), "train": np.array([0, 0, 1, 1, 2, 2])}
    labels = {"validation": np.array([2, 0, NO_LABEL]), "train": np.array([0, 1, 2])}
    rows, each = {}, {}
    for number, split in enumerate(of):
        ids = TokenIds.of([[101, 3000 + 100 * number + i, 102] for i in range(6)])
        windows = WindowsOfTexts(of[split], np.array([5, 1, 2, 3, 4, 6]))
        rows[split] = TrainingRows(ids, labels[split][of[split]], windows=windows)
        each[split] = OnnxClassifier(teacher_of_packages.float32_graph).logits(ids, 512)
        each[split] = mean_over_windows(each[split], windows.texts, windows.sizes)
    found, logits = labelled_answers(rows, teacher_of_packages, 512)
    assert found.tolist() == [2, 0, 0, 1]
    assert logits == pytest.approx(np.concatenate([each["validation"][:2], each["train"][:2]]), abs=1e-5)
    without = {split: TrainingRows(TokenIds.of([[101, 102]]), np.array([NO_LABEL])) for split in rows}
    found, logits = labelled_answers(without, teacher_of_packages, 512)
    assert (found.shape, logits.shape) == ((0,), (0, 3))
