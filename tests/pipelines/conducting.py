"""What a daemon does for a night, in this process: it evaluates the sensor and starts the runs that are asked for."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pytest
from dagster import (
    DagsterRunStatus,
    RunRequest,
    RunsFilter,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG, RUN_KEY_TAG

import pipelines.definitions
from pipelines.nights.summary import NIGHT
from pipelines.schedules import nightly
from pipelines.sensors import continue_night
from tests.pipelines.house import House


def tick(house: House) -> RunRequest | SkipReason:
    """Evaluate the schedule, and return what it asks for."""
    # The context opens an instance of its own. One that garbage collection were to close, during some later test, would
    # leave that test with the instance of this one.
    with build_schedule_context(
        instance=house.instance,
        resources={"profile": house.profile},
        scheduled_execution_time=datetime(2026, 1, 1),
        repository_def=pipelines.definitions.defs.get_repository_def(),
    ) as context:
        return nightly(context)  # type: ignore[return-value]


def look(house: House) -> SensorResult | SkipReason:
    """Evaluate the sensor, and do what the daemon does with its result but for starting runs."""
    context = build_sensor_context(
        instance=house.instance, repository_def=pipelines.definitions.defs.get_repository_def()
    )
    result = continue_night(context, profile=house.profile)
    if isinstance(result, SkipReason):
        return result
    assert isinstance(result, SensorResult)
    for event in result.asset_events:
        house.instance.report_runless_asset_event(event)
    for request in result.dynamic_partitions_requests or []:
        house.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    return result


def start(house: House, request: RunRequest) -> None:
    """Run what was asked for, where no run has the request's key."""
    assert request.job_name
    if not house.instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)})):
        house.run(request.job_name, None, request.partition_key, {**request.tags, RUN_KEY_TAG: str(request.run_key)})


def conduct(house: House) -> str:
    """Go on with the night to its end, and return its summary."""
    for _ in range(20):
        result = look(house)
        if isinstance(result, SkipReason):
            return house.metadata("night")["summary"]
        for request in result.run_requests or []:
            start(house, request)
    pytest.fail("the night does not end")


def night(house: House, config: dict | None = None) -> str:
    """Run one night and return its summary."""
    house.run("nightly_redistillation", config)
    return conduct(house)


def outcome(house: House) -> str:
    event = house.instance.get_latest_materialization_event(NIGHT.key)
    assert event is not None
    assert event.asset_materialization is not None
    return str(event.asset_materialization.description)


def jobs_run(house: House) -> Counter:
    return Counter((run.job_name, run.tags.get(PARTITION_NAME_TAG)) for run in house.instance.get_runs())


def going_on(house: House, job: str, partition: str | None = None, **tags: str) -> str:
    """Note a run of a job as started, and return its id."""
    return _noted(house, job, partition, tags, DagsterRunStatus.STARTED)


def started_again(house: House, job: str, partition: str | None = None) -> str:
    """Note a further run of a job in the latest night that had nothing left to make, and return its id."""
    tags = {PARTITION_NAME_TAG: partition} if partition else {}
    (first,) = house.instance.get_runs(RunsFilter(job_name=job, tags=tags))
    own = {name: value for name, value in first.tags.items() if name.startswith("finstill/")}
    return _noted(house, job, partition, own, DagsterRunStatus.SUCCESS)


def _noted(house: House, job: str, partition: str | None, tags: dict[str, str], status: DagsterRunStatus) -> str:
    definition = pipelines.definitions.defs.resolve_job_def(job)
    tags |= {PARTITION_NAME_TAG: partition} if partition else {}
    return house.instance.create_run_for_job(definition, status=status, tags=tags).run_id
