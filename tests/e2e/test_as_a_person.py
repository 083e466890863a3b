"""What a person does in the UI of the deployed service, in order: each test goes on from the last."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.pipelines.house import Folder
from tests.tiny_corpus import csv_rows

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.e2e.deployment import Service

# On quiet cores the longest takes four minutes; a machine with other work, the other tests among it, is given its time.
pytestmark = pytest.mark.timeout(1500)
PATIENCE = 600
"""Seconds within which a run ends, or gets as far as a test wants it."""

Picture = Callable[[str], None]

FINISHED = ("SUCCESS", "FAILURE", "CANCELED")

RUNS = """query ($job: String) { runsOrError(filter: {pipelineName: $job}, limit: 50) { ... on Runs { results {
  runId jobName status tags { key value } } } } }"""
BACKFILLS = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { id status } } } }"
STUDENTS = '{ assetNodeOrError(assetKey: {path: ["student"]}) { ... on AssetNode { partitionKeys } } }'
LOGS = """query ($run: ID!) { logsForRun(runId: $run, limit: 1000) {
  ... on EventConnection { events { ... on MessageEvent { message } } } } }"""

LONG = "long:\n  <<: *small\n  epochs: 60\n  patience: 60\n"


class Watch:
    """Waiting for what the UI was asked for; the UI itself is looked at in the browser."""

    def __init__(self, url: str):
        self._url = url

    def ask(self, query: str, **variables: object) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self._url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["data"]

    def runs(self, job: str) -> dict[str, str]:
        """Return the status of each run of a job, the latest first."""
        return {each["runId"]: each["status"] for each in self.ask(RUNS, job=job)["runsOrError"]["results"]}

    def new_run(self, job: str, start: Callable[[], object]) -> str:
        """Start a run of a job, wait until it is there, and return its id."""
        before = self.runs(job).keys()
        start()
        return self.until(f"a run of {job}", lambda: next(iter(self.runs(job).keys() - before), None), PATIENCE)

    def finished(self, job: str, run: str, seconds: float = PATIENCE) -> str:
        """Wait for the end of a run, and return its status."""
        self.until(f"the end of {job}", lambda: self.runs(job).get(run) in FINISHED, seconds)
        return self.runs(job)[run]

    def said(self, run: str) -> str:
        events = self.ask(LOGS, run=run)["logsForRun"]["events"]
        return "\n".join(event.get("message") or "" for event in events)

    def until(self, what: str, holds: Callable[[], object], seconds: float):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := holds():
                return found
            time.sleep(0.5)
        pytest.fail(f"{what}: not within {seconds:.0f} s")


@pytest.fixture(scope="module")
def watch(service: Service) -> Watch:
    return Watch(service.url)


@pytest.fixture(autouse=True)
def _picture_of_a_failure(page: Page, picture: Picture, request: pytest.FixtureRequest) -> Iterator[None]:
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        picture(f"failed-{request.node.name}")


def launch(
    page: Page, watch: Watch, job: str, edit: Callable[[str], str] | None = None, partition: str | None = None
) -> str:
    """Open a job's launchpad, change its config, choose a partition, launch, and return the run's id."""
    from playwright.sync_api import TimeoutError, expect

    page.goto(f"/locations/finstill/jobs/{job}/playground")
    button = page.get_by_role("button", name="Launch Run")
    button.wait_for()
    if partition:
        # The page remembers the partition of the launch before, and lists those that match what stands there.
        # When it has read them it draws the field anew, and what was typed before is gone.
        for _ in range(5):
            page.get_by_placeholder("Partition").fill(partition)
            with suppress(TimeoutError):
                page.get_by_text(partition, exact=True).last.click(timeout=5_000)
                break
        page.get_by_text(f"partition: {partition}").wait_for()
    if edit:
        editor = page.locator(".CodeMirror").first
        editor.wait_for()
        editor.get_by_text("profile").first.wait_for()
        config = edit(editor.evaluate("element => element.CodeMirror.getValue()"))
        editor.evaluate("(element, config) => element.CodeMirror.setValue(config)", config)
    expect(button).to_be_enabled()
    return watch.new_run(job, button.click)


def test_the_asset_graph_shows_every_stage(page: Page, picture: Picture) -> None:
    groups = ["corpus", "teacher", "students", "evaluation"]
    page.goto("/asset-groups")
    for group in groups:
        page.get_by_text(group, exact=True).first.wait_for()
    page.goto(f"/asset-groups?expanded={','.join(f'global@global:{group}' for group in groups)}")
    page.get_by_role("button", name=re.compile("Materialize all")).wait_for()
    page.get_by_text("student_package").first.wait_for()
    picture("asset-graph")


def test_materialize_all_from_the_page_succeeds(page: Page, watch: Watch, picture: Picture) -> None:
    # The dialog offers the partitions that were there when it opened, and the daemon takes its time to make them.
    watch.until("the students", lambda: len(watch.ask(STUDENTS)["assetNodeOrError"]["partitionKeys"]) == 2, PATIENCE)
    page.goto("/asset-groups")
    page.get_by_role("button", name=re.compile("Materialize all")).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_text("2 partitions").first.wait_for()
    picture("materialize-all")
    dialog.get_by_role("button", name="Launch backfill").click()

    def status() -> str | None:
        backfills = watch.ask(BACKFILLS)["partitionBackfillsOrError"]["results"]
        return backfills[0]["status"] if backfills and backfills[0]["status"] != "REQUESTED" else None

    assert watch.until("the backfill", status, 2 * PATIENCE) == "COMPLETED_SUCCESS"
    page.goto("/runs")
    page.get_by_text("Success").first.wait_for()
    picture("materialized")
    page.goto("/assets/champion?view=overview")
    page.get_by_text("it is the first champion").first.wait_for()
    picture("champion")


def test_a_students_plots_are_drawn(page: Page, picture: Picture) -> None:
    plots = (
        ("student", "training", "Training of small"),
        ("evaluation", "confusion", "Confusion matrices"),
        ("evaluation", "Precision and recall", "Precision and recall"),
        ("evaluation", "deferral", "Asking"),
    )
    for asset, metadata, plot in plots:
        page.goto(f"/assets/{asset}?view=partitions&partition=small")
        row = page.get_by_role("row").filter(has_text=re.compile(f"^{metadata}"))
        row.get_by_text("[Show Markdown]").click()
        image = page.locator(f'img[alt="{plot}"]').first
        image.wait_for()
        assert image.evaluate("element => element.complete && element.naturalWidth") > 300
        picture(f"plot-{asset}-{metadata}")


def test_a_student_added_from_the_launchpad_trains_and_the_teacher_is_not_run_again(
    page: Page, watch: Watch, picture: Picture, house: Folder
) -> None:
    def recipe(config: str) -> str:
        config = re.sub(
            r"architecture: .*",
            "architecture: {embedding: random, embedding_width: 8, hidden_width: 8, layers: 1}",
            config,
        )
        config = re.sub(r"epochs: .*", "epochs: 2", config).replace("baseline: true", "baseline: false")
        return config.replace("    config:\n", "    config:\n      name: added\n", 1)

    run = launch(page, watch, "add_recipe", recipe)
    assert watch.finished("add_recipe", run) == "SUCCESS", watch.said(run)
    assert "added:" in house.recipes.read_text()

    run = launch(page, watch, "distil", partition="added")
    assert watch.finished("distil", run) == "SUCCESS", watch.said(run)
    page.goto(f"/runs/{run}")
    page.get_by_text("Success").first.wait_for()
    picture("student-added")
    assert "teacher_logits" not in watch.said(run)


def test_a_night_is_a_chain_of_runs_that_outlives_its_daemon_and_a_student_that_is_cancelled(
    page: Page, watch: Watch, picture: Picture, house: Folder, service: Service
) -> None:
    house.add("second.csv", range(40, 42))
    house.recipes.write_text(house.recipes.read_text() + LONG)
    page.goto("/locations/finstill/schedules/nightly")
    page.get_by_text("Europe/Zurich").wait_for()
    switch = page.get_by_role("switch").or_(page.locator("label:has(input[type=checkbox])")).first
    before = watch.ask(RUNS)["runsOrError"]["results"]
    night = watch.new_run("nightly_redistillation", switch.click)
    picture("schedule")
    service.stop_schedule()
    assert watch.finished("nightly_redistillation", night) == "SUCCESS", watch.said(night)

    def students() -> dict[str, str]:
        """Return the night's run of each student."""
        runs = watch.ask(RUNS, job="distil")["runsOrError"]["results"]
        tags = [({tag["key"]: tag["value"] for tag in each["tags"]}, each["runId"]) for each in runs]
        return {each["dagster/partition"]: run for each, run in tags if each.get("finstill/night") == night}

    long = watch.until("the students' runs", lambda: students() if len(students()) == 4 else None, PATIENCE)["long"]
    watch.until("an epoch", lambda: "student long: epoch 3 of" in watch.said(long), PATIENCE)
    service.kill_daemon()
    page.goto(f"/runs/{long}")
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name=re.compile("Terminate")).click()
    assert watch.finished("distil", long, 60) == "CANCELED"
    page.goto(f"/runs/{long}")
    page.get_by_text("Canceled").first.wait_for()
    picture("cancelled")
    service.start_daemon()

    def is_over() -> bool:
        runs = watch.ask(RUNS, job="nightly_redistillation")["runsOrError"]["results"]
        return any(each["runId"] == night and "finstill/outcome" in json.dumps(each["tags"]) for each in runs)

    watch.until("the night's end", is_over, PATIENCE)
    page.goto("/assets/night?view=overview")
    page.get_by_text("[Show Markdown]").first.click()
    summary = page.get_by_role("dialog")
    summary.get_by_text("6 texts reached it").wait_for()
    for words in ("126 texts, +6", "small was made again (corpus changed)", "long cancelled"):
        assert words in summary.inner_text()
    picture("night")
    runs = watch.ask(RUNS)["runsOrError"]["results"]
    ended = Counter((each["jobName"], each["status"]) for each in runs[: len(runs) - len(before)])
    assert ended == {
        ("nightly_redistillation", "SUCCESS"): 1,
        ("distil", "SUCCESS"): 3,
        ("distil", "CANCELED"): 1,
        ("decide", "SUCCESS"): 1,
    }
    page.goto("/overview/activity/timeline")
    for job in ("nightly_redistillation", "distil", "decide"):
        page.get_by_text(job, exact=True).first.wait_for()
    picture("timeline")

    page.goto(f"/runs/{long}")
    again = watch.new_run("distil", page.get_by_role("button", name=re.compile("Re-execute")).first.click)
    assert watch.finished("distil", again) == "SUCCESS", watch.said(again)
    assert "student long: goes on from checkpoint-" in watch.said(again)


