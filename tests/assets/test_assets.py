"""The assets on a real Dagster instance, from a corpus of one's own to a champion."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import (
    AssetKey,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    ExecuteInProcessResult,
    materialize,
)
from huggingface_hub import constants
from scipy.special import log_softmax

import assets.augmented_corpus
import assets.corpus
import assets.evaluation
import assets.in_service
import assets.teacher
import assets.teacher_logits
from assets.augmented_corpus import augmented_corpus
from assets.champion import champion
from assets.comparison import comparison
from assets.corpus import corpus
from assets.evaluation import evaluation, texts_of
from assets.in_service import in_service
from assets.label_review import label_review
from assets.out_of_domain import out_of_domain
from assets.page import page
from assets.resources import ProfileResource
from assets.scores import scores
from assets.students import student, student_package, students
from assets.teacher import teacher_checkpoint, teacher_ensemble, teacher_onnx, teacher_source, tokens
from assets.teacher_logits import teacher_logits
from assets.tuning import tuning
from finstill.augment.build import AUGMENTED_SCHEMA, AugmentationReport
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.corpus.splits import split_of
from finstill.corpus.text import normalise, text_key
from finstill.evaluation.evaluate import Evaluation, StudentEvaluation
from finstill.files import write_json
from finstill.inference.session import OnnxClassifier
from finstill.packaging.champion import difference_from_champion
from finstill.serving.package import Package
from finstill.teacher.export import read_teachers
from finstill.training.rows import training_rows
from finstill.training.trained import TrainedStudent
from finstill.tuning.space import suggest
from tests import hub
from tests.tables import forget_provenance
from tests.tiny_corpus import RECIPES, TEXTS, csv_rows

BEFORE = [
    corpus,
    teacher_source,
    tokens,
    teacher_checkpoint,
    augmented_corpus,
    teacher_onnx,
    teacher_ensemble,
    teacher_logits,
    out_of_domain,
]
PER_STUDENT = [student, student_package, evaluation]
AFTER = [comparison, champion, scores, label_review, in_service, page]
BOTH = ("small", "small-baseline")
CHECKS = [
    assets.teacher.graph_equals_checkpoint,
    assets.teacher.labels_as_float32,
    assets.teacher_logits.every_text_has_logits,
    assets.teacher_logits.teacher_beats_the_majority_class,
    assets.augmented_corpus.no_test_text_is_learned_from,
    assets.corpus.corpus_is_sound,
    assets.corpus.classes_as_before,
    assets.evaluation.within_budgets,
    assets.evaluation.no_worse_than_the_champion,
    assets.in_service.holds_what_it_was_promoted_for,
]


class Deployment:
    """A profile with a CSV corpus and a local teacher, and the Dagster instance its assets are made in."""

    def __init__(self, root: Path, checkpoint: Path, instance: DagsterInstance):
        self.root, self.instance = root, instance
        self.resource = ProfileResource(
            path=str(root / "mine.yaml"), home=str(root / "home"), cache=str(root / "cache")
        )
        (root / "recipes.yaml").write_text(RECIPES)
        self.write_profile(checkpoint)
        self.write_corpus(range(40))

    def write_profile(
        self, checkpoint: Path | str, task: str = "sentiment", extra: str = "", sections: str = ""
    ) -> None:
        (self.root / "mine.yaml").write_text(
            f"task: {task}\ncorpus: {{path: texts.csv, text: body, label: tone}}\n"
            f"teacher: {{checkpoint: {checkpoint}, max_length: 32{extra}}}\nrecipes: recipes.yaml\n{sections}"
        )

    def shorten(self) -> None:
        """Have the teacher read fewer tokens."""
        profile = self.root / "mine.yaml"
        profile.write_text(profile.read_text().replace("max_length: 32", "max_length: 16"))

    def write_corpus(self, numbers: range, more: str = "") -> None:
        (self.root / "texts.csv").write_text("body,tone\n" + csv_rows(numbers) + more)

    def make(
        self, selection: list, partition: str | None = None, raising: bool = True, config: dict | None = None
    ) -> ExecuteInProcessResult:
        return materialize(
            [*BEFORE, tuning, *PER_STUDENT, *AFTER, *CHECKS],
            selection=[key.key for key in selection],
            instance=self.instance,
            partition_key=partition,
            resources={"profile": self.resource},
            raise_on_error=raising,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": config or {}},
        )

    def make_all(self, names: Sequence[str] = ("small",)) -> ExecuteInProcessResult:
        """Make every asset, of these students, and return what came of those after them."""
        self.instance.add_dynamic_partitions(str(students.name), names)
        self.make(BEFORE)
        for name in names:
            self.make(PER_STUDENT, partition=name)
        return self.make(AFTER)

    def metadata(self, asset: str) -> dict:
        event = self.instance.get_latest_materialization_event(AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def version(self, asset: str) -> str | None:
        event = self.instance.get_latest_materialization_event(AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return (event.asset_materialization.tags or {}).get("dagster/data_version")


def _failure(result: ExecuteInProcessResult) -> tuple[str, str]:
    """Return the step that failed and what it said."""
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key is not None
    return failure.step_key, failure.step_failure_data.error.message


@pytest.fixture
def deployment(tmp_path: Path, tiny_checkpoint: Path, furnished_home: Path) -> Iterator[Deployment]:
    shutil.copytree(furnished_home, tmp_path / "home", symlinks=True)
    with DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        yield Deployment(tmp_path, tiny_checkpoint, instance)


def test_from_a_corpus_to_a_champion(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    made = deployment.make_all(BOTH)
    assert made.success
    assert deployment.metadata("corpus")["dagster/row_count"] == 120
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 120
    assert [row["name"] for row in map(dict, _rows(deployment.metadata("comparison")["table"]))] == [
        "teacher",
        "small",
        "small-baseline",
    ]
    assert deployment.metadata("champion")["promoted"] is True
    home = deployment.resource.workspace
    assert (home.comparison / "report.html").is_file()
    assert (home.champion / "current" / "model.onnx").is_file()
    # It knows the texts that it learned from, should they be test texts one day.
    train = training_rows(home.corpus, home.tokens, SENTIMENT, home.teacher_logits)["train"]
    evaluated, served = StudentEvaluation.read(home.evaluation("small")), Package.read(home.champion / "current")
    learned = difference_from_champion(evaluated, served, train, texts_of(train), level=0.95)
    assert (learned.difference, learned.left_out) == (None, len(train))
    assert deployment.metadata("scores")["rows_added"] == 120
    (night,) = map(dict, _rows(deployment.metadata("in_service")["nights"]))
    assert night["champion"] == deployment.metadata("champion")["champion"]
    assert night["texts"] >= 30
    assert list(deployment.root.rglob(".unfinished-*")) == []
    checks = {each.check_name: each for each in made.get_asset_check_evaluations()}
    few = checks["enough_test_rows_of_each_class"]
    assert (few.passed, few.severity.value) == (False, "WARN")
    assert re.search(r"positive has \d+ labelled test texts.* \d+ tell it to within 5 points\.", str(few.description))
    if shutil.which("npm"):
        assert Path(deployment.metadata("page")["page"]) == home.comparison / "try" / "index.html"
        assert (home.comparison / "try" / "index.html").is_file()
    for fetched in Path(deployment.resource.home).glob("onnxruntime-web-*"):
        fetched.unlink()
    monkeypatch.setenv("PATH", "")
    assert deployment.make([page]).success
    assert "comes from npm, which is not installed" in deployment.metadata("page")["no_page"]


def test_made_again_with_nothing_new_no_text_reaches_the_teacher_and_versions_stay(deployment: Deployment) -> None:
    deployment.make_all()
    stages = ["corpus", "tokens", "teacher_checkpoint", "teacher_onnx", "teacher_logits", "student", "student_package"]
    before = {stage: deployment.version(stage) for stage in stages}
    deployment.make_all()
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 0
    assert deployment.metadata("teacher_logits")["cache_hit_rate"] == 1
    assert {stage: deployment.version(stage) for stage in stages} == before
    assert deployment.metadata("champion")["promoted"] is False


def test_only_new_texts_reach_the_teacher(deployment: Deployment) -> None:
    deployment.make(BEFORE)
    deployment.write_corpus(range(41))
    deployment.make(BEFORE)
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 3
    assert deployment.metadata("teacher_logits")["dagster/row_count"] == 123


def test_augmented_texts_reach_the_teacher_once_and_the_distilled_student_alone(
    deployment: Deployment, tiny_checkpoint: Path
) -> None:
    deployment.write_profile(tiny_checkpoint, sections="augmentation: {variants_per_text: 2}\n")
    deployment.make_all(BOTH)
    kept = deployment.metadata("augmented_corpus")["dagster/row_count"]
    assert kept > 100
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 120 + kept
    rows = {name: TrainedStudent.read(deployment.resource.workspace.student(name)).rows for name in BOTH}
    assert rows["small"] - rows["small-baseline"] == kept
    deployment.make(BEFORE)
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 0


def test_one_pass_serves_another_task_of_the_same_teacher(deployment: Deployment, tiny_checkpoint: Path) -> None:
    deployment.make(BEFORE)
    deployment.write_profile(tiny_checkpoint, task="risk")
    body = "".join(
        f"{text.format(i)},{'risk' if label == 'negative' else 'no_risk'}\n"
        for i in range(40)
        for label, text in TEXTS.items()
    )
    (deployment.root / "texts.csv").write_text("body,tone\n" + body)
    deployment.make_all()
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 0
    assert {row["class"] for row in map(dict, _rows(deployment.metadata("evaluation")["by_class"]))} == {
        "no_risk",
        "risk",
    }


def test_a_student_of_many_nights_is_advised_by_all_that_it_learned_from(deployment: Deployment) -> None:
    """It went on from the champion, and its last night alone was short of text."""
    workspace = deployment.resource.workspace
    student = TrainedStudent(
        folder=workspace.student("small"),
        recipe=Recipe(epochs=10, alpha=0.9, start_from="champion", warm_epochs=2),
        inputs="",
        history=[{"epoch": 1, "validation_loss": 0.6}, {"epoch": 2, "validation_loss": 0.5}],
        validation={},
        rows=1_380,
        texts=60_000,
        labelled=1_244,
        steps=1,
        parameters=1,
        started_from="a champion",
    )
    student.folder.mkdir(parents=True)
    described = {**asdict(student), "folder": None, "recipe": student.recipe.model_dump(mode="json")}
    write_json(student.folder / "training.json", described)
    poor, good = (Evaluation("small", "0", 100, 0, None, agreement, 0.1, 1, 1.0, None, 0.8) for agreement in (0.8, 1.0))
    nothing = np.empty(0)
    result = StudentEvaluation(poor, good, "", nothing, nothing, nothing, nothing)
    (only,) = assets.evaluation.advice_for(deployment.resource, "small", result)
    assert only == "Its validation loss still fell in the last of 2 epochs: raise warm_epochs."


def test_a_task_that_decides_is_measured_compared_and_served_by_its_decisions(
    deployment: Deployment, tiny_checkpoint: Path
) -> None:
    deployment.make_all()
    first = Package.read(deployment.resource.workspace.champion / "current")
    decide = "{name: sentiment, decide: {negative: {recall_at_least: 0.9}}}"
    deployment.write_profile(tiny_checkpoint, task=decide)
    _, message = _failure(deployment.make([comparison], raising=False))
    assert "no student can be compared" in message
    deployment.make_all(BOTH)
    rows = [dict(row) for row in _rows(deployment.metadata("evaluation")["decisions"])]
    assert [(row["classifier"], row["texts"]) for row in rows] == [("small-baseline", "test"), ("teacher", "test")]
    assert {"Precision and recall", "ROC"} <= set(deployment.metadata("comparison"))
    leaderboard = [dict(row) for row in _rows(deployment.metadata("comparison")["leaderboard"])]
    assert all(0 < row["at_the_point"] <= 1 for row in leaderboard)
    assert "points of precision at a recall of 0.9" in deployment.metadata("comparison")["verdicts"]
    report = (deployment.resource.workspace.comparison / "report.html").read_text()
    assert "<h2>Decisions</h2>" in report
    # The champion of before decides nothing: it is replaced though none is better.
    reason = deployment.metadata("champion")["reason"]
    assert reason.endswith("the task decides at another operating point")
    champion_now = Package.read(deployment.resource.workspace.champion / "current")
    assert (first.decision, champion_now.decision and champion_now.decision.label) == (None, "negative")
    table = pq.read_table(deployment.resource.workspace.scores)
    assert deployment.metadata("scores")["alerts_added"] == sum(table["decision"].to_pylist())


def test_a_decision_that_no_threshold_reaches_keeps_a_student_out_of_service(
    deployment: Deployment, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = "{name: sentiment, decide: {negative: {precision_at_least: 1.0}}}"
    deployment.write_profile(tiny_checkpoint, task=decide)
    # Half of the positive texts are labelled negative, so that no classifier is always right.
    wrong = "".join(f"{TEXTS['positive'].format(i)} too,{'negative' if i % 2 else 'positive'}\n" for i in range(60))
    (deployment.root / "texts.csv").write_text("body,tone\n" + wrong + csv_rows(range(4)))
    deployment.make(BEFORE)
    deployment.instance.add_dynamic_partitions(str(students.name), ["small"])
    deployment.make(PER_STUDENT, partition="small")
    deployment.make([comparison])
    stepped, message = _failure(deployment.make([champion], raising=False))
    assert (stepped, "no threshold has precision at least 1" in message) == ("champion", True)


def test_bad_input_stops_the_run_and_leaves_what_was_made(deployment: Deployment) -> None:
    deployment.make(BEFORE)
    home = deployment.resource.workspace
    before = {path: path.read_bytes() for path in (home.corpus, home.tokens, home.teacher_logits)}
    deployment.write_corpus(range(40), more="Shares were bullish,bullish\n")
    result = deployment.make(BEFORE, raising=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key == "corpus"
    error = failure.step_failure_data.error
    # The UI shows message, stack trace and causes in this order.
    name, _, said = error.message.partition(": ")
    assert name == "dagster._core.definitions.events.Failure"
    assert said.startswith("texts.csv, row 121: the label 'bullish' is not one of the task's labels")
    assert any("assets/corpus.py" in frame for frame in error.cause.stack)
    assert {path: path.read_bytes() for path in before} == before


def test_a_teacher_whose_classes_are_not_the_tasks_stops_before_it_is_run(
    deployment: Deployment, make_checkpoint: Callable[..., Path]
) -> None:
    deployment.write_profile(make_checkpoint(labels=("good", "bad", "ugly")))
    result = deployment.make(BEFORE, raising=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key == "teacher_onnx"
    assert "['good', 'bad', 'ugly'] do not match" in failure.step_failure_data.error.message
    assert not (deployment.root / "cache").exists()


def test_a_graph_unequal_to_its_checkpoint_blocks_the_teacher_pass(
    deployment: Deployment, make_checkpoint: Callable[..., Path]
) -> None:
    """The graph of other weights takes the graph's place between export and check, as a broken exporter would."""
    from finstill.teacher.export import export_teacher

    deployment.make([corpus, teacher_source, tokens, teacher_checkpoint, teacher_onnx])
    other = export_teacher(make_checkpoint(seed=5), deployment.root / "other", max_length=32, source="x")
    graph = deployment.resource.workspace.teacher_onnx / "model.onnx"
    right = graph.read_bytes()
    graph.write_bytes(other.graph.read_bytes())
    result = deployment.make([teacher_onnx, teacher_logits], raising=False)
    assert not result.success
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "graph_equals_checkpoint": False,
        "labels_as_float32": True,
    }
    assert "teacher_logits" not in {
        event.asset_key.to_user_string() for event in result.get_asset_materialization_events()
    }
    later = deployment.make([teacher_logits], raising=False)
    (failure,) = [event for event in later.all_events if event.is_step_failure]
    assert "the check graph_equals_checkpoint refused its graph" in failure.step_failure_data.error.message
    assert not (deployment.root / "cache").exists()
    graph.write_bytes(right)
    assert deployment.make(BEFORE).success


