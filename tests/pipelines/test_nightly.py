"""A night on a real Dagster instance: what it takes, retrains, decides and says."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from dagster import DagsterRunStatus, RunRequest, RunsFilter, SkipReason, build_schedule_context, build_sensor_context

from pipelines.nightly import nightly_redistillation
from pipelines.schedules import nightly
from pipelines.sensors import dropped_files
from pipelines.summary import NIGHT
from tests.pipelines.house import House
from tests.tiny_corpus import csv_rows


def tick(house: House) -> RunRequest | SkipReason:
    context = build_schedule_context(instance=house.instance, scheduled_execution_time=datetime(2026, 1, 1))
    return nightly(context, profile=house.profile)  # type: ignore[return-value]


def night(house: House, config: dict | None = None) -> tuple[bool, str]:
    """Run one night and return whether it succeeded, and its summary."""
    result = house.run(nightly_redistillation.name, config)
    for event in result.all_events:
        if event.is_step_failure:
            print(event.step_key, event.step_failure_data.user_failure_data or event.step_failure_data.error)
    return result.success, house.metadata("night")["summary"] if house.instance.has_asset_key(NIGHT.key) else ""


def test_three_nights_first_nothing_new_and_new_texts(house: House) -> None:
    assert isinstance(tick(house), RunRequest)
    ok, summary = night(house)
    assert ok
    assert "120 texts reached it" in summary
    assert "`small` was made again (new)" in summary
    assert "it is the first champion" in summary

    skipped = tick(house)
    assert isinstance(skipped, SkipReason)
    assert "nothing is new" in str(skipped.skip_message)

    house.add("second.csv", range(40, 42))
    assert isinstance(tick(house), RunRequest)
    ok, summary = night(house)
    assert ok
    assert "126 texts, +6." in summary
    assert "6 texts reached it" in summary
    assert "`small` was made again (corpus changed)" in summary
    (run,) = house.instance.get_runs(RunsFilter(job_name=nightly_redistillation.name), limit=1)
    assert run.tags["finstill/outcome"] in ("kept", "promoted")
    assert house.metadata("night")["rows_reached_by_the_teacher"] == 6


def test_only_what_changed_is_retrained(house: House) -> None:
    night(house)
    house.recipes.write_text(house.recipes.read_text() + "another:\n  <<: *small\n  seed: 5\n")
    ok, summary = night(house)
    assert ok
    assert "0 texts reached it: all were in the cache" in summary
    assert "`another` was made again (new)" in summary
    assert "`small` is kept" in summary
    house.recipes.write_text(house.recipes.read_text().replace("seed: 5", "seed: 6"))
    _, summary = night(house)
    assert "`another` was made again (the recipe changed)" in summary
    assert "`small-direct` is kept" in summary
    _, summary = night(house, {"ops": {"redistil_students": {"config": {"students": ["small"]}}}})
    assert "`small` was made again (asked for)" in summary
    assert "`another` is kept" in summary


def test_a_student_that_fails_does_not_keep_the_others_from_it_and_the_night_is_red(house: House) -> None:
    house.recipes.write_text(
        house.recipes.read_text() + "broken:\n  shape: {hidden_width: 8, layers: 1}\n  learning_rate: 0.9\n"
    )
    folder = house.profile.workspace.student("broken").parent
    folder.parent.mkdir(parents=True)
    # Where its folder should be is a file: the training cannot write.
    folder.write_text("")
    ok, summary = night(house)
    assert not ok
    assert "`broken` **failed** at student (new)" in summary
    assert "`small` was made again" in summary
    assert house.metadata("champion")["promoted"] is True
    assert isinstance(tick(house), RunRequest), "a night that failed is tried again"


def test_a_broken_corpus_stops_the_night_with_file_and_row_and_leaves_the_champion(house: House) -> None:
    night(house)
    house.add("second.csv", range(40, 42), more="Shares were bullish,bullish\n")
    result = house.run(nightly_redistillation.name)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data
    assert "second.csv, row 7: the label 'bullish'" in said.description
    assert said.metadata["stage"].value == "corpus"
    assert (house.profile.workspace.champion / "current" / "model.onnx").is_file()


def test_runs_of_a_night_whose_process_was_killed_do_not_go_on_for_ever(house: House) -> None:
    import pipelines.definitions

    label = pipelines.definitions.defs.resolve_job_def("label")
    gone = house.instance.create_run_for_job(
        label, tags={"finstill/night": "11111111"}, status=DagsterRunStatus.STARTED
    )
    night(house)
    after = house.instance.get_run_by_id(gone.run_id)
    assert after is not None
    assert after.status == DagsterRunStatus.FAILURE


class TestDroppedFiles:
    @pytest.fixture(autouse=True)
    def _drop(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drop = house.root / "drop"
        self.drop.mkdir()
        monkeypatch.setenv("FINSTILL_DROP", str(self.drop))
        self.cursor: str | None = None
        self.house = house

    def look(self) -> list[str]:
        """Look once, and return the files that a night was asked to take."""
        result = dropped_files(build_sensor_context(instance=self.house.instance, cursor=self.cursor))
        self.cursor = result.cursor
        requests = result.run_requests or []
        return [name for each in requests for name in each.run_config["ops"]["take_dropped_files"]["config"]["files"]]

    def test_each_file_is_taken_once_and_none_that_is_still_being_written(self) -> None:
        (self.drop / "a.csv").write_text("body,tone\n")
        (self.drop / ".hidden.csv").write_text("body,tone\n")
        (self.drop / "a.csv.part").write_text("body,tone\n")
        assert self.look() == []
        with (self.drop / "a.csv").open("a") as file:
            file.write(csv_rows(range(50, 51)))
        assert self.look() == [], "it grew since the last look"
        (self.drop / "b.csv").write_text("body,tone\n")
        assert self.look() == ["a.csv"]
        assert self.look() == ["b.csv"]
        assert self.look() == []
        (self.drop / "a.csv").write_text("body,tone\n" + csv_rows(range(60, 61)))
        assert self.look() == []
        assert self.look() == ["a.csv"], "other content under the same name is another file"
        (self.drop / "a.csv").unlink()
        self.look()
        assert json.loads(str(self.cursor))["taken"].keys() == {"b.csv"}

    def test_what_is_taken_joins_the_corpus_of_the_same_night_once(self) -> None:
        (self.drop / "a.csv").write_text("body,tone\n" + csv_rows(range(50, 52)))
        config = {"ops": {"take_dropped_files": {"config": {"files": ["a.csv"]}}}}
        result = self.house.run("nightly_redistillation", config)
        assert result.success
        assert self.house.metadata("corpus")["dagster/row_count"] == 126
        self.house.run("nightly_redistillation", config)
        assert len(list(self.house.corpus.iterdir())) == 2

    def test_a_night_that_is_going_on_is_waited_for(self) -> None:
        import pipelines.definitions

        job = pipelines.definitions.defs.resolve_job_def("nightly_redistillation")
        self.house.instance.create_run_for_job(job, status=DagsterRunStatus.STARTED)
        waits = dropped_files(build_sensor_context(instance=self.house.instance))
        assert isinstance(waits, SkipReason)
        assert "still going on" in str(waits.skip_message)
        assert "still going on" in str(tick(self.house).skip_message)  # type: ignore[union-attr]

    def test_the_schedule_skips_after_a_night_that_took_files(self) -> None:
        (self.drop / "a.csv").write_text("body,tone\n" + csv_rows(range(50, 52)))
        self.house.run("nightly_redistillation", {"ops": {"take_dropped_files": {"config": {"files": ["a.csv"]}}}})
        assert isinstance(tick(self.house), SkipReason)
