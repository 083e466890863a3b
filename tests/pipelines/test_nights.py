"""Nights on a real Dagster instance: what they take, retrain, decide and say, and that nothing runs twice.

A daemon evaluates the sensor and starts the runs that it asks for; here the test does both, in one process, so that it
can stop wherever a daemon could be killed. The real one runs in tests/e2e.
"""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path

import pytest
from dagster import RunRequest, SensorResult, SkipReason, build_sensor_context
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, BACKFILL_ID_TAG, RUN_KEY_TAG, WILL_RETRY_TAG

import pipelines.definitions
from assets.corpus import corpus
from finstill.errors import InputError
from pipelines.nights.summary import NIGHT, NIGHT_TAG
from pipelines.sensors import dropped_files
from tests.pipelines.conducting import (
    conduct,
    going_on,
    jobs_run,
    look,
    night,
    outcome,
    start,
    started_again,
    tick,
)
from tests.pipelines.house import House
from tests.tiny_corpus import csv_rows


def test_a_night_is_asked_for_where_nothing_was_read_yet(house: House) -> None:
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    assert asked.tags["finstill/why"] == "the corpus was never read"


def test_three_nights_first_nothing_new_and_new_texts(lived_in_house: House) -> None:
    house = lived_in_house
    summary = house.metadata("night")["summary"]
    assert outcome(house) == "promoted"
    assert "120 texts reached it" in summary
    assert "`small` was made again (new)" in summary
    assert "it is the first champion" in summary
    (of_night,) = {run.tags.get(NIGHT_TAG) for run in house.instance.get_runs()}
    assert of_night is not None

    skipped = tick(house)
    assert isinstance(skipped, SkipReason)
    assert "nothing is new" in str(skipped.skip_message)
    over = look(house)
    assert isinstance(over, SkipReason)
    assert "is over: promoted" in str(over.skip_message)

    before = jobs_run(house)
    house.add("second.csv", range(40, 42))
    assert isinstance(tick(house), RunRequest)
    summary = night(house)
    assert "126 texts, +6." in summary
    assert "6 texts reached it" in summary
    assert "`small` was made again (corpus changed)" in summary
    assert house.metadata("night")["rows_reached_by_the_teacher"] == 6
    assert jobs_run(house) - before == {
        ("nightly_redistillation", None): 1,
        ("distil", "small"): 1,
        ("distil", "small-baseline"): 1,
        ("decide", None): 1,
    }


def test_only_what_changed_is_retrained(lived_in_house: House, tiny_checkpoint: Path, tmp_path: Path) -> None:
    house, checkpoint = lived_in_house, tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    house.recipes.write_text(house.recipes.read_text() + "another:\n  <<: *small\n  seed: 5\n")
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    summary = night(house)
    assert "0 texts reached it: all were in the cache" in summary
    assert "`another` was made again (new)" in summary
    assert "`small` is kept" in summary
    other = f"architecture: {{checkpoint: {checkpoint}, embedding_width: 8, hidden_width: 8, layers: 1}}"
    house.recipes.write_text(house.recipes.read_text().replace("seed: 5", other))
    summary = night(house)
    assert "`another` was made again (the recipe changed)" in summary
    assert "`small-baseline` is kept" in summary
    assert isinstance(tick(house), SkipReason)
    (checkpoint / "config.json").touch()
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    assert asked.tags["finstill/why"] == "another: the folder of the recipe's checkpoint changed"
    profile = house.root / "mine.yaml"
    decide = "{name: sentiment, decide: {negative: {recall_at_least: 0.9}}}"
    profile.write_text(profile.read_text().replace("task: sentiment", f"task: {decide}"))
    summary = night(house)
    assert (
        "`small` was made again (what the profile says of labels, decisions, entities or the teacher's classes changed)"
        in summary
    )


