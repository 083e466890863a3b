"""The service as it is deployed: PostgreSQL, code server, webserver and daemon, each a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psycopg2

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
POSTGRES = Path("/usr/lib/postgresql/15/bin")
PASSWORD = "not-a-secret"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait_for(what: str, holds: Callable[[], bool], seconds: float) -> None:
    """Wait until `holds` returns true.

    Raises:
        TimeoutError: it did not in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if holds():
                return
        except (OSError, psycopg2.OperationalError):
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


class Processes:
    """Processes started here, and ended here: each with the group of its children."""

    def __init__(self, logs: Path):
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, command: Sequence[str | Path], **options: object) -> subprocess.Popen[bytes]:
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,  # type: ignore[call-overload]
            )
        self._running.append(process)
        return process

    def stop(self) -> None:
        while self._running:
            process = self._running.pop()
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Postgres:
    """A PostgreSQL server on a free port, its data in a folder of its own."""

    def __init__(self, processes: Processes):
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="finstill-postgres-"))
        # PostgreSQL refuses to run as root.
        options = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if options:
            for path in (self.folder, password):
                shutil.chown(path, **options)
        data = self.folder / "data"
        subprocess.run(
            [POSTGRES / "initdb", "-D", data, "-U", "dagster", "-A", "scram-sha-256", "--pwfile", password, "-N"],
            check=True,
            capture_output=True,
            cwd="/",
            **options,  # type: ignore[call-overload]
        )
        server = [POSTGRES / "postgres", "-D", data, "-p", str(self.port), "-k", self.folder, "-c", "fsync=off"]
        processes.start("postgres", server, cwd="/", **options)
        wait_for("PostgreSQL", lambda: not self._query("SELECT 1"), 120)
        self.create_database("dagster")

    def create_database(self, name: str) -> str:
        """Return the new database's URL."""
        self._query(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg2://dagster:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def _query(self, statement: str) -> None:
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="dagster", password=PASSWORD, dbname="postgres"
        )
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self.port),
            "DAGSTER_PG_USER": "dagster",
            "DAGSTER_PG_PASSWORD": PASSWORD,
            "DAGSTER_PG_DATABASE": "dagster",
        }


class Service:
    """Code server, webserver and daemon on `deploy/dagster.yaml`.

    Attributes:
        url: of the webserver.
        environment: of the three processes; a `DagsterInstance` in a test needs it too.
    """

    def __init__(self, processes: Processes, postgres: Postgres, home: Path, environment: Mapping[str, str]):
        home.mkdir()
        shutil.copy(ROOT / "deploy" / "dagster.yaml", home)
        code, web = free_port(), free_port()
        self.url = f"http://127.0.0.1:{web}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FINSTILL_", "DAGSTER_"))},
            **postgres.environment,
            "DAGSTER_HOME": str(home),
            "DAGSTER_COMPUTE_LOGS": str(home / "compute_logs"),
            "FINSTILL_CODE_HOST": "127.0.0.1",
            "FINSTILL_CODE_PORT": str(code),
            **environment,
        }
        self._processes, self._workspace = processes, ROOT / "deploy" / "workspace.yaml"
        options = {"cwd": ROOT, "env": self.environment}
        serve = ["-m", "pipelines.code_server", "--host", "127.0.0.1", "--port", str(code)]
        processes.start("code", [BIN / "python", *serve], **options)
        wait_for("the code server", lambda: _answers(code), 300)
        command = [BIN / "dagster-webserver", "--workspace", self._workspace, "--host", "127.0.0.1", "--port", str(web)]
        processes.start("webserver", command, **options)
        wait_for("the webserver", lambda: urllib.request.urlopen(f"{self.url}/server_info").status == 200, 300)

        # It is on by default where FINSTILL_NIGHTLY is set; here the tests say when a night begins.
        self.stop_schedule()
        self.start_daemon()

    def stop_schedule(self) -> None:
        stop = [BIN / "dagster", "schedule", "stop", "nightly", "--workspace", self._workspace]
        subprocess.run(stop, check=True, capture_output=True, cwd=ROOT, env=self.environment)

    def start_daemon(self) -> None:
        command = [BIN / "dagster-daemon", "run", "--workspace", self._workspace]
        self._daemon = self._processes.start("daemon", command, cwd=ROOT, env=self.environment)

    def kill_daemon(self) -> None:
        """End the daemon as a machine that fails does."""
        os.killpg(self._daemon.pid, signal.SIGKILL)
        self._daemon.wait()


def _answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1):
        return True
