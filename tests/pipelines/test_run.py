"""The command a user gives, with a small checkpoint of finBERT's layout in the hub's place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance
from joblib import cpu_count

ROOT = Path(__file__).parents[2]

# On quiet cores the longest takes two minutes; a machine with other work is given its time.
pytestmark = pytest.mark.timeout(900)

PROFILE = """\
task: risk
corpus: {path: headlines.csv, text: headline, label: verdict}
teacher:
  checkpoint: ProsusAI/finbert
  max_length: 64
  trained_on: [financial_phrasebank]
recipes: recipes.yaml
report_to: [tensorboard]
"""

RECIPES = """\
tiny: &tiny
  architecture: {embedding: teacher, embedding_width: 16, hidden_width: 16, layers: 1}
  alpha: 0.1
  epochs: 10
  batch_size: 8
  learning_rate: 0.02
tiny-baseline:
  <<: *tiny
  alpha: 0
"""


# Three, so that one of them has not begun on two cores; their epochs are not over before a test stops them.
LONG = """\
long: &long
  architecture: {embedding: teacher, embedding_width: 16, hidden_width: 16, layers: 1}
  epochs: 1000
  patience: 1000
  batch_size: 1
longer: {<<: *long, alpha: 0}
longest: {<<: *long, alpha: 1}
"""


def start(folder: Path) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FINSTILL_", "DAGSTER_"))}
    environment = {**kept, "FINSTILL_PROFILE": str(folder / "mine.yaml"), "FINSTILL_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "pipelines.run"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment, start_new_session=True
    )


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    process = start(folder)
    stdout, stderr = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextmanager
def recipes(folder: Path, text: str) -> Iterator[None]:
    original = (folder / "recipes.yaml").read_text()
    (folder / "recipes.yaml").write_text(text)
    try:
        yield
    finally:
        (folder / "recipes.yaml").write_text(original)


@contextmanager
def training(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a run of recipes that take long, and wait until two students train at once."""
    with recipes(folder, LONG):
        process = start(folder)
        try:
            deadline = time.monotonic() + 400
            while len({each.parent.parent for each in folder.glob("home/mine/students/*/training-*/checkpoint-*")}) < 2:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path]) -> Path:
    """A user's folder: a CSV file, a profile and recipes, and finBERT's layout where the hub's name would lead."""
    root = tmp_path_factory.mktemp("user")
    (root / "mine.yaml").write_text(PROFILE)
    (root / "recipes.yaml").write_text(RECIPES)
    rows = [
        f"Lender {i} misses a payment,risk\nLender {i} opens a branch,no_risk\nLender {i} meets,\n" for i in range(25)
    ]
    (root / "headlines.csv").write_text("headline,verdict\n" + "".join(rows))
    (root / "ProsusAI").mkdir()
    make_checkpoint().rename(root / "ProsusAI" / "finbert")
    return root


def test_a_corpus_of_ones_own_and_finbert_need_one_file(folder: Path) -> None:
    first = run(folder)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Texts that reached the teacher: 75 of 75" in first.stdout
    for row in ("teacher", "tiny", "tiny-baseline"):
        assert re.search(rf"│ {row} +│ +\d\.\d{{3}} │", first.stdout), first.stdout
    assert re.search(r"tiny-baseline: [+-]\d+\.\d points of macro-F1", first.stdout)
    report = re.search(r"^Report: (.*)$", first.stdout, re.MULTILINE)
    assert report
    assert "financial_phrasebank" in Path(report[1]).read_text()
    assert "http://127.0.0.1:3000/runs/" in first.stdout
    assert first.stderr == ""
    assert list((folder / "home" / "mine" / "students" / "tiny" / "tensorboard").glob("events.*"))
    with DagsterInstance.from_config(str(folder / "home" / "mine" / "dagster")) as instance:
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    assert limits == {"training": cpu_count(), "teacher": 1, "evaluation": 1}

    second = run(folder)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "all 75 texts are in the cache, none reaches the teacher" in second.stdout
    assert "Texts that reached the teacher: 0 of 75" in second.stdout


def test_what_is_wrong_is_said_in_one_line(folder: Path) -> None:
    original = (folder / "headlines.csv").read_text()
    (folder / "headlines.csv").write_text(original + "Lender 99 sings,maybe\n")
    try:
        stopped = run(folder)
    finally:
        (folder / "headlines.csv").write_text(original)
    assert stopped.returncode == 1
    assert "Stopped. label: corpus: headlines.csv, row 76: the label 'maybe'" in stopped.stdout
    assert "Traceback" not in stopped.stdout + stopped.stderr


def test_what_is_wrong_with_a_student_is_said_in_one_line(folder: Path) -> None:
    broken = "deep: {student: encoder, architecture: {checkpoint: teacher, layers: [0, 9]}}\n"
    with recipes(folder, broken):
        stopped = run(folder)
    assert stopped.returncode == 1
    assert "Stopped. distil deep: student: " in stopped.stdout
    assert "Traceback" not in stopped.stdout + stopped.stderr


@pytest.mark.skipif(cpu_count() < 2, reason="one core trains one student at a time")
def test_control_c_ends_the_trainings_and_says_how_to_go_on(folder: Path) -> None:
    with training(folder) as process:
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 130, stdout + stderr
    assert "Stopped. Run it again: it goes on from here." in stdout
    assert "Traceback" not in stdout
    assert "distil longest" not in stdout + stderr
    assert not (folder / "home" / "mine" / "students" / "longest").exists()


CALLER = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from pipelines.run import begin_process
if __name__ == "__main__":
    processes = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=begin_process)
    print(processes.submit(os.getpid).result(), flush=True)
    processes.submit(time.sleep, 300).result()
"""


def test_a_training_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "caller.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as caller:
        assert caller.stdout is not None
        training = psutil.Process(int(caller.stdout.readline()))
        assert training.is_running()
        caller.kill()
        training.wait(timeout=30)


def test_an_unknown_profile_lists_the_built_in_ones(tmp_path: Path) -> None:
    environment = {**os.environ, "FINSTILL_PROFILE": "nothing", "FINSTILL_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pipelines.run"]
    stopped = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert stopped.returncode == 1
    assert "'nothing' is neither a file nor a built-in profile" in stopped.stdout
    assert "embedded" in stopped.stdout
