"""A teacher whose classes are placed wrongly, or that learned nothing, is found before a student learns from it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from finstill.config.task import RISK, SENTIMENT, Task, task_logits
from finstill.errors import InputError
from finstill.teacher.classes import judge_classifier, possible_mappings, require_matching_classes

NAMELESS = ("LABEL_0", "LABEL_1", "LABEL_2")


def answers(labels: np.ndarray, order: tuple[int, ...], right: float = 0.9) -> np.ndarray:
    """Return logits of a teacher that is right on a share of the rows and whose class `order[i]` means label i."""
    random = np.random.default_rng(1)
    said = np.where(random.random(len(labels)) < right, labels, random.integers(len(order), size=len(labels)))
    return 3 * np.eye(len(order), dtype=np.float32)[np.array(order)[said]]


@pytest.fixture
def labels() -> np.ndarray:
    """Three hundred labels, the middle one the commonest, as news has them."""
    return np.random.default_rng(0).choice(3, size=300, p=[0.2, 0.55, 0.25])


def test_the_mapping_that_fits_the_labelled_rows_comes_first(labels: np.ndarray) -> None:
    best, second, *_ = possible_mappings(SENTIMENT, NAMELESS, labels, answers(labels, (2, 0, 1)))
    assert best.teacher_classes == {"negative": ("LABEL_2",), "neutral": ("LABEL_0",), "positive": ("LABEL_1",)}
    assert best.accuracy > 0.85 > second.accuracy


def test_several_classes_may_be_one_label() -> None:
    labels = np.array([1, 0, 0] * 50)
    best = possible_mappings(RISK, NAMELESS, labels, 3 * np.eye(3, dtype=np.float32)[np.array([1, 0, 2] * 50)])[0]
    assert best.teacher_classes == {"no_risk": ("LABEL_0", "LABEL_2"), "risk": ("LABEL_1",)}
    assert best.accuracy == 1


def test_of_more_mappings_than_can_be_tried_the_best_is_shown() -> None:
    names, classes = tuple("abcde"), tuple(f"LABEL_{i}" for i in range(5))
    task, labels = Task(name="five", labels=names), np.arange(200) % 5
    logits = answers(labels, (3, 0, 4, 1, 2))
    (best,) = possible_mappings(task, classes, labels, logits)
    assert str(best) == "{a: [LABEL_3], b: [LABEL_0], c: [LABEL_4], d: [LABEL_1], e: [LABEL_2]}"
    corrected = task.model_copy(update={"teacher_classes": best.teacher_classes})
    assert best.accuracy == (task_logits(logits, corrected, classes).argmax(axis=1) == labels).mean() > 0.85
    with pytest.raises(InputError, match=r"% with \{a: \[LABEL_3\].*If that is what you expect, write"):
        require_matching_classes(task, classes, lambda: (labels, logits))
    assert possible_mappings(SENTIMENT, tuple(map(str, range(9))), labels[:9] % 3, np.eye(9, dtype=np.float32)) == []


def test_nameless_classes_are_refused_with_the_accuracy_of_each_mapping(labels: np.ndarray) -> None:
    with pytest.raises(InputError) as refused:
        require_matching_classes(SENTIMENT, NAMELESS, lambda: (labels, answers(labels, (0, 1, 2))))
    message = str(refused.value)
    right = "{negative: [LABEL_0], neutral: [LABEL_1], positive: [LABEL_2]}"
    assert "say nothing of what the classes mean" in message
    assert message.count("% with {negative:") == 6
    assert message.index(right) < message.index("{negative: [LABEL_1]")
    # What it says to write is a task that matches.
    written = message.partition("as task: ")[2]
    assert written == f"{{name: sentiment, labels: [negative, neutral, positive], teacher_classes: {right}}}"


def test_without_labelled_rows_the_refusal_lists_both_sides() -> None:
    with pytest.raises(InputError, match=r"LABEL_0.*negative.*teacher_classes"):
        require_matching_classes(SENTIMENT, NAMELESS, lambda: (np.empty(0, np.int64), np.empty((0, 3), np.float32)))


def test_a_mapping_is_not_asked_for_where_names_match() -> None:
    def never() -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError

    require_matching_classes(SENTIMENT, ("Positive", "Neutral", "Negative"), never)
    mapped = Task(name="s", labels=("bad", "good"), teacher_classes={"bad": ("LABEL_0",), "good": ("LABEL_1",)})
    require_matching_classes(mapped, NAMELESS[:2], never)


class TestJudgement:
    """Of a teacher, beside the majority class."""

    def test_a_good_teacher_is_better(self, labels: np.ndarray) -> None:
        judgement = judge_classifier(labels, answers(labels, (0, 1, 2)), SENTIMENT.labels)
        assert judgement.verdict == "better"
        assert judgement.majority_accuracy == np.bincount(labels).max() / 300
        assert judgement.exchanged == {}

    def test_one_that_answers_with_another_class_alone_is_worse(self, labels: np.ndarray) -> None:
        assert judge_classifier(labels, np.tile(np.float32([1, 0, 0]), (300, 1)), SENTIMENT.labels).verdict == "worse"

    def test_one_that_answers_with_the_majority_class_alone_shows_no_difference(self, labels: np.ndarray) -> None:
        judgement = judge_classifier(labels, np.tile(np.float32([0, 1, 0]), (300, 1)), SENTIMENT.labels)
        assert judgement.verdict == "no difference shown"
        assert judgement.accuracy == judgement.majority_accuracy

    def test_two_classes_exchanged_are_found_though_the_majority_is_right(self, labels: np.ndarray) -> None:
        judgement = judge_classifier(labels, answers(labels, (2, 1, 0)), SENTIMENT.labels)
        assert judgement.verdict == "worse"
        assert judgement.exchanged == {"negative": "positive", "neutral": "neutral", "positive": "negative"}
        assert "it says negative for positive, positive for negative" in str(judgement)
        assert re.search(r"corpus\.label_names.* or else .*task\.teacher_classes", str(judgement))

    def test_a_rare_class_found_at_the_price_of_false_alarms_is_not_worse(self) -> None:
        labels = (np.arange(1000) % 50 == 0).astype(np.int64)
        said = labels.copy()
        said[1:40] = 1
        judgement = judge_classifier(labels, 3 * np.eye(2, dtype=np.float32)[said], RISK.labels)
        assert judgement.accuracy < judgement.majority_accuracy
        assert judgement.verdict == "better"

    def test_chance_blocks_hardly_any_teacher_on_few_rows(self) -> None:
        random = np.random.default_rng(3)
        verdicts = [
            judge_classifier(random.integers(3, size=15), random.normal(size=(15, 3)).astype(np.float32), "abc").verdict
            for _ in range(100)
        ]
        assert verdicts.count("worse") <= 20

    def test_of_many_classes_any_two_that_are_exchanged_are_found(self) -> None:
        names, labels = "abcdefgh", np.arange(400) % 8
        judgement = judge_classifier(labels, answers(labels, (5, 1, 2, 3, 4, 0, 6, 7)), names)
        assert judgement.exchanged == {**{name: name for name in names}, "a": "f", "f": "a"}

    @pytest.mark.parametrize(("rows", "found"), [(12, False), (20, True)])
    def test_of_many_ways_to_exchange_classes_the_best_needs_more_texts(self, rows: int, found: bool) -> None:
        """By a sign test 12 of 12 have a p-value of 2 / 2**12, which is above 0.05 / 6!."""
        labels = np.arange(300) % 6
        said = np.where(labels < 2, 5, labels)
        said[: 3 * rows] = np.where(labels < 2, 1 - labels, labels)[: 3 * rows]
        judgement = judge_classifier(labels, np.eye(6, dtype=np.float32)[said], "abcdef")
        moved = {given: better for given, better in judgement.exchanged.items() if given != better}
        assert moved == ({"a": "b", "b": "a"} if found else {})
