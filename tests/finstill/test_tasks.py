"""Labels are matched by name, and classes that count as one label are added as probabilities are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from finstill.config.task import RISK, SENTIMENT, Task, class_groups, task_logits
from finstill.errors import InputError

PROSUS = ("positive", "negative", "neutral")
TONE = ("Neutral", "Positive", "Negative")


@pytest.mark.parametrize("teacher", [PROSUS, TONE])
def test_both_finberts_map_onto_sentiment_by_name(teacher: tuple[str, ...]) -> None:
    logits = np.array([[{"negative": 1, "neutral": 2, "positive": 3}[name.lower()] for name in teacher]], np.float32)
    assert task_logits(logits, SENTIMENT, teacher).tolist() == [[1, 2, 3]]


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-20, 20, width=32)))
def test_risk_is_the_probability_of_negative(logits: np.ndarray) -> None:
    probabilities = softmax(logits.astype(np.float64), axis=1)
    risk = softmax(task_logits(logits, RISK, PROSUS).astype(np.float64), axis=1)
    assert risk[:, 1] == pytest.approx(probabilities[:, 1], abs=1e-5)


def test_a_teacher_of_the_tasks_own_labels_needs_no_mapping() -> None:
    assert class_groups(RISK, ("risk", "no_risk")) == [[1], [0]]


def test_a_name_that_matches_nothing_lists_both_sides() -> None:
    with pytest.raises(InputError, match=r"bullish.*negative.*neutral.*positive"):
        class_groups(SENTIMENT, ("bullish", "bearish", "neutral"))


def test_a_class_left_over_is_an_error() -> None:
    with pytest.raises(InputError, match="mixed"):
        class_groups(SENTIMENT, (*PROSUS, "mixed"))


def test_two_classes_that_differ_in_case_alone_are_not_one() -> None:
    with pytest.raises(InputError, match="'risk', 'Risk', 'no_risk'"):
        class_groups(RISK, ("risk", "Risk", "no_risk"))


def test_a_teacher_that_uses_the_tasks_own_names_wrongly_can_be_corrected() -> None:
    wrong = {"negative": ("negative",), "neutral": ("positive",), "positive": ("neutral",)}
    corrected = SENTIMENT.model_copy(update={"teacher_classes": wrong})
    assert class_groups(corrected, PROSUS) == [[1], [0], [2]]
    assert class_groups(corrected, TONE) == [[2], [1], [0]]


def test_a_task_of_ones_own_maps_other_names() -> None:
    outlook = Task(name="outlook", labels=("down", "up"), teacher_classes={"down": ("LABEL_0",), "up": ("LABEL_1",)})
    assert class_groups(outlook, ("LABEL_0", "LABEL_1")) == [[0], [1]]
