"""A student that asks its teacher: from when on, what it is worth, and that the teacher's own answers come back."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from finstill.cli import main
from finstill.config.task import SENTIMENT, Task, task_logits
from finstill.corpus.tokenizer import load_tokenizer
from finstill.errors import InputError
from finstill.evaluation.deferral import DeferralCurve, asked_below
from finstill.files import write_json
from finstill.inference.session import OnnxClassifier
from finstill.serving import StudentClassifier
from finstill.serving.classifier import softmax, sureness
from finstill.serving.package import Package
from finstill.teacher.export import TeacherGraph

TEXTS = [f"Profit {word} {i} percent" for i in range(20) for word in ("rose", "fell")]


def test_at_most_the_share_is_asked() -> None:
    sure = np.array([0.9, 0.5, 0.7, 0.6])
    assert asked_below(sure, 0.5) == pytest.approx(0.65)
    assert asked_below(sure, 0.3) == pytest.approx(0.55)
    assert asked_below(sure, 0.2) == 0
    # Equal ones are asked together or not at all.
    assert asked_below(np.array([0.5, 0.5, 0.9]), 0.4) == 0.5


def test_sureness_is_the_largest_probability_or_the_distance_from_the_threshold() -> None:
    probabilities = np.array([[0.2, 0.8], [0.55, 0.45]])
    assert sureness(probabilities, None).tolist() == [0.8, 0.55]
    assert sureness(probabilities, (1, 0.4)) == pytest.approx([0.4, 0.05])


def test_the_curve_goes_from_the_student_to_the_teacher() -> None:
    # The student is wrong on the rows it is least sure of, the teacher on one that the student is surest of.
    truth = np.array([0, 1, 0, 1])
    student, teacher = np.array([1, 0, 0, 1]), np.array([0, 1, 0, 0])
    curve = DeferralCurve.of(truth, student, teacher, np.array([0.1, 0.2, 0.3, 0.4]), 2)
    assert curve.macro_f1.tolist() == pytest.approx([0.5, (2 / 3 + 4 / 5) / 2, 1, 1, (4 / 5 + 2 / 3) / 2])
    assert curve.share_for_teacher_quality == 0.25


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3, st.floats(0, 1)), min_size=1, max_size=12))
def test_every_point_is_scikit_learns_macro_f1(rows: list[tuple[int, int, int, float]]) -> None:
    truth, student, teacher = (np.array([row[i] for row in rows]) for i in range(3))
    sure = np.array([row[3] for row in rows])
    curve = DeferralCurve.of(truth, student, teacher, sure, 3)
    order = np.argsort(sure, kind="stable")
    for asked in range(len(rows) + 1):
        said = student.copy()
        said[order[:asked]] = teacher[order[:asked]]
        expected = f1_score(truth, said, labels=range(3), average="macro", zero_division=0)
        assert curve.macro_f1[asked] == pytest.approx(expected)


@pytest.fixture(scope="module")
def asking(make_package: Callable[..., Package]) -> Package:
    decide = {"negative": {"recall_at_least": 0.5}}
    return make_package("asking", task=Task.model_validate({"name": "sentiment", "decide": decide}), defer=0.5)


def test_the_texts_that_are_asked_get_the_teachers_answer(asking: Package, teacher_of_packages: TeacherGraph) -> None:
    assert asking.deferral is not None
    alone = list(StudentClassifier(asking.folder).score(TEXTS))
    together = list(StudentClassifier(asking.folder, teacher=teacher_of_packages.folder).score(TEXTS))
    asked = [score.ask for score in alone]
    assert set(asked) == {True, False}
    assert [score.ask for score in together] == asked
    teacher = teacher_of_packages
    reader = StudentClassifier(asking.folder)._tokenizer
    ids = [reader.encode(text.lower()).ids for text in TEXTS]
    logits = task_logits(OnnxClassifier(teacher.graph, threads=1).logits(ids, 512), SENTIMENT, teacher.labels)
    for i, (ours, both) in enumerate(zip(alone, together, strict=True)):
        if not asked[i]:
            assert both == ours
            continue
        theirs = softmax(logits[i : i + 1])[0]
        assert list(both.probabilities.values()) == pytest.approx(theirs.tolist(), abs=1e-5)
        assert both.label == SENTIMENT.labels[int(theirs.argmax())]
        assert both.calibrated is not None
        assert both.decision == (both.calibrated["negative"] >= asking.deferral.threshold)


def test_what_is_asked_does_not_depend_on_the_texts_around_it(
    asking: Package, teacher_of_packages: TeacherGraph
) -> None:
    together = list(StudentClassifier(asking.folder, teacher=teacher_of_packages.folder, threads=2).score(TEXTS))
    alone = StudentClassifier(asking.folder, teacher=teacher_of_packages.folder)
    for text, score in zip(TEXTS, together, strict=True):
        (own,) = alone.score([text])
        assert (own.ask, own.label, own.decision) == (score.ask, score.label, score.decision)
        assert list(own.probabilities.values()) == pytest.approx(list(score.probabilities.values()), abs=1e-5)


def test_the_teacher_reads_long_texts_as_the_student_does(
    asking: Package, trained_on_cut_texts: Callable[..., Package], teacher_of_packages: TeacherGraph
) -> None:
    assert asking.deferral is not None
    always = trained_on_cut_texts(asking, deferral={**asdict(asking.deferral), "below": 2.0})
    text, teacher = "profit rose and shares fell " * 20, teacher_of_packages
    ids = load_tokenizer(teacher.folder, teacher.max_length).encode(text).ids
    logits = task_logits(OnnxClassifier(teacher.graph, threads=1).logits([ids], 512), SENTIMENT, teacher.labels)
    (cut,) = StudentClassifier(always.folder, teacher=teacher.folder).score([text])
    assert list(cut.probabilities.values()) == pytest.approx(softmax(logits)[0].tolist(), abs=1e-5)
    (whole,) = StudentClassifier(always.folder, teacher=teacher.folder, long_texts="windows").score([text])
    assert list(whole.probabilities.values()) != pytest.approx(softmax(logits)[0].tolist(), abs=1e-5)


def test_finstill_score_marks_what_to_ask_and_asks(
    asking: Package, teacher_of_packages: TeacherGraph, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(TEXTS) + "\n")
    command = ["score", str(asking.folder), str(tmp_path / "in.csv")]
    assert main([*command, str(tmp_path / "alone.csv")]) == 0
    assert main([*command, str(tmp_path / "both.csv"), "--teacher", str(teacher_of_packages.folder)]) == 0
    written = []
    for name in ("alone.csv", "both.csv"):
        with (tmp_path / name).open(newline="") as file:
            written.append(list(csv.DictReader(file)))
    assert [row["ask"] for row in written[0]] == [row["ask"] for row in written[1]]
    differ = [ours["ask"] for ours, both in zip(*written, strict=True) if ours != both]
    assert set(differ) == {"true"}


def test_another_teacher_is_refused(
    asking: Package, package: Package, teacher_of_packages: TeacherGraph, tmp_path: Path
) -> None:
    write_json(tmp_path / "teacher.json", {"fingerprint": "0" * 32})
    with pytest.raises(InputError, match="the student learned from"):
        StudentClassifier(asking.folder, teacher=tmp_path)
    with pytest.raises(InputError, match=r"there is no teacher\.json"):
        StudentClassifier(asking.folder, teacher=asking.folder)
    with pytest.raises(InputError, match="leaves no text to a teacher"):
        StudentClassifier(package.folder, teacher=teacher_of_packages.folder)
