"""A run that is cancelled as the UI does it, with the processes that the UI would have."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from finstill.files import TEMPORARY_PREFIX
from tests.pipelines.house import Folder

ROOT = Path(__file__).parents[2]

# On quiet cores each takes half a minute; a machine with other work is given its time.
pytestmark = pytest.mark.timeout(600)

# Enough epochs that the training is not over before it is cancelled.
LONG = "long:\n  <<: *small\n  epochs: 400\n  patience: 400\n"

LAUNCH = """mutation ($job: String!, $tags: [ExecutionTag!]) { launchRun(executionParams: {
  selector: {repositoryLocationName: "pipelines.definitions", repositoryName: "__repository__", jobName: $job},
  runConfigData: {}, executionMetadata: {tags: $tags}})
  { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
LOGS = """query ($run: ID!) { logsForRun(runId: $run, limit: 1000) {
  ... on EventConnection { events { ... on MessageEvent { message } } } } }"""
ADD = """mutation ($key: String!) { addDynamicPartition(partitionsDefName: "students", partitionKey: $key,
  repositorySelector: {repositoryLocationName: "pipelines.definitions", repositoryName: "__repository__"})
  { __typename } }"""


class Webserver:
    """A webserver with the code server that it starts, on SQLite."""

    def __init__(self, folder: Folder):
        home = folder.root / "dagster"
        home.mkdir()
        # Runs start at once: there is no daemon here to take them from a queue.
        (home / "dagster.yaml").write_text(
            "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
            "python_logs: {managed_python_loggers: [finstill], python_log_level: INFO}\ntelemetry: {enabled: false}\n"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
        environment |= {
            "DAGSTER_HOME": str(home),
            "FINSTILL_PROFILE": str(folder.root / "mine.yaml"),
            "FINSTILL_HOME": str(folder.root / "home"),
        }
        program = Path(sys.executable).parent / "dagster-webserver"
        command = [program, "-m", "pipelines.definitions", "-p", str(port), "-h", "127.0.0.1"]
        self.log = (folder.root / "webserver.log").open("wb")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.wait("the webserver", lambda: bool(self.ask("query { version }")), 120)

    def ask(self, query: str, **variables: object) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["data"]

    def launch(self, job: str, partition: str | None = None) -> str:
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        return self.ask(LAUNCH, job=job, tags=tags)["launchRun"]["run"]["runId"]

    def status(self, run: str) -> str:
        return self.ask(STATUS, run=run)["runOrError"]["status"]

    def said(self, run: str) -> str:
        events = self.ask(LOGS, run=run)["logsForRun"]["events"]
        return "\n".join(event.get("message") or "" for event in events)

    def wait(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if holds():
                    return
            except OSError:
                pass
            time.sleep(0.1)
        pytest.fail(f"{what}: not within {seconds:.0f} s\n{Path(self.log.name).read_text()[-3000:]}")

    def steps(self) -> list[psutil.Process]:
        """Return the processes of runs and their steps, of this webserver alone."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in children if re.search("spawn_main|forkserver", " ".join(each.cmdline()))]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def webserver(tmp_path: Path, tiny_checkpoint: Path, furnished_home: Path) -> Iterator[Webserver]:
    folder = Folder(tmp_path, tiny_checkpoint)
    shutil.copytree(furnished_home, tmp_path / "home", symlinks=True)
    folder.recipes.write_text(folder.recipes.read_text() + LONG)
    made = Webserver(folder)
    yield made
    made.stop()


def test_cancelling_stops_the_work_in_seconds_and_the_next_run_goes_on(webserver: Webserver, tmp_path: Path) -> None:
    run = webserver.launch("label")
    webserver.wait("label", lambda: webserver.status(run) in ("SUCCESS", "FAILURE"), 240)
    assert webserver.status(run) == "SUCCESS", webserver.said(run)
    webserver.ask(ADD, key="long")

    run = webserver.launch("distil", "long")
    webserver.wait("a few epochs", lambda: "epoch 5 of 400" in webserver.said(run), 120)
    before = set(webserver.steps())
    assert before
    webserver.ask(TERMINATE, run=run)
    webserver.wait("the run's end", lambda: webserver.status(run) == "CANCELED", 20)
    webserver.wait("no process of it", lambda: not any(alive(each) for each in before), 20)

    artefacts = tmp_path / "home" / "mine"
    assert list(artefacts.rglob(f"{TEMPORARY_PREFIX}*")) == []
    assert not (artefacts / "students" / "long" / "checkpoint").exists()
    # Shorter, the recipe would be another; the same one goes on where it was.
    again = webserver.launch("distil", "long")
    webserver.wait("going on", lambda: "student long: goes on from checkpoint-" in webserver.said(again), 120)
    webserver.ask(TERMINATE, run=again)
    webserver.wait("the second run's end", lambda: webserver.status(again) == "CANCELED", 20)
