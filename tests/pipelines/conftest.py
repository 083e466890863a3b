"""What tests of the deployment share."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance

import pipelines.definitions
from tests.pipelines.house import House

ROOT = Path(__file__).parents[2]


@pytest.fixture
def house(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A house whose profile the code location is bound to while the test runs."""
    monkeypatch.setenv("FINSTILL_PROFILE", str(tmp_path / "mine.yaml"))
    monkeypatch.setenv("FINSTILL_HOME", str(tmp_path / "home"))
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "pipelines" / "dagster.yaml", home)
    with DagsterInstance.from_config(str(home)) as instance:
        made = House(tmp_path, tiny_checkpoint, instance)
        # The code location is bound to its profile when it is loaded.
        importlib.reload(pipelines.definitions)
        yield made