def test_a_student_that_fails_does_not_keep_the_others_from_it_and_is_tried_again_the_next_night(
    labelled_house: House,
) -> None:
    house = labelled_house
    folder = house.profile.workspace.student("small").parent
    folder.parent.mkdir(parents=True)
    # Where its folder should be is a file: the training cannot write.
    folder.write_text("")
    summary = conduct(house)
    assert outcome(house) == "failed"
    assert "`small` **failed** at student (new)" in summary
    assert "`small-baseline` was made again" in summary
    assert house.metadata("champion")["champion"] == "small-baseline"
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    assert "failed" in asked.tags["finstill/why"]
    folder.unlink()
    summary = night(house)
    assert "`small` was made again (new)" in summary
    assert "`small-baseline` is kept" in summary
    assert isinstance(tick(house), SkipReason)


def test_a_broken_corpus_ends_the_night_with_file_and_row_and_leaves_the_champion(lived_in_house: House) -> None:
    house = lived_in_house
    before = jobs_run(house)
    house.add("second.csv", range(40, 42), more="Shares were bullish,bullish\n")
    summary = night(house)
    assert outcome(house) == "failed"
    assert "**Labelling failed** at corpus: second.csv, row 7: the label 'bullish'" in summary
    assert jobs_run(house) - before == {("nightly_redistillation", None): 1}
    assert (house.profile.workspace.champion / "current" / "model.onnx").is_file()


def test_what_a_cell_of_the_corpus_holds_is_no_markdown_of_the_summary(house: House) -> None:
    house.add("second.csv", range(40, 42), more=f"Shares were bullish,<b>[bull](http://x)`{'h' * 100_000}\n")
    summary = night(house)
    assert "**Labelling failed** at corpus: second.csv, row 7: the label '‹b›⁅bull⁆(http://x)ʼhh" in summary
    assert len(summary) < 2_000


def test_a_daemon_that_is_killed_anywhere_asks_for_nothing_twice(labelled_house: House) -> None:
    """Each evaluation happens twice, and the runs of the first are started late or not at all before the second."""
    house = labelled_house
    look(house)
    asked = look(house)
    assert isinstance(asked, SensorResult)
    first, second = asked.run_requests or []
    start(house, first)
    # Killed here: the second was never started. It is asked for again, the first is not.
    again = look(house)
    assert isinstance(again, SensorResult)
    assert [request.run_key for request in again.run_requests or []] == [second.run_key]
    start(house, second)
    start(house, second)
    for _ in range(2):
        decide = look(house)
        assert isinstance(decide, SensorResult)
    (request,) = decide.run_requests or []
    start(house, request)
    start(house, request)
    conduct(house)
    assert jobs_run(house) == {
        ("nightly_redistillation", None): 1,
        ("distil", "small"): 1,
        ("distil", "small-baseline"): 1,
        ("decide", None): 1,
    }
    told = house.instance.fetch_materializations(NIGHT.key, limit=10).records
    assert len(told) == 1


def test_the_comparison_waits_for_a_student_that_somebody_else_trains(labelled_house: House) -> None:
    house = labelled_house
    house.instance.add_dynamic_partitions("students", ["small"])
    by_hand = going_on(house, "distil", "small")
    asked = look(house)
    assert isinstance(asked, SensorResult)
    (request,) = asked.run_requests or []
    assert request.partition_key == "small-baseline"
    start(house, request)
    waits = look(house)
    assert isinstance(waits, SkipReason)
    assert "waits for students: small" in str(waits.skip_message)

    run = house.instance.get_run_by_id(by_hand)
    assert run is not None
    house.instance.report_run_failed(run)
    house.instance.add_run_tags(by_hand, {WILL_RETRY_TAG: "true"})
    assert isinstance(look(house), SkipReason), "Dagster is about to start it again"
    house.instance.add_run_tags(by_hand, {AUTO_RETRY_RUN_ID_TAG: "another"})
    asked = look(house)
    assert isinstance(asked, SensorResult)
    assert [request.partition_key for request in asked.run_requests or []] == ["small"], (
        "it is stale, and of this night"
    )


