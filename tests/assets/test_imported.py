"""A teacher whose soft labels were imported, from the command to a champion, on a real Dagster instance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance
from scipy.special import log_softmax

from assets.students import student, students
from assets.teacher_logits import teacher_logits
from finstill.cache.cache import SoftLabelCache
from finstill.cli import main
from finstill.config.task import SENTIMENT, task_logits
from finstill.corpus.splits import split_of
from finstill.corpus.text import text_key
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.evaluation.report import NO_RACE
from finstill.inference.session import OnnxClassifier
from finstill.preflight.check import check_profile
from finstill.serving import StudentClassifier
from finstill.teacher.export import read_teachers
from finstill.training.rows import training_rows
from finstill.training.trained import TrainedStudent
from tests.assets.test_assets import BEFORE, Deployment, _failure
from tests.tiny_corpus import TEXTS

LABELS = SENTIMENT.labels


class Imported(Deployment):
    """The tiny corpus, and a table of votes in the place of a checkpoint."""

    def __init__(self, root: Path, checkpoint: Path, instance: DagsterInstance):
        super().__init__(root, checkpoint, instance)
        self.checkpoint = checkpoint
        self.write_teacher()

    def write_teacher(self, extra: str = "", sections: str = "", first: str = "imported: votes") -> None:
        (self.root / "mine.yaml").write_text(
            "task: sentiment\ncorpus: {path: texts.csv, text: body, label: tone}\n"
            f"teacher: {{{first}, max_length: 32{extra}}}\nrecipes: recipes.yaml\n{sections}"
        )

    def vote(self, shares: Mapping[str, list[float]]) -> int:
        """Import a table of the shares of votes of texts."""
        rows = [[text, *values] for text, values in shares.items()]
        pl.DataFrame(rows, schema=["text", *LABELS], orient="row").write_csv(self.root / "votes.csv")
        command = ["cache", "import", str(self.root / "votes.csv"), "--root", str(self.root / "cache")]
        options = ["--teacher", "votes", "--classes", ",".join(LABELS), "--values", "probabilities"]
        return main([*command, *options])


def votes(numbers: range) -> dict[str, list[float]]:
    """Return three votes in four for the label of each text of the tiny corpus."""
    return {
        text.format(i): [0.75 if other == label else 0.125 for other in LABELS]
        for i in numbers
        for label, text in TEXTS.items()
    }


@pytest.fixture
def deployment(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Imported]:
    with DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        yield Imported(tmp_path, tiny_checkpoint, instance)


def test_from_a_table_of_votes_to_a_champion_that_answers(deployment: Imported) -> None:
    assert deployment.vote(votes(range(40))) == 0
    assert deployment.make_all().success
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 0
    workspace = deployment.resource.workspace
    current = workspace.champion / "current"
    (score,) = StudentClassifier(str(current)).score([TEXTS["positive"].format(99)])
    assert score.label == "positive"
    teacher, *students = json.loads((workspace.comparison / "comparison.json").read_text())["table"]
    assert teacher["accuracy"] == 1
    assert [teacher[name] for name in ("megabytes", "parameters", "texts_per_second", "times_faster")] == [None] * 4
    assert all(row["texts_per_second"] > 0 and row["times_faster"] is None for row in students)
    assert NO_RACE.replace("'", "&#39;") in (workspace.comparison / "report.html").read_text()
    assert "the teacher `votes` (imported soft labels) and from labels" in (current / "README.md").read_text()


def test_a_student_of_exported_and_imported_logits_is_the_student_of_the_teacher_that_gave_them(
    deployment: Imported,
) -> None:
    deployment.instance.add_dynamic_partitions(str(students.name), ["small"])
    deployment.write_teacher(first=f"checkpoint: {deployment.checkpoint}")
    deployment.make([*BEFORE, student], partition="small")
    trained = TrainedStudent.read(deployment.resource.workspace.student("small"))
    (fingerprint,) = (deployment.root / "cache").iterdir()
    root, table = ["--root", str(deployment.root / "cache")], str(deployment.root / "logits.parquet")
    assert main(["cache", "export", fingerprint.name, table, *root]) == 0
    classes = SoftLabelCache.open(deployment.root / "cache", fingerprint.name).labels
    names = ["--teacher", "votes", "--classes", ",".join(classes), "--values", "logits", "--key", "key"]
    assert main(["cache", "import", table, *names, *root]) == 0
    deployment.write_teacher(f", tokenizer: {deployment.checkpoint}")
    deployment.make([*BEFORE, student], partition="small")
    again = TrainedStudent.read(deployment.resource.workspace.student("small"))
    assert again.inputs == trained.inputs
    assert again.provenance.teachers != trained.provenance.teachers


def test_texts_without_a_row_stop_the_run_or_are_left_out_of_training_and_evaluation(deployment: Imported) -> None:
    given = votes(range(40))
    # Every text about a meeting room with an even number, of whichever split.
    without = [text for i, text in enumerate(given) if "room" in text and i % 2]
    deployment.vote({text: values for text, values in given.items() if text not in without})
    step, message = _failure(deployment.make(BEFORE, raising=False))
    assert step == "teacher_logits"
    assert f"has no row of {len(without)} of 120 texts, as of “The meeting takes place in room" in message
    assert "set teacher.missing to leave_out" in message
    deployment.write_teacher(", missing: leave_out")
    deployment.make_all()
    assert deployment.metadata("teacher_logits")["texts_left_out"] == len(without)
    workspace = deployment.resource.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, SENTIMENT, workspace.teacher_logits)
    heard = [text for split in rows.values() for text in split.texts.to_pylist()]
    assert sorted(heard) == sorted(given.keys() - set(without))
    evaluated = StudentEvaluation.read(workspace.evaluation("small"))
    assert evaluated.teacher_logits.argmax(axis=1).tolist() == evaluated.labels.tolist()
    assert "left out, without a soft label" in (workspace.comparison / "report.html").read_text()
    assert deployment.metadata("scores")["rows_added"] == 120, "the champion answers for all texts"
    # They came later, and join without another word.
    deployment.vote(given)
    deployment.make([teacher_logits])
    assert "texts_left_out" not in deployment.metadata("teacher_logits")


def test_a_split_of_which_no_text_has_a_row_stops_the_run(deployment: Imported) -> None:
    given = votes(range(40))
    test = [text for text in given if split_of(text_key(text)) == "test"]
    deployment.vote({text: values for text, values in given.items() if text not in test})
    deployment.write_teacher(", missing: leave_out")
    _, message = _failure(deployment.make(BEFORE, raising=False))
    assert f"has no row of any of the {len(test)} test texts" in message


def test_augmented_texts_are_refused_until_they_have_rows_too(deployment: Imported) -> None:
    deployment.vote(votes(range(40)))
    deployment.write_teacher(
        f", missing: leave_out, tokenizer: {deployment.checkpoint}", "augmentation: {variants_per_text: 1}\n"
    )
    step, message = _failure(deployment.make(BEFORE, raising=False))
    assert step == "teacher_logits"
    augmented = deployment.resource.workspace.augmented
    assert "augmentation.variants_per_text: the imported teacher 'votes' has no row of" in message
    assert str(augmented) in message
    texts = pq.read_table(augmented, columns=["text"])["text"].to_pylist()
    deployment.vote({text: [0.25, 0.5, 0.25] for text in texts})
    assert deployment.make(BEFORE).success
    assert deployment.metadata("teacher_logits")["texts_augmented"] == len(texts)


@pytest.mark.parametrize("imported_first", [True, False])
def test_an_imported_teacher_in_an_ensemble_with_a_checkpoint(deployment: Imported, imported_first: bool) -> None:
    given = votes(range(40))
    left_out = TEXTS["neutral"].format(3)
    deployment.vote({text: values for text, values in given.items() if text != left_out})
    checkpoint, imported = f"checkpoint: {deployment.checkpoint}", "imported: votes"
    first, second = (imported, checkpoint) if imported_first else (checkpoint, imported)
    tokenizer = f", tokenizer: {deployment.checkpoint}" if imported_first else ""
    deployment.write_teacher(f"{tokenizer}, missing: leave_out, ensemble: [{{{second}}}]", first=first)
    deployment.make(BEFORE)
    # The text that is left out does not reach the checkpoint either.
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 119
    workspace = deployment.resource.workspace
    together = training_rows(workspace.corpus, workspace.tokens, SENTIMENT, workspace.teacher_logits)["train"]
    (graph,) = [
        each for each in read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble) if each.source != "votes"
    ]
    alone = OnnxClassifier(graph.graph).logits(together.input_ids, 512)
    theirs = task_logits(alone, SENTIMENT, graph.labels)
    texts = together.texts.to_pylist()
    assert left_out not in texts
    expected = (log_softmax(theirs, axis=1) + np.log([given[text] for text in texts])) / 2
    assert together.teacher_logits == pytest.approx(expected, abs=1e-5)


def test_a_teacher_that_was_not_imported_stops_before_anything_is_read(deployment: Imported) -> None:
    step, message = _failure(deployment.make(BEFORE, raising=False))
    assert step == "corpus"
    assert "teacher.imported: no teacher 'votes' was imported into the cache" in message
    assert "finstill cache import" in message


def test_more_rows_of_an_imported_teacher_are_another_input(deployment: Imported) -> None:
    deployment.vote(votes(range(20)))
    before = deployment.resource.inputs()
    assert deployment.resource.inputs() == before
    deployment.vote(votes(range(40)))
    assert deployment.resource.inputs() != before


def test_check_tells_of_missing_rows_and_of_the_votes_worth(deployment: Imported) -> None:
    def check() -> tuple[list[str], object]:
        report = check_profile(deployment.root / "mine.yaml", deployment.root / "home", str(deployment.root / "cache"))
        return [f"{each.severity} {each.message}" for each in report.problems], report.teacher

    assert any("stops" in each and "no teacher 'votes' was imported" in each for each in check()[0])
    deployment.vote({text: values for text, values in votes(range(40)).items() if not text.endswith("room 3")})
    problems, _ = check()
    assert any(each.startswith("stops") and "has no row of 1 of 120 texts" in each for each in problems), problems
    deployment.write_teacher(", missing: leave_out")
    problems, found = check()
    assert not any(each.startswith("stops") for each in problems), problems
    assert any("1 of 120 texts are left out" in each for each in problems)
    assert (found.classes, found.accuracy, found.labelling_seconds) == (list(LABELS), 1.0, 0.0)
    (deployment.root / "tweets.csv").write_text("tweet,mood\nTo the moon,positive\n")
    other = "out_of_domain: {path: tweets.csv, text: tweet, label: mood, name: tweets}\n"
    deployment.vote(votes(range(40)))
    deployment.write_teacher(sections=other)
    problems, _ = check()
    (stop,) = [each for each in problems if each.startswith("stops")]
    assert "has no row of 1 of 1 texts, as of “To the moon”" in stop
