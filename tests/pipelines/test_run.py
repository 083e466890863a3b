"""The command a user gives, with a small checkpoint of finBERT's layout in the hub's place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

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


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FINSTILL_", "DAGSTER_"))}
    environment = {**kept, "FINSTILL_PROFILE": str(folder / "mine.yaml"), "FINSTILL_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "pipelines.run"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280)


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


def test_an_unknown_profile_lists_the_built_in_ones(tmp_path: Path) -> None:
    environment = {**os.environ, "FINSTILL_PROFILE": "nothing", "FINSTILL_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pipelines.run"]
    stopped = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert stopped.returncode == 1
    assert "'nothing' is neither a file nor a built-in profile" in stopped.stdout
    assert "embedded" in stopped.stdout
