"""Sensors: what makes runs, partitions and messages by itself."""

from __future__ import annotations

import json

from dagster import (
    DefaultSensorStatus,
    RunConfig,
    RunFailureSensorContext,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    run_failure_sensor,
    sensor,
)

from assets.resources import ProfileResource
from assets.students import students
from pipelines.deployment import drop, webhook
from pipelines.failures import describe_failure, post
from pipelines.nightly import Arrivals, nightly_redistillation, take_dropped_files
from pipelines.schedules import night_in_progress


@sensor(
    description="Makes each recipe of the profile's recipe file a partition, without a restart.",
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
)
def new_recipes(context: SensorEvaluationContext, profile: ProfileResource) -> SensorResult | SkipReason:
    """Ask for the partitions that are missing."""
    existing = set(context.instance.get_dynamic_partitions(str(students.name)))
    new = [name for name in profile.recipes() if name not in existing]
    if not new:
        return SkipReason(f"each recipe of {profile.profile().recipes} is a partition")
    return SensorResult(dynamic_partitions_requests=[students.build_add_request(new)])


@sensor(
    # By name: handed the job itself, Dagster 1.13 copies the sensor and warns of its own beta parameter.
    job_name=nightly_redistillation.name,
    description="Starts a night when files have arrived in FINSTILL_DROP: each file once, and none that is still being "
    "written.",
    minimum_interval_seconds=30,
)
def dropped_files(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Ask for a night with the files that have come to rest."""
    from finstill.corpus.arrivals import watch

    folder = drop()
    if folder is None:
        return SkipReason("FINSTILL_DROP names no folder or object-store URL to watch")
    if going_on := night_in_progress(context.instance):
        return SkipReason(f"the night {going_on[:8]} is still going on; what arrives meanwhile waits for its end")
    seen = json.loads(context.cursor) if context.cursor else {"waiting": {}, "taken": {}}
    watched = watch(folder, seen["waiting"], seen["taken"])
    cursor = json.dumps({"waiting": watched.waiting, "taken": {**watched.taken, **watched.ready}})
    if not watched.ready:
        waiting = f"{len(watched.waiting)} files may still be being written" if watched.waiting else "nothing arrived"
        return SensorResult(skip_reason=f"{waiting}; {len(watched.taken)} files were taken before", cursor=cursor)
    config = RunConfig(ops={take_dropped_files.name: Arrivals(files=list(watched.ready))})
    return SensorResult(
        run_requests=[RunRequest(run_key=json.dumps(watched.ready, sort_keys=True), run_config=config)], cursor=cursor
    )


@run_failure_sensor(
    description="Posts each failed run to FINSTILL_WEBHOOK as JSON: stage, partition, and the first line of the cause.",
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
)
def failure_webhook(context: RunFailureSensorContext, profile: ProfileResource) -> SkipReason | None:
    """Post one failure."""
    url = webhook()
    if url is None:
        return SkipReason("FINSTILL_WEBHOOK names no URL to post failures to")
    post(url, {"profile": profile.profile().name, **describe_failure(context)})
    return None
