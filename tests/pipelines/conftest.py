"""What tests of the deployment share."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dagster import DagsterInstance

import pipelines.definitions
from tests.pipelines.house import House

ROOT = Path(__file__).parents[2]


@contextmanager
def opened(root: Path, checkpoint: Path, furnished_home: Path) -> Iterator[House]:
    """Bind the code location to the house in a folder while the block runs; a new folder is furnished first."""
    home = root / "dagster"
    if not home.exists():
        home.mkdir(parents=True)
        shutil.copy(ROOT / "pipelines" / "dagster.yaml", home)
        shutil.copytree(furnished_home, root / "home", symlinks=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FINSTILL_PROFILE", str(root / "mine.yaml"))
        environment.setenv("FINSTILL_HOME", str(root / "home"))
        environment.setenv("FINSTILL_DROP", str(root / "drop"))
        with DagsterInstance.from_config(str(home)) as instance:
            made = House(root, checkpoint, instance)
            # The code location is bound to its profile when it is loaded.
            importlib.reload(pipelines.definitions)
            yield made


@pytest.fixture
def house(tmp_path: Path, tiny_checkpoint: Path, furnished_home: Path) -> Iterator[House]:
    """A house in which nothing has run yet."""
    with opened(tmp_path, tiny_checkpoint, furnished_home) as made:
        yield made


@pytest.fixture(scope="session")
def _moments(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, furnished_home: Path) -> Path:
    """A folder with copies of one house at two moments: `labelled`, and `night` after its first night."""
    from tests.pipelines.conducting import conduct

    folder = tmp_path_factory.mktemp("house")
    with opened(folder / "here", tiny_checkpoint, furnished_home) as house:
        assert house.run("nightly_redistillation").success
        shutil.copytree(folder / "here", folder / "labelled", symlinks=True)
        conduct(house)
    shutil.copytree(folder / "here", folder / "night", symlinks=True)
    return folder


def _at(moment: str, moments: Path, checkpoint: Path, furnished_home: Path) -> Iterator[House]:
    # Always at one path: what was recorded names it.
    shutil.rmtree(moments / "here")
    shutil.copytree(moments / moment, moments / "here", symlinks=True)
    with opened(moments / "here", checkpoint, furnished_home) as house:
        yield house


@pytest.fixture
def labelled_house(_moments: Path, tiny_checkpoint: Path, furnished_home: Path) -> Iterator[House]:
    """A house in which the first run of a night has labelled the texts."""
    yield from _at("labelled", _moments, tiny_checkpoint, furnished_home)


@pytest.fixture
def lived_in_house(_moments: Path, tiny_checkpoint: Path, furnished_home: Path) -> Iterator[House]:
    """A house after its first night."""
    yield from _at("night", _moments, tiny_checkpoint, furnished_home)
