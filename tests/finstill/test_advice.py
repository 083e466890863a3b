"""Advice follows from what was measured: each fault alone brings the advice that mends it, and a good student none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finstill.config.recipe import Recipe
from finstill.config.temperature import TemperatureSchedule
from finstill.evaluation.advice import Learned, advice
from finstill.evaluation.evaluate import Evaluation
from finstill.evaluation.speed import Speed


def evaluation(
    macro_f1: float | None, agreement: float, calibration_error: float = 0.02, sure: float = 0.7
) -> Evaluation:
    quality: dict[str, Any] | None = None
    if macro_f1 is not None:
        bins = [{"rows": 100, "confidence": sure, "accuracy": 0.7}]
        quality = {"macro_f1": macro_f1, "calibration_error": calibration_error, "reliability": bins}
    return Evaluation("x", "0", 100, 100, quality, agreement, 0.1, 1, 1.0, Speed(1.0, 1.0), 0.8)


TEACHER = evaluation(0.85, 1.0)
POOR = evaluation(0.70, 0.80)
HISTORY = [{"epoch": i, "validation_loss": loss} for i, loss in enumerate((0.9, 0.6, 0.5, 0.52), 1)]
LEARNED = Learned(Recipe(epochs=10, alpha=0.7), HISTORY, texts=5000, labelled=1000, started_from_champion=False)


def test_a_good_student_and_one_without_a_teacher_get_none() -> None:
    assert advice(evaluation(0.84, 0.95), TEACHER, LEARNED) == []
    assert advice(POOR, TEACHER, replace(LEARNED, recipe=Recipe(alpha=0))) == []


def test_a_poor_one_in_which_nothing_stands_out_is_to_be_tuned() -> None:
    (only,) = advice(POOR, TEACHER, LEARNED)
    assert "`tune`" in only


RISING = [*HISTORY, {"epoch": 5, "validation_loss": 0.9}]
FALLING = [{"epoch": i, "validation_loss": 1 / i} for i in range(1, 11)]


@pytest.mark.parametrize(
    ("student", "teacher", "learned", "words"),
    [
        (POOR, evaluation(0.74, 1.0), LEARNED, ("0.740", "fine-tune")),
        (POOR, TEACHER, replace(LEARNED, texts=1500), ("1,500 texts", "augmentation.variants_per_text")),
        (POOR, TEACHER, replace(LEARNED, history=RISING), ("0.500 to 0.900", "architecture.dropout")),
        (POOR, TEACHER, replace(LEARNED, history=FALLING), ("last of 10 epochs", "raise epochs")),
        (
            POOR,
            TEACHER,
            replace(LEARNED, history=FALLING[:2], started_from_champion=True),
            ("last of 2 epochs", "raise warm_epochs"),
        ),
        (POOR, TEACHER, replace(LEARNED, recipe=Recipe(epochs=10, alpha=0.3)), ("80.0% at alpha 0.3", "raise alpha")),
        (evaluation(0.7, 0.8, 0.2, sure=0.9), TEACHER, LEARNED, ("0.200", "too sure: raise alpha")),
        (
            evaluation(0.7, 0.95, 0.2, sure=0.9),
            TEACHER,
            replace(LEARNED, recipe=Recipe(epochs=10, alpha=1)),
            ("Nothing stands out",),
        ),
        (
            evaluation(0.7, 0.8, 0.2, sure=0.5),
            TEACHER,
            replace(LEARNED, recipe=Recipe(epochs=10, temperature=TemperatureSchedule(schedule="constant", start=4))),
            ("not sure enough", "end at 1, not at 4"),
        ),
    ],
)
def test_each_fault_brings_its_own_advice(
    student: Evaluation, teacher: Evaluation, learned: Learned, words: tuple[str, ...]
) -> None:
    (only,) = advice(student, teacher, learned)
    assert all(word in only for word in words)


def test_without_labels_agreement_decides() -> None:
    teacher = evaluation(None, 1.0)
    unlabelled = replace(LEARNED, labelled=0)
    assert advice(evaluation(None, 0.95), teacher, unlabelled) == []
    assert advice(evaluation(None, 0.80), teacher, unlabelled)
