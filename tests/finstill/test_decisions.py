"""Decisions about one label: thresholds against values worked out by hand, and what serves them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import precision_recall_curve

from finstill.cli import main
from finstill.config.profile import read_profile
from finstill.config.task import RISK, OperatingPoint, Task
from finstill.corpus.text import KEY_BYTES, text_key
from finstill.errors import InputError
from finstill.evaluation.decisions import (
    decided_at,
    decision_quality,
    difference_at,
    fit_threshold,
    orders_by_chance,
    value_at,
)
from finstill.evaluation.significance import Difference
from finstill.serving import StudentClassifier
from finstill.serving.growing_table import grow_scores
from finstill.serving.package import DecisionRule, Package
from finstill.training.rows import NO_LABEL

LABELS = RISK.labels
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
TRUTH = np.array([1, 0, 1, 1, 0, 0, 1, 0])


def fitted(labels: np.ndarray = TRUTH, scores: np.ndarray = SCORES, **point: float) -> DecisionRule:
    return fit_threshold(LABELS, "risk", OperatingPoint(**point), labels, scores)


@pytest.mark.parametrize(
    ("point", "threshold", "precision", "recall"),
    [
        # The three of four that rank highest are found among the first four.
        ({"recall_at_least": 0.75}, 0.55, 3 / 4, 3 / 4),
        # Half are found among the first three already, but one text more is right more often.
        ({"recall_at_least": 0.5}, 0.55, 3 / 4, 3 / 4),
        ({"recall_at_least": 1.0}, 0.25, 4 / 7, 1.0),
        ({"precision_at_least": 0.75}, 0.55, 3 / 4, 3 / 4),
        ({"precision_at_least": 0.8}, 0.85, 1.0, 1 / 4),
        ({"alerts_at_most": 0.25}, 0.75, 1 / 2, 1 / 4),
        ({"alerts_at_most": 0.49}, 0.65, 2 / 3, 2 / 4),
    ],
)
def test_a_threshold_keeps_to_its_point(
    point: dict[str, float], threshold: float, precision: float, recall: float
) -> None:
    rule = fitted(**point)
    assert (rule.threshold, rule.precision, rule.recall) == (pytest.approx(threshold), precision, recall)
    assert rule.reached
    assert rule.low <= rule.threshold <= rule.high
    assert (rule.rows, rule.positives) == (8, 4)


def test_where_no_threshold_keeps_to_a_precision_the_best_is_told() -> None:
    rule = fitted(np.array([0, 1, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1]), precision_at_least=0.9)
    assert not rule.reached
    assert (rule.threshold, rule.precision, rule.recall) == (pytest.approx(0.4), 2 / 3, 1.0)
    assert value_at(np.array([False, True]), np.array([0.9, 0.8]), OperatingPoint(precision_at_least=0.9)) == 0


def test_no_alert_at_all_is_a_threshold_too() -> None:
    rule = fitted(alerts_at_most=0.1)
    assert rule.alerts == 0
    assert rule.threshold > 1


def test_equal_probabilities_are_decided_alike() -> None:
    rule = fitted(np.array([1, 0, 1, 0]), np.array([0.5, 0.5, 0.5, 0.1]), recall_at_least=0.5)
    assert (rule.precision, rule.recall) == (2 / 3, 1.0)


def test_texts_without_a_label_count_as_alerts_alone() -> None:
    labels = np.array([1, NO_LABEL, NO_LABEL, 0])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    # A half of all four texts, though one labelled text is among them.
    assert fitted(labels, scores, alerts_at_most=0.5).threshold == pytest.approx(0.75)
    rule = fitted(labels, scores, recall_at_least=1.0)
    assert (rule.rows, rule.threshold) == (2, pytest.approx(0.75))
    measured = decision_quality(rule, labels, scores)
    assert (measured.precision, measured.recall, measured.alerts_per_thousand) == (1.0, 1.0, 500)


def test_a_share_of_alerts_is_compared_where_it_serves() -> None:
    """Two of five texts are alerts: the labelled ones alone would allow one, and find half of the risks."""
    labels = np.array([1, 1, 0, NO_LABEL, NO_LABEL])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    rule = fitted(labels, scores, alerts_at_most=0.4)
    measured = decision_quality(rule, labels, scores)
    assert (measured.alerts_per_thousand, measured.recall, measured.at_the_point) == (400, 1.0, 1.0)
    # An unlabelled alert takes the place of a labelled one.
    measured = decision_quality(rule, labels, np.array([0.9, 0.7, 0.6, 0.8, 0.1]))
    assert measured.at_the_point == 0.5


def test_a_label_that_no_validation_text_has_is_an_error() -> None:
    with pytest.raises(InputError, match="decides about 'risk', and none of 2 labelled validation texts"):
        fitted(np.array([0, 0, NO_LABEL]), np.array([0.5, 0.4, 0.9]), recall_at_least=0.9)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
        lambda rows: any(truth for truth, _ in rows)
    ),
    st.floats(0.05, 1),
)
def test_values_are_those_of_scikit_learns_curve(rows: list[tuple[bool, int]], share: float) -> None:
    truth, scores = np.array([each for each, _ in rows]), np.array([each / 6 for _, each in rows])
    precision, recall, _ = precision_recall_curve(truth, scores)
    precision, recall = precision[:-1], recall[:-1]
    assert value_at(truth, scores, OperatingPoint(recall_at_least=share)) == pytest.approx(
        precision[recall >= share].max()
    )
    assert value_at(truth, scores, OperatingPoint(precision_at_least=share)) == pytest.approx(
        recall[precision >= share].max(initial=0)
    )


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=20).filter(
        lambda rows: any(truth for truth, *_ in rows)
    ),
    st.sampled_from(list(OperatingPoint.model_fields)),
    st.floats(0.05, 0.95),
)
def test_a_difference_is_that_of_two_values(rows: list[tuple[bool, int, int]], setting: str, share: float) -> None:
    truth, ours, theirs = (np.array(each) for each in zip(*rows, strict=True))
    point = OperatingPoint.model_validate({setting: share})
    ours, theirs = ours / 6, theirs / 6
    difference, _, _ = difference_at(truth, ours[None], theirs[None], point, level=0.5)
    assert difference == pytest.approx(value_at(truth, ours, point) - value_at(truth, theirs, point))


def test_a_better_order_is_shown_to_be_better_and_an_equal_one_is_not() -> None:
    random = np.random.default_rng(0)
    truth = np.arange(200) < 40
    good, poor = (np.clip(truth * gain + random.normal(0.3, 0.15, (2, 200)), 0, 1) for gain in (0.5, 0.1))
    point = OperatingPoint(recall_at_least=0.9)
    difference = Difference.between_decisions(truth, good, poor, point)
    assert difference.better
    assert "points of precision at a recall of 0.9" in str(difference)
    assert not Difference.between_decisions(truth, good[:1], good[:1], point).shown
    gained, low, high = difference_at(truth, good, poor, point, level=0.95)
    assert 0 < low < gained < high
    order = random.permutation(200)
    assert difference_at(truth[order], good[:, order], poor[:, order], point, level=0.95) == (gained, low, high)


def students(truth: np.ndarray, *gains: float, seed: int, own: float = 0.7) -> list[np.ndarray]:
    """Return the scores of students that find the same texts hard: float64, (1, rows) each.

    Args:
        gains: by how much each one's logit is larger where the text has the label.
        own: deviation of what is a student's own.
    """
    random = np.random.default_rng(seed)
    hard = random.normal(size=len(truth))
    return [1 / (1 + np.exp(2 - gain * truth - hard - own * random.normal(size=len(truth))))[None] for gain in gains]


def test_more_recall_is_shown_also_where_fewer_decisions_are_right() -> None:
    truth, point = np.arange(2000) < 200, OperatingPoint(precision_at_least=0.3)
    good, poor = students(truth, 2.5, 1.2, seed=0)
    right, rival_right = ((decided_at(truth, each, point) == truth).mean() for (each,) in (good, poor))
    assert right < rival_right
    difference = Difference.between_decisions(truth, good, poor, point)
    assert difference.better
    assert difference.points > 0.2
    assert difference.accuracy == pytest.approx(difference.points)


@pytest.mark.parametrize("point", [{"precision_at_least": 0.3}, {"alerts_at_most": 0.2}])
def test_equal_students_are_seldom_shown_to_differ(point: dict[str, float]) -> None:
    truth = np.arange(200) < 40
    shown = [
        Difference.between_decisions(truth, *students(truth, 2.0, 2.0, seed=seed), OperatingPoint(**point)).shown
        for seed in range(25)
    ]
    assert sum(shown) <= 2


def test_who_reaches_a_precision_is_better_than_who_finds_more_without_it() -> None:
    """The rival finds all risks, at a precision of one half at best."""
    truth = np.arange(400) < 100
    ours = np.where(truth, np.where(np.arange(400) < 60, 0.9, 0.1), 0.5)[None]
    theirs = np.where(np.arange(400) < 200, 0.9, 0.1)[None]
    point = OperatingPoint(precision_at_least=0.8)
    assert not decided_at(truth, theirs[0], point).any()
    assert Difference.between_decisions(truth, ours, theirs, point).better


def test_probabilities_that_say_nothing_are_ordered_by_chance() -> None:
    random = np.random.default_rng(1)
    truth = np.arange(100) < 5
    assert orders_by_chance(truth, truth + random.random(100)) < 0.001
    assert orders_by_chance(truth, random.random(100)) > 0.05
    assert orders_by_chance(~truth[5:], random.random(95)) == 1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{decide: {risk: {}}}", "give exactly one of"),
        ("{decide: {risk: {recall_at_least: 0.9, alerts_at_most: 0.1}}}", "give exactly one of"),
        ("{decide: {danger: {recall_at_least: 0.9}}}", "decide names"),
        ("{decide: {risk: {recall_at_least: 95}}}", "less than or equal to 1"),
        ("{decide: {risk: {recall_at_least: 0.9}, no_risk: {recall_at_least: 0.9}}}", "at most 1 item"),
    ],
)
def test_a_point_that_means_nothing_is_refused_with_its_line(tmp_path: Path, written: str, message: str) -> None:
    profile = "corpus: {path: texts.csv}\nteacher: {checkpoint: embedded}\nrecipes: recipes.yaml\ntask: "
    (tmp_path / "mine.yaml").write_text(profile + written.replace("{decide", "{name: risk, decide", 1))
    with pytest.raises(InputError, match=f"mine.yaml, line 4: .*{message}"):
        read_profile(tmp_path / "mine.yaml")


def test_a_built_in_task_takes_a_decision_and_keeps_its_classes() -> None:
    task = Task.model_validate({"name": "risk", "decide": {"risk": {"alerts_at_most": 0.05}}})
    assert (task.labels, task.teacher_classes) == (RISK.labels, RISK.teacher_classes)
    assert task.decide["risk"].measure == "recall at 50 alerts in a thousand texts"
    with pytest.raises(ValidationError, match="labels"):
        Task.model_validate({"name": "of mine", "decide": {}})


TEXTS = [f"Profit {word} {i} percent" for i in range(20) for word in ("rose", "fell")]


def test_the_runtime_decides_by_the_calibrated_probability(deciding_package: Package) -> None:
    rule = deciding_package.decision
    assert rule is not None
    assert Package.read(deciding_package.folder).decision == rule
    scores = list(StudentClassifier(deciding_package.folder).score(TEXTS))
    probabilities = [score.calibrated["negative"] for score in scores if score.calibrated]
    assert [score.decision for score in scores] == [each >= rule.threshold for each in probabilities]
    middle = sorted(probabilities)[len(TEXTS) // 2]
    other = [score.decision for score in StudentClassifier(deciding_package.folder, threshold=middle).score(TEXTS)]
    assert other == [each >= middle for each in probabilities]
    assert set(other) == {True, False}


def test_a_threshold_is_refused_where_it_means_nothing(package: Package, deciding_package: Package) -> None:
    with pytest.raises(InputError, match="decides about no label"):
        StudentClassifier(package.folder, threshold=0.5)
    with pytest.raises(InputError, match=r"1\.5 is no probability"):
        StudentClassifier(deciding_package.folder, threshold=1.5)
    (score,) = StudentClassifier(package.folder).score(["Profit rose"])
    assert score.decision is None


def test_finstill_score_and_the_scores_table_have_the_decision(deciding_package: Package, tmp_path: Path) -> None:
    expected = [score.decision for score in StudentClassifier(deciding_package.folder).score(TEXTS)]
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(TEXTS) + "\n")
    command = ["score", str(deciding_package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]
    assert main(command) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["decision"] for row in csv.DictReader(file)] == [str(each).lower() for each in expected]
    assert main([*command, "--threshold", "0"]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        assert {row["decision"] for row in csv.DictReader(file)} == {"true"}
    keys = pa.array([text_key(text) for text in TEXTS], pa.binary(KEY_BYTES))
    nothing = pa.nulls(len(TEXTS), pa.string())
    pq.write_table(pa.table({"key": keys, "text": TEXTS, "date": nothing, "id": nothing}), tmp_path / "corpus.parquet")
    report = grow_scores(tmp_path / "corpus.parquet", deciding_package.folder, tmp_path / "scores")
    table = pq.read_table(next(report.folder.glob("*.parquet")))
    assert table["decision"].to_pylist() == expected
    assert report.decided == sum(map(bool, expected))


def test_the_model_card_says_when_a_text_is_decided(deciding_package: Package) -> None:
    card = (deciding_package.folder / "README.md").read_text()
    assert "decided to be `negative` from a calibrated probability of" in card
    assert "decided `negative`: precision" in card


def test_another_threshold_is_another_package(make_package: Callable[..., Package], deciding_package: Package) -> None:
    task = Task.model_validate({"name": "sentiment", "decide": {"negative": {"recall_at_least": 0.9}}})
    other = make_package("deciding", task=task)
    assert other.digest != deciding_package.digest
    assert replace(other, decision=None).measured["quality"] == deciding_package.measured["quality"]