def test_a_broken_corpus_stops_the_run_and_the_page_says_where(
    page: Page, watch: Watch, picture: Picture, house: Folder
) -> None:
    broken = house.corpus / "third.csv"
    broken.write_text("body,tone\nShares were bullish,bullish\n")
    run = launch(page, watch, "label")
    assert watch.finished("label", run) == "FAILURE"
    page.goto(f"/runs/{run}")
    page.get_by_text(re.compile(r"^\S+Failure: third\.csv, row 1: the label 'bullish'")).first.wait_for()
    picture("broken-corpus")
    broken.unlink()


def test_a_corpus_without_one_of_its_classes_is_stopped_by_a_check_that_says_so(
    page: Page, watch: Watch, picture: Picture, house: Folder
) -> None:
    away = house.root / "away"
    house.corpus.rename(away)
    house.corpus.mkdir()
    rows = csv_rows(range(40)).splitlines(keepends=True)
    (house.corpus / "part.csv").write_text("body,tone\n" + "".join(row for row in rows if "neutral" not in row))
    run = launch(page, watch, "label")
    assert watch.finished("label", run) == "FAILURE"
    page.goto("/assets/corpus?view=checks&checkDetail=corpus_is_sound")
    page.get_by_text("No text is labelled neutral").first.wait_for()
    picture("check-that-stops")

    shutil.rmtree(house.corpus)
    away.rename(house.corpus)
    mended = launch(page, watch, "label")
    assert watch.finished("label", mended) == "SUCCESS", watch.said(mended)
