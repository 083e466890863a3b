"""The deployed service and a browser. Screenshots and the processes' logs are kept in `artifacts`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pipelines.house import Folder

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.e2e.deployment import Postgres, Processes, Service

ARTIFACTS = Path(__file__).parent / "artifacts"
CHROMIUM = Path("/usr/bin/chromium")
POSTGRES = Path("/usr/lib/postgresql/15/bin/postgres")


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    """Skip where the browser or the database is missing; fail where FINSTILL_E2E says that they must not be."""
    missing = [str(program) for program in (CHROMIUM, POSTGRES) if not program.exists()]
    if not missing:
        return
    say = f"{' and '.join(missing)} missing: apt-get install postgresql-15 chromium"
    if os.environ.get("FINSTILL_E2E") == "required":
        pytest.fail(say)
    pytest.skip(say)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Folder:
    """A house whose students decide whether a text is negative."""
    folder = Folder(tmp_path_factory.mktemp("house"), tiny_checkpoint)
    profile = folder.root / "mine.yaml"
    decides = "{name: sentiment, decide: {negative: {recall_at_least: 0.9}}}"
    profile.write_text(profile.read_text().replace("task: sentiment", f"task: {decides}"))
    return folder


@pytest.fixture(scope="session")
def processes(_installed: None) -> Iterator[Processes]:
    from tests.e2e.deployment import Processes

    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    ARTIFACTS.mkdir()
    processes = Processes(ARTIFACTS)
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def postgres(processes: Processes) -> Iterator[Postgres]:
    from tests.e2e.deployment import Postgres

    postgres = Postgres(processes)
    yield postgres
    processes.stop()
    shutil.rmtree(postgres.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def service(processes: Processes, postgres: Postgres, house: Folder) -> Service:
    from tests.e2e.deployment import Service

    environment = {
        "FINSTILL_PROFILE": str(house.root / "mine.yaml"),
        "FINSTILL_HOME": str(house.root / "home"),
        "FINSTILL_NIGHTLY": "* * * * *",
        "FINSTILL_TIMEZONE": "Europe/Zurich",
    }
    return Service(processes, postgres, house.root / "dagster", environment)


@pytest.fixture(scope="session")
def page(service: Service) -> Iterator[Page]:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(base_url=service.url, viewport={"width": 1440, "height": 900})
        # Milliseconds: the other tests run beside these, and a machine may be slow.
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        yield page
        browser.close()


@pytest.fixture
def picture(page: Page) -> Callable[[str], None]:
    """Return a function that keeps a screenshot under a name."""

    def take(name: str) -> None:
        # Dialogs and charts fade in.
        page.wait_for_timeout(800)
        page.screenshot(path=ARTIFACTS / f"{name}.png")

    return take