def test_all_stages_read_one_revision_when_main_moves_between_them(
    deployment: Deployment,
    tiny_checkpoint: Path,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def revisions() -> set[str]:
        return {deployment.metadata(name)["revision"] for name in ("teacher_source", "tokens", "teacher_checkpoint")}

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with hub.running({"me/finbert": tiny_checkpoint}) as server:
        hub.point_at(server.url, monkeypatch)
        deployment.write_profile("me/finbert")
        deployment.make([corpus, teacher_source, tokens])
        server.move("me/finbert", make_checkpoint(seed=3), "f" * 40)
        deployment.make([teacher_checkpoint])
        assert revisions() == {hub.COMMIT}
        before = deployment.version("teacher_checkpoint")
        deployment.make([teacher_source, tokens, teacher_checkpoint])
        assert revisions() == {"f" * 40}
        assert deployment.version("teacher_checkpoint") != before


def test_ids_of_one_length_are_not_kept_under_the_fingerprint_of_another(deployment: Deployment) -> None:
    deployment.make(BEFORE)
    kept = sorted((deployment.root / "cache").rglob("*"))
    deployment.shorten()
    result = deployment.make([teacher_onnx, teacher_logits], raising=False)
    step, message = _failure(result)
    assert step == "teacher_logits"
    workspace = deployment.resource.workspace
    assert f"{workspace.tokens}: it does not belong to {workspace.teacher_onnx.resolve()}" in message
    assert "Materialize tokens and teacher_onnx again" in message
    assert sorted((deployment.root / "cache").rglob("*")) == kept
    deployment.make(BEFORE)
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 120


def test_tokens_of_an_older_version_stop_the_teacher_pass(deployment: Deployment) -> None:
    deployment.make(BEFORE)
    forget_provenance(deployment.resource.workspace.tokens)
    _, message = _failure(deployment.make([teacher_logits], raising=False))
    assert "tokens.parquet: it does not say by which tokenizer" in message
    assert "Materialize tokens again" in message


def test_what_was_made_beside_another_teacher_is_neither_packaged_nor_evaluated(deployment: Deployment) -> None:
    deployment.instance.add_dynamic_partitions(str(students.name), ["small"])
    deployment.make(BEFORE)
    deployment.make(PER_STUDENT, partition="small")
    deployment.shorten()
    deployment.make(BEFORE)
    for stage, again in ((student_package, "student"), (evaluation, "student_package")):
        _, message = _failure(deployment.make([stage], partition="small", raising=False))
        assert f"Materialize {again} again" in message
    assert deployment.make(PER_STUDENT, partition="small").success


def test_int8_labels_that_differ_from_float32_ones_block_the_teacher_pass(
    deployment: Deployment, tiny_checkpoint: Path, make_checkpoint: Callable[..., Path]
) -> None:
    from finstill.teacher.export import export_teacher

    deployment.write_profile(tiny_checkpoint, extra=", precision: int8")
    deployment.make([corpus, teacher_source, tokens, teacher_checkpoint, teacher_onnx])
    folder = deployment.root / "other"
    other = export_teacher(make_checkpoint(seed=5), folder, max_length=32, source="x", precision="int8")
    (deployment.resource.workspace.teacher_onnx / "model.int8.onnx").write_bytes(other.graph.read_bytes())
    result = deployment.make([teacher_onnx, teacher_logits], raising=False)
    assert not result.success
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "graph_equals_checkpoint": True,
        "labels_as_float32": False,
    }


