"""Students on the machines of a Ray cluster: dagster-ray's launcher makes each run of `distil` a job of the cluster."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from assets.students import students
from pipelines.execution import create_run
from tests.pipelines.house import House

pytest.importorskip("dagster_ray", reason="Ray is an extra: pip install 'finstill[ray]'")
pytest.importorskip("ray.dashboard.optional_deps", reason="Ray's job server is an extra: pip install 'ray[default]'")

from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

# On quiet cores each takes half a minute; a machine with other work is given its time.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
THIRD = "third:\n  <<: *small\n  seed: 3\n"
# Enough epochs that the training is not over before it is cancelled.
LONG = "long:\n  <<: *small\n  epochs: 1000\n  patience: 1000\n"


def accepts_jobs(client: JobSubmissionClient) -> bool:
    try:
        client.submit_job(entrypoint="true")
    except RuntimeError:  # The server answers before the head's agent is up.
        return False
    return True


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobSubmissionClient]:
    """Three machines of one core each, and the server that takes jobs for them."""
    with pytest.MonkeyPatch.context() as environment:
        # As where `ray start` is called in the environment that Finstill is installed in.
        environment.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
        # Any free port: Ray's own are taken where another test has a cluster.
        head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": 0, "dashboard_agent_listen_port": 0}
        started = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                started.add_node(num_cpus=1)
            client = JobSubmissionClient(f"http://{started.head_node.webui_url}")
            while not accepts_jobs(client):
                time.sleep(0.5)
            yield client
        finally:
            started.shutdown()


@pytest.fixture
def launching(house: House, cluster: JobSubmissionClient) -> Iterator[DagsterInstance]:
    """The house's instance, set as docs/scale.md says."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    documented = page.partition("```yaml\n")[2].partition("```")[0]
    for place, here in {
        "http://head.example:8265": cluster.get_address(),
        "/profiles/news.yaml": str(house.root / "mine.yaml"),
        "/data": str(house.root / "home"),
    }.items():
        assert place in documented
        documented = documented.replace(place, here)
    settings = Path(house.instance.root_directory) / "dagster.yaml"
    settings.write_text(yaml.safe_dump(yaml.safe_load(settings.read_text()) | yaml.safe_load(documented)))
    with DagsterInstance.from_config(str(settings.parent)) as instance:
        yield instance


def launch(instance: DagsterInstance, student: str) -> str:
    """Start a run of `distil` as a daemon does, and return its id."""
    instance.add_dynamic_partitions(students.name, [student])
    run = create_run("distil", instance, {}, student).run_id
    instance.launch_run(run, None)  # type: ignore[arg-type]
    return run


def wait(instance: DagsterInstance, run: str, holds: Callable[[], bool]) -> None:
    """Wait until `holds` returns true, for as long as the run goes on and its job is well."""
    while not holds():
        record = instance.get_run_by_id(run)
        assert record is not None
        health = instance.run_launcher.check_run_worker_health(record)
        if record.is_finished or health.status not in (WorkerStatus.RUNNING, WorkerStatus.SUCCESS):
            if holds():
                return
            pytest.fail(f"{record.status}: {health}\n{instance.run_launcher.get_run_worker_debug_info(record)}")
        time.sleep(0.5)


def finish(instance: DagsterInstance, run: str) -> None:
    """Wait for the run's end, which must be a success."""
    wait(instance, run, lambda: status(instance, run) in FINISHED_STATUSES)
    assert status(instance, run) == DagsterRunStatus.SUCCESS, said(instance, run)


def status(instance: DagsterInstance, run: str) -> DagsterRunStatus:
    record = instance.get_run_by_id(run)
    assert record is not None
    return record.status


def said(instance: DagsterInstance, run: str) -> str:
    return "\n".join(entry.message for entry in instance.all_logs(run))


def data_versions(instance: DagsterInstance, names: list[str]) -> dict[tuple[str, str], str]:
    """Return of each student's weights and package the hash of their content."""
    versions = {}
    for asset in ("student", "student_package"):
        for name in names:
            event = instance.get_latest_data_version_record(AssetKey(asset), partition_key=name)
            assert event is not None
            assert event.asset_materialization is not None
            versions[asset, name] = event.asset_materialization.tags["dagster/data_version"]  # type: ignore[index]
    return versions


def test_three_machines_train_the_students_that_one_machine_trains(
    house: House, launching: DagsterInstance, cluster: JobSubmissionClient
) -> None:
    house.recipes.write_text(house.recipes.read_text() + THIRD)
    assert house.run("label").success
    names = ["small", "small-baseline", "third"]
    runs = [launch(launching, name) for name in names]
    for run in runs:
        finish(launching, run)
    assert len({cluster.get_job_info(f"dagster-run-{run}").driver_node_id for run in runs}) == 3
    records = [launching.get_run_record_by_id(run) for run in runs]
    assert max(record.start_time for record in records) < min(record.end_time for record in records)

    there = data_versions(launching, names)
    for name in names:
        shutil.rmtree(house.profile.workspace.of_student(name))
    for name in names:
        assert house.run("distil", partition=name).success
    assert data_versions(house.instance, names) == there


def test_a_student_that_is_cancelled_frees_its_machine(
    house: House, launching: DagsterInstance, cluster: JobSubmissionClient
) -> None:
    house.recipes.write_text(house.recipes.read_text() + LONG)
    assert house.run("label").success
    run = launch(launching, "long")
    folder = house.profile.workspace.of_student("long")
    wait(launching, run, lambda: any(folder.rglob("checkpoint-*")))
    assert launching.run_launcher.terminate(run)
    wait(launching, run, lambda: status(launching, run) == DagsterRunStatus.CANCELED)
    while not cluster.get_job_status(f"dagster-run-{run}").is_terminal():
        time.sleep(0.2)
    assert not [each for each in psutil.process_iter(["cmdline"]) if run in " ".join(each.info["cmdline"] or [])]