def test_a_retry_that_ended_with_its_backfill_is_not_waited_for(labelled_house: House) -> None:
    house = labelled_house
    backfill = PartitionBackfill("backfill", BulkActionStatus.REQUESTED, False, {}, backfill_timestamp=time.time())
    house.instance.add_backfill(backfill)
    failed = going_on(house, "distil", "small", **{BACKFILL_ID_TAG: "backfill"})
    run = house.instance.get_run_by_id(failed)
    assert run is not None
    house.instance.report_run_failed(run)
    house.instance.add_run_tags(failed, {WILL_RETRY_TAG: "true"})

    def asked_for() -> list[str | None]:
        asked = look(house)
        assert isinstance(asked, SensorResult)
        return [request.partition_key for request in asked.run_requests or []]

    assert asked_for() == ["small-baseline"]
    house.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_FAILED))
    assert asked_for() == ["small", "small-baseline"]


def test_a_cancelled_student_keeps_nobody_waiting(labelled_house: House) -> None:
    house = labelled_house
    asked = look(house)
    assert isinstance(asked, SensorResult)
    first, second = asked.run_requests or []
    cancelled = going_on(house, "distil", first.partition_key, **first.tags, **{RUN_KEY_TAG: str(first.run_key)})
    start(house, second)
    assert isinstance(look(house), SkipReason)
    run = house.instance.get_run_by_id(cancelled)
    assert run is not None
    house.instance.report_run_canceled(run)
    summary = conduct(house)
    assert f"`{first.partition_key}` **cancelled**" in summary
    assert f"`{second.partition_key}` was made again" in summary


def test_a_run_that_dagster_starts_again_for_what_is_left_keeps_what_the_first_one_made(labelled_house: House) -> None:
    house = labelled_house
    asked = look(house)
    assert isinstance(asked, SensorResult)
    for request in asked.run_requests or []:
        start(house, request)
    started_again(house, "distil", "small")
    asked = look(house)
    assert isinstance(asked, SensorResult)
    (request,) = asked.run_requests or []
    start(house, request)
    started_again(house, "decide")
    summary = conduct(house)
    assert "`small` was made again (new): macro-F1" in summary
    assert "it is the first champion" in summary
    assert outcome(house) == "promoted"


def test_a_night_begins_where_it_cannot_be_told_what_changed(lived_in_house: House) -> None:
    profile = lived_in_house.root / "mine.yaml"
    profile.write_text(profile.read_text().replace("max_length:", "max_lenth:"))
    asked = tick(lived_in_house)
    assert isinstance(asked, RunRequest)
    assert "what changed cannot be told" in asked.tags["finstill/why"]
    assert "did you mean 'max_length'" in asked.tags["finstill/why"]
    profile.write_text(f"? {'x' * 3000}\n: 1\n{profile.read_text()}")
    asked = tick(lived_in_house)
    assert isinstance(asked, RunRequest)
    assert len(asked.tags["finstill/why"].encode()) < 2704, "PostgreSQL's index of tags takes no more"


def test_a_night_begins_and_ends_where_the_recipes_are_gone(lived_in_house: House) -> None:
    house = lived_in_house
    house.recipes.rename(house.root / "moved.yaml")
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    assert "what changed cannot be told" in asked.tags["finstill/why"]
    assert "**Labelling failed** at corpus" in night(house)
    assert outcome(house) == "failed"