def test_a_precision_that_was_chosen_says_why_and_was_measured_on_no_row_that_a_teacher_learns_from(
    deployment: Deployment, tiny_checkpoint: Path
) -> None:
    deployment.write_profile(tiny_checkpoint, extra=", precision: auto")
    deployment.write_corpus(range(40), more="".join(f"A text {i} without a label,\n" for i in range(10)))
    made = [corpus, teacher_source, tokens, teacher_checkpoint, teacher_onnx]
    result = deployment.make(made)
    texts = pq.read_table(deployment.resource.workspace.corpus).to_pylist()
    measured = sum(row["split"] != "train" or row["label"] is None for row in texts)
    assert measured < 60
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "labels_as_float32"]
    assert check.passed
    assert check.description == f"float32 was chosen: too few texts to tell how int8 labels: {measured}."
    metadata = result.asset_materializations_for_node("teacher_onnx")[0].metadata
    assert metadata["precision_chosen"].value in str(check.description)


def test_a_test_text_among_the_augmented_ones_blocks_the_teacher_pass(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = deployment.resource.workspace

    def leak(*_: object) -> AugmentationReport:
        (text, *_) = pq.read_table(workspace.corpus, filters=[("split", "=", "test")])["text"].to_pylist()
        row = {"key": bytes(16), "input_ids": [], "n_tokens": 0, "truncated": False, "text": text, "origin": bytes(16)}
        pq.write_table(pa.Table.from_pylist([row], AUGMENTED_SCHEMA), workspace.augmented)
        return AugmentationReport(kept=1)

    monkeypatch.setattr("finstill.augment.build.augment_corpus", leak)
    result = deployment.make(BEFORE, raising=False)
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [(check.check_name, check.severity.value) for check in failed] == [("no_test_text_is_learned_from", "ERROR")]
    assert "as in test: “" in (failed[0].description or "")
    assert not workspace.teacher_logits.exists()


def test_an_out_of_domain_corpus_is_measured_beside_the_test_split(
    deployment: Deployment, tiny_checkpoint: Path
) -> None:
    section = "out_of_domain: {path: tweets.csv, text: tweet, label: mood, name: tweets, label_names: {up: positive}}\n"
    deployment.write_profile(tiny_checkpoint, sections=section)
    (deployment.root / "tweets.csv").write_text("tweet,mood\nTo the moon,up\nIt sinks,negative\nA day,neutral\n")
    deployment.make_all()
    assert deployment.metadata("out_of_domain")["rows_reached_by_the_teacher"] == 3
    shown = [dict(row) for row in _rows(deployment.metadata("comparison")["table"])]
    assert all(0 <= row["macro_f1_out_of_domain"] <= 1 for row in shown)
    assert "macro-F1 out of domain" in (deployment.resource.workspace.comparison / "report.html").read_text()
    deployment.write_profile(tiny_checkpoint)
    deployment.make([out_of_domain])
    assert not deployment.resource.workspace.out_of_domain.root.exists()


def test_what_tuning_finds_is_a_student_like_any_other(deployment: Deployment, tiny_checkpoint: Path) -> None:
    deployment.write_profile(tiny_checkpoint, sections="tuning: {recipe: small, trials: 2}\n")
    deployment.make([*BEFORE, tuning])
    assert deployment.metadata("tuning")["trials"] == 2
    assert deployment.instance.get_dynamic_partitions(str(students.name)) == ["tuned"]
    found = deployment.resource.recipes()["tuned"]
    deployment.make(PER_STUDENT, partition="tuned")
    assert TrainedStudent.read(deployment.resource.workspace.student("tuned")).recipe == found
    deployment.make([comparison])
    assert [row["name"] for row in map(dict, _rows(deployment.metadata("comparison")["table"]))] == ["teacher", "tuned"]
    assert "Settings tried in tuning" in (deployment.resource.workspace.comparison / "report.html").read_text()
    version = deployment.version("tuning")
    deployment.make([tuning])
    assert deployment.version("tuning") == version


def test_a_tuning_ends_at_the_first_step_after_its_run_was_cancelled(
    deployment: Deployment, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.write_profile(tiny_checkpoint, sections="tuning: {recipe: small, trials: 2}\n")
    deployment.make(BEFORE)
    monkeypatch.setattr("assets.cancelling.SECONDS_BETWEEN", 0.0)
    asked = []

    def cancel(*args: object) -> Recipe:
        """Cancel the run where it asks for a recipe to try."""
        asked.append(args)
        deployment.instance.report_run_canceling(deployment.instance.get_runs(limit=1)[0])
        return suggest(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("finstill.tuning.search.suggest", cancel)
    with pytest.raises(DagsterExecutionInterruptedError):
        deployment.make([tuning])
    assert len(asked) == 1
    assert not deployment.resource.workspace.tuning.exists()


def test_a_tuning_of_a_recipe_that_is_not_there_is_said(deployment: Deployment, tiny_checkpoint: Path) -> None:
    deployment.write_profile(tiny_checkpoint, sections="tuning: {recipe: smal}\n")
    deployment.make(BEFORE)
    result = deployment.make([tuning], raising=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "there is no recipe 'smal'; there are ['small', 'small-baseline']" in failure.step_failure_data.error.message


def test_an_ensembles_teachers_each_have_a_cache_and_students_hear_their_mean(
    deployment: Deployment, tiny_checkpoint: Path, make_checkpoint: Callable[..., Path]
) -> None:
    other = make_checkpoint(labels=("negative", "neutral", "positive"), seed=7)
    deployment.write_profile(tiny_checkpoint)
    deployment.make(BEFORE)
    workspace = deployment.resource.workspace
    alone = training_rows(workspace.corpus, workspace.tokens, SENTIMENT, workspace.teacher_logits)["train"]
    deployment.write_profile(tiny_checkpoint, extra=f", ensemble: [{{checkpoint: {other}}}]")
    deployment.make_all()
    # The first teacher's answers were in its cache.
    assert deployment.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 120
    assert len(list((deployment.root / "cache").iterdir())) == 2
    together = training_rows(workspace.corpus, workspace.tokens, SENTIMENT, workspace.teacher_logits)["train"]
    first, second = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    further = OnnxClassifier(second.graph).logits(alone.input_ids, 512)
    expected = (log_softmax(alone.teacher_logits, axis=1) + log_softmax(further, axis=1)) / 2
    assert together.teacher_logits == pytest.approx(expected, abs=1e-5)
    student = StudentEvaluation.read(workspace.evaluation("small"))
    assert student.teacher.parameters == first.parameters + second.parameters
    assert student.teacher.digest == Package.read(workspace.package("small")).teacher != first.fingerprint
    deployment.write_profile(tiny_checkpoint)
    deployment.make(BEFORE)
    back = training_rows(workspace.corpus, workspace.tokens, SENTIMENT, workspace.teacher_logits)["train"]
    assert np.array_equal(back.teacher_logits, alone.teacher_logits)


def test_a_corpus_that_is_not_sound_stops_what_follows(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row slips in under another text's key, as a faulty build would write it."""
    import pyarrow as pa

    from finstill.corpus import build

    merge = build.merge

    def faulty(*arguments: object) -> Iterator[pa.Table]:
        for table in merge(*arguments):  # type: ignore[arg-type]
            first, *others = table["key"].to_pylist()
            keys = pa.array([*others[:1], *others] if others else [first], pa.binary(16))
            yield table.set_column(0, build.CORPUS_SCHEMA.field("key"), keys)

    monkeypatch.setattr(build, "merge", faulty)
    result = deployment.make([corpus, tokens], raising=False)
    assert not result.success
    failed = {check.check_name: check.description for check in result.get_asset_check_evaluations() if not check.passed}
    assert list(failed) == ["corpus_is_sound"]
    assert "Keys are not ascending, or one stands twice" in str(failed["corpus_is_sound"])
    assert [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()] == ["corpus"]


def test_a_corpus_without_one_of_the_classes_stops_what_follows(deployment: Deployment) -> None:
    rows = csv_rows(range(40)).splitlines(keepends=True)
    deployment.write_corpus(range(0), more="".join(row for row in rows if not row.endswith("neutral\n")))
    result = deployment.make([corpus, tokens], raising=False)
    failed = {check.check_name: check.description for check in result.get_asset_check_evaluations() if not check.passed}
    assert list(failed) == ["corpus_is_sound"]
    assert "No text is labelled neutral, and others have a label" in str(failed["corpus_is_sound"])
    assert [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()] == ["corpus"]


def test_classes_that_drift_are_a_warning(deployment: Deployment) -> None:
    deployment.make([corpus])
    deployment.write_corpus(range(40), more="".join(f"Shares fell {i} cents,negative\n" for i in range(200)))
    result = deployment.make([corpus])
    (drift,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "classes_as_before"]
    assert not drift.passed
    assert drift.severity.value == "WARN"


def test_a_budget_that_is_breached_keeps_a_student_out_of_service_and_rolling_back_is_one_materialization(
    deployment: Deployment, tiny_checkpoint: Path
) -> None:
    deployment.make_all()
    deployment.write_profile(tiny_checkpoint, sections="budgets: {megabytes: 0.001}\n")
    result = deployment.make([*PER_STUDENT], partition="small")
    assert result.success
    checked = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checked["within_budgets"].passed
    assert "megabytes is" in str(checked["within_budgets"].description)
    assert checked["no_worse_than_the_champion"].passed
    assert checked["no_worse_than_the_champion"].metadata["test_texts_left_out"].value == 0
    deployment.make(AFTER)
    assert "no other may follow it" in deployment.metadata("champion")["reason"]
    rolled = deployment.make([champion], raising=False, config={"champion": {"config": {"roll_back": True}}})
    (failure,) = [event for event in rolled.all_events if event.is_step_failure]
    assert "there is nothing to roll back to" in failure.step_failure_data.error.message


def test_a_hub_that_does_not_answer_is_asked_again_and_a_bad_row_is_not(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets import faults
    from finstill.corpus import build
    from finstill.errors import UnreachableError

    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0)
    answers = iter([UnreachableError("no answer"), UnreachableError("no answer")])
    read = build.source_files

    def unreliable(*arguments: object) -> object:
        for error in answers:
            raise error
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "source_files", unreliable)
    result = deployment.make([corpus])
    assert result.success
    assert len([event for event in result.all_events if event.is_step_restarted]) == 2
    deployment.write_corpus(range(40), more="Shares were bullish,bullish\n")
    result = deployment.make([corpus], raising=False)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_markup_in_a_text_cannot_draw_on_the_page(deployment: Deployment) -> None:
    deployment.write_corpus(
        range(40), more="".join(f'"<img src=x onerror=alert({i})> [a](http://b)",neutral\n' for i in range(300))
    )
    deployment.make([corpus])
    shown = str(deployment.metadata("corpus"))
    assert "img src" in shown
    assert "<img" not in shown
    assert "](" not in shown


def test_a_partition_without_a_recipe_is_said(deployment: Deployment) -> None:
    deployment.make(BEFORE)
    deployment.instance.add_dynamic_partitions(str(students.name), ["gone"])
    result = deployment.make([student], partition="gone", raising=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "there is no recipe 'gone'; it names ['small', 'small-baseline']" in failure.step_failure_data.error.message


def test_a_given_split_is_honoured(deployment: Deployment, tiny_checkpoint: Path) -> None:
    rows = [(TEXTS["neutral"].format(i), "neutral", "test" if i % 3 else "train") for i in range(9)]
    rows += [("Profit rose", "positive", "validation"), ("Shares fell", "negative", "train")]
    lines = "".join(f"{text},{label},{split}\n" for text, label, split in rows)
    (deployment.root / "texts.csv").write_text("body,tone,part\n" + lines)
    profile = (deployment.root / "mine.yaml").read_text().replace("label: tone", "label: tone, split: part")
    (deployment.root / "mine.yaml").write_text(profile)
    deployment.make([corpus])
    table = pq.read_table(deployment.resource.workspace.corpus).to_pylist()
    assert {row["text"]: row["split"] for row in table} == {text: split for text, _, split in rows}
    assert any(split_of(text_key(normalise(text))) != split for text, _, split in rows)


def test_a_split_by_date_measures_later_texts_by_month(deployment: Deployment) -> None:
    """Rows 0 to 25 are of 2019, 26 to 31 of January 2020; the test texts are of February and April, one undated row."""

    def day(number: int) -> str:
        return (
            f"2019-{1 + number % 12:02}-15"
            if number < 26
            else "2020-01-31"
            if number < 32
            else f"2020-0{number % 2 * 2 + 2}-01"
        )

    lines = [f"{text.format(i)},{label},{day(i)}" for i in range(40) for label, text in TEXTS.items()]
    dated = "body,tone,day\n" + "\n".join([*lines, "An undated text,neutral,"]) + "\n"
    (deployment.root / "texts.csv").write_text(dated)
    profile = deployment.root / "mine.yaml"
    by_date = "split: {by: date, validation_from: 2020-01-01, test_from: 2020-02-01}"
    profile.write_text(profile.read_text().replace("label: tone", f"label: tone, date: day, {by_date}"))
    assert deployment.make_all().success
    texts = pq.read_table(deployment.resource.workspace.corpus).to_pylist()
    assert {(row["split"], row["date"][:7]) for row in texts if row["split"] != "train"} == {
        ("validation", "2020-01"),
        ("test", "2020-02"),
        ("test", "2020-04"),
    }
    assert {"reason": "no date, so in train", "rows": 1} in _rows(deployment.metadata("corpus")["dropped_or_merged"])
    months = _rows(deployment.metadata("evaluation")["by_month"])
    assert [(row["month"], row["rows"]) for row in months] == [("2020-02", 12), ("2020-04", 12)]
    assert "Quality by month" in deployment.metadata("comparison")
    report = (deployment.resource.workspace.comparison / "report.html").read_text()
    assert "<td>2020-04</td><td>12</td>" in report
    version = deployment.version("corpus")
    profile.write_text(profile.read_text().replace("test_from: 2020-02-01", "test_from: 2020-04-01"))
    deployment.make([corpus])
    assert deployment.version("corpus") != version
    (deployment.root / "texts.csv").write_text(dated.replace("2020-01-31", "31.01.2020", 1))
    step, cause = _failure(deployment.make([corpus], raising=False))
    assert step == "corpus"
    assert "texts.csv, row 79: the date '31.01.2020' is not an ISO 8601 date or datetime" in cause


def _rows(table: object) -> list:
    return [record.data for record in table.records]  # type: ignore[attr-defined]
