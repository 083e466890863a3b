"""A text longer than the teacher reads at once: the same windows from the teacher's cache to the student in service."""

from __future__ import annotations

import html

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from finstill.corpus.text import text_key
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.serving import StudentClassifier
from tests.pipelines.house import House
from tests.tiny_corpus import TEXTS

PARAGRAPH = "The board of AT&T {} met in March. It reports a profit of {} million and expects more orders next year."


def report(number: int, paragraphs: int) -> str:
    return " ".join(PARAGRAPH.format(number, 100 * number + i) for i in range(paragraphs))


@pytest.fixture
def long_house(house: House) -> House:
    """Short texts, and thirty reports of three to eight paragraphs, read 32 tokens at a time; entities are decoded."""
    profile = (house.root / "mine.yaml").read_text()
    profile = profile.replace("max_length: 32", "max_length: 32, long: windows")
    (house.root / "mine.yaml").write_text(profile.replace("label: tone", "label: tone, unescape: true"))
    rows = "".join(f"{report(i, 3 + i % 6)},{list(TEXTS)[i % 3]}\n" for i in range(30))
    house.add("reports.csv", range(0), rows)
    assert house.run("label").success
    return house


def test_students_are_measured_on_what_the_runtime_answers(long_house: House) -> None:
    long_house.instance.add_dynamic_partitions("students", ["small"])
    assert long_house.run("distil", partition="small").success
    workspace = long_house.profile.workspace
    test = pq.read_table(workspace.corpus, columns=["text"], filters=[("split", "=", "test")])["text"].to_pylist()
    # As a feed holds them.
    scores = list(StudentClassifier(workspace.package("small")).score(map(html.escape, test)))
    assert max(score.windows for score in scores) > 2
    measured = softmax(StudentEvaluation.read(workspace.evaluation("small")).logits.astype(np.float64), axis=1)
    answered = np.array([list(score.probabilities.values()) for score in scores])
    assert measured == pytest.approx(answered, abs=1e-5)


def test_the_teachers_logits_are_kept_by_window_and_counted(long_house: House) -> None:
    tokens = pq.read_table(long_house.profile.workspace.tokens)
    metadata = long_house.metadata("tokens")
    assert metadata["texts_read_in_windows"] == 30
    assert metadata["windows"] == tokens.num_rows - 120
    assert metadata["texts_cut"] == 0
    assert max(tokens["n_tokens"].to_pylist()) <= 32
    logits = pq.read_table(long_house.profile.workspace.teacher_logits)
    assert logits["key"].to_pylist() == tokens["key"].unique().to_pylist()
    parts = [row for row in tokens.to_pylist() if row["window"] is not None]
    assert all(row["key"] == text_key(row["window"]) for row in parts)


def test_a_report_that_grows_by_a_paragraph_costs_that_paragraph(long_house: House) -> None:
    text = report(7, 40)
    long_house.add("one.csv", range(0), f"{text},neutral\n")
    assert long_house.run("label").success
    whole = long_house.metadata("teacher_logits")["rows_reached_by_the_teacher"]
    (long_house.corpus / "one.csv").unlink()
    long_house.add("one.csv", range(0), f"{text} {PARAGRAPH.format(7, 12345)},neutral\n")
    assert long_house.run("label").success
    assert 1 <= long_house.metadata("teacher_logits")["rows_reached_by_the_teacher"] <= 3 < whole / 5


def test_a_long_text_that_is_cut_is_counted(house: House) -> None:
    house.add("reports.csv", range(0), f"{report(1, 5)},neutral\n")
    assert house.run("label").success
    assert house.metadata("tokens")["texts_cut"] == 1
    assert house.metadata("tokens")["windows"] == 0