def test_a_night_of_which_nothing_ran_for_a_day_is_not_waited_for(
    labelled_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, now = labelled_house, time.time()
    assert isinstance(tick(house), SkipReason), "continue_night goes on with it"
    monkeypatch.setattr("pipelines.nights.conductor.time.time", lambda: now + 2 * 86_400)
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    assert "never ended: the sensor continue_night is off or fails" in asked.tags["finstill/why"]
    going_on(house, "distil", "small")
    assert isinstance(tick(house), SkipReason), "a training may take days"


def test_what_a_run_by_hand_read_is_new_to_the_night(lived_in_house: House) -> None:
    house = lived_in_house
    profile = house.root / "mine.yaml"
    profile.write_text(profile.read_text() + "budgets: {megabytes: 50}\n")
    label = pipelines.definitions.defs.resolve_job_def("label")
    assert label.execute_in_process(instance=house.instance, asset_selection=[corpus.key]).success
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    assert "the teacher, the profile or the recipes changed" in asked.tags["finstill/why"]


def test_a_lost_home_is_made_again(lived_in_house: House) -> None:
    house = lived_in_house
    workspace = house.profile.workspace
    for lost, why in (
        (workspace.champion, "the champion's folder is gone"),
        (workspace.evaluation("small"), "small: its files are gone"),
        (workspace.corpus, "the corpus's table is gone"),
    ):
        kept = lost.rename(lost.with_name("kept"))
        asked = tick(house)
        assert isinstance(asked, RunRequest)
        assert asked.tags["finstill/why"] == why
        kept.rename(lost)
    assert isinstance(tick(house), SkipReason)
    shutil.rmtree(workspace.root)
    summary = night(house)
    assert outcome(house) == "promoted"
    assert "0 texts reached it" in summary
    assert "`small` was made again (its files are gone)" in summary
    assert isinstance(tick(house), SkipReason)


def test_a_changed_teacher_begins_a_night(house: House, tiny_checkpoint: Path) -> None:
    own = house.root / "teacher"
    shutil.copytree(tiny_checkpoint, own)
    house.write_profile(own)
    night(house)
    assert isinstance(tick(house), SkipReason)
    configuration = own / "config.json"
    configuration.write_text(configuration.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    asked = tick(house)
    assert isinstance(asked, RunRequest)
    summary = night(house)
    assert "120 texts reached it" in summary


class TestDroppedFiles:
    @pytest.fixture(autouse=True)
    def _drop(self, lived_in_house: House) -> None:
        self.house = lived_in_house
        self.drop = Path(self.house.profile.drop)
        self.drop.mkdir()
        self.cursor: str | None = None
        self.asked: dict[str, str] = {}
        self.run_key: str | None = None

    def look(self) -> list[str]:
        """Look once, and return the files that a night was asked to take."""
        result = dropped_files(
            build_sensor_context(instance=self.house.instance, cursor=self.cursor), profile=self.house.profile
        )
        self.cursor = result.cursor
        self.asked = {}
        for request in result.run_requests or []:
            self.asked, self.run_key = request.run_config["ops"]["corpus"]["config"]["dropped"], request.run_key
        return list(self.asked)

    def take(self) -> None:
        """Run what the last look asked for, as far as the corpus."""
        self.house.run("label", {"ops": {"corpus": {"config": {"dropped": self.asked}}}})

    def test_each_file_is_taken_once_and_none_that_is_still_being_written(self) -> None:
        (self.drop / "a.csv").write_text("body,tone\n")
        (self.drop / ".hidden.csv").write_text("body,tone\n")
        (self.drop / "a.csv.part").write_text("body,tone\n")
        assert self.look() == []
        with (self.drop / "a.csv").open("a") as file:
            file.write(csv_rows(range(50, 51)))
        assert self.look() == [], "it grew since the last look"
        (self.drop / "b.csv").write_text("body,tone\n" + csv_rows(range(55, 56)))
        assert self.look() == ["a.csv"]
        self.take()
        assert self.look() == ["b.csv"]
        self.take()
        assert self.look() == []
        (self.drop / "a.csv").write_text("body,tone\n" + csv_rows(range(60, 61)))
        assert self.look() == []
        assert self.look() == ["a.csv"], "other content under the same name is another file"

    def test_a_file_whose_night_could_not_copy_it_is_asked_for_again_at_once_and_then_seldom(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1e9
        monkeypatch.setattr("pipelines.sensors.time.time", lambda: now)
        (self.drop / "a.csv").write_text("body,tone\n" + csv_rows(range(50, 51)))
        self.look()
        assert self.look() == ["a.csv"]
        first = self.run_key
        assert self.look() == ["a.csv"], "its night ended, and no copy stands"
        assert self.run_key != first, "Dagster would start nothing"
        for pause in (3600, 4 * 3600, 24 * 3600, 24 * 3600):
            assert self.look() == []
            now += pause - 1
            assert self.look() == []
            now += 1
            assert self.look() == ["a.csv"]
        (self.drop / "b.csv").write_text("body,tone\n" + csv_rows(range(55, 56)))
        self.look()
        assert self.look() == ["b.csv"], "another file waits for nothing"

    def test_the_run_key_of_many_files_is_as_short_as_that_of_one(self) -> None:
        for number in range(300):
            (self.drop / f"{number}.csv").write_text("body,tone\n" + csv_rows(range(50, 51)))
        self.look()
        assert len(self.look()) == 300
        assert self.run_key is not None
        assert len(self.run_key) <= 64, "it becomes a tag, and PostgreSQL's index takes no long one"

    def test_a_file_with_a_bad_row_begins_one_night(self) -> None:
        (self.drop / "a.csv").write_text("body,tone\nShares were bullish,bullish\n")
        self.look()
        assert self.look() == ["a.csv"]
        summary = night(self.house, {"ops": {"corpus": {"config": {"dropped": self.asked}}}})
        assert "**Labelling failed** at corpus" in summary
        assert self.look() == []
        (copy,) = self.house.corpus.glob("a-*.csv")
        copy.write_text("body,tone\n" + csv_rows(range(50, 52)))
        assert "126 texts" in night(self.house), "what a person mended is read and not taken again"
        assert self.look() == []

    def test_a_corpus_that_is_no_folder_is_said_at_the_first_look(self) -> None:
        profile = self.house.root / "mine.yaml"
        profile.write_text(profile.read_text().replace("corpus: {path: texts,", "corpus: {path: texts/first.csv,"))
        with pytest.raises(InputError, match="join a corpus that is a folder"):
            self.look()

    def test_what_is_taken_joins_the_corpus_of_the_same_night_once(self) -> None:
        (self.drop / "a.csv").write_text("body,tone\n" + csv_rows(range(50, 52)))
        config = {"ops": {"corpus": {"config": {"dropped": {"a.csv": ""}}}}}
        assert "126 texts" in night(self.house, config)
        assert isinstance(tick(self.house), SkipReason), "the schedule finds nothing new after it"
        night(self.house, config)
        assert len(list(self.house.corpus.iterdir())) == 2

    def test_a_label_that_is_corrected_in_the_review_wins_from_the_next_night_on(self) -> None:
        house = self.house
        house.add("second.csv", range(0), "Profit rose 70 percent on strong orders,negative\n")
        night(house)
        review = house.profile.workspace.label_review
        with review.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        (wrong,) = [row for row in rows if row["text"] == "Profit rose 70 percent on strong orders"]
        assert (wrong["given_label"], wrong["suggested_label"]) == ("negative", "positive")
        assert wrong["teacher_sample"] == "out of sample", "it was published"
        assert house.metadata("label_review")["labels_in_doubt"] == len(rows)

        (self.drop / review.name).write_text(f"key,label\n{wrong['key']},positive\n")
        self.look()
        assert self.look() == [review.name]
        night(house, {"ops": {"corpus": {"config": {"dropped": self.asked}}}})
        corrected = house.metadata("corpus")
        assert (corrected["labels_corrected"], corrected["labels_confirmed"]) == (1, 0)
        assert [dict(record.data)["to"] for record in corrected["corrections"].records] == ["positive"]
        assert house.metadata("label_review")["labels_decided"] == 1
        assert wrong["key"] not in review.read_text(encoding="utf-8-sig")
        assert isinstance(tick(house), SkipReason), "the correction was taken, and nothing is new"
        (copy,) = house.profile.profile().corrections.iterdir()
        copy.write_text(f"key,label\n{wrong['key']},neutral\n")
        assert isinstance(tick(house), RunRequest), "a correction that changes is new"

    def test_a_night_that_is_going_on_is_waited_for(self) -> None:
        going_on(self.house, "nightly_redistillation")
        waits = dropped_files(build_sensor_context(instance=self.house.instance), profile=self.house.profile)
        assert isinstance(waits, SkipReason)
        assert "still going on" in str(waits.skip_message)
        assert "still going on" in str(tick(self.house).skip_message)  # type: ignore[union-attr]
        assert "waits for its texts" in str(look(self.house).skip_message)  # type: ignore[union-attr]
