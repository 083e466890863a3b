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

from assets.corpus import CorpusConfig, corpus
from assets.resources import ProfileResource
from assets.students import students
from pipelines.deployment import webhook
from pipelines.failures import describe_failure, post
from pipelines.jobs import decide, distil, nightly_redistillation
from pipelines.nights.conductor import Night, next_step


@sensor(
    jobs=[distil, decide],
    description="Goes on with the night that was begun last: a run for each student whose inputs changed, then the "
    "comparison and the champion, then the summary. Its ticks say what it waits for.",
    minimum_interval_seconds=10,
    default_status=DefaultSensorStatus.RUNNING,
)
def continue_night(context: SensorEvaluationContext, profile: ProfileResource) -> SensorResult | SkipReason:
    """Ask for the next runs of a night, or tell that it is over."""
    assert context.repository_def is not None
    return next_step(context.instance, context.repository_def.asset_graph, profile.recipes())


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
    description="Begins a night when files have arrived in FINSTILL_DROP: each file once, and none that is still being "
    "written.",
    minimum_interval_seconds=30,
)
def dropped_files(context: SensorEvaluationContext, profile: ProfileResource) -> SensorResult | SkipReason:
    """Ask for a night with the files that have come to rest."""
    from finstill.corpus.arrivals import watch

    if not profile.drop:
        return SkipReason("FINSTILL_DROP names no folder or object-store URL to watch")
    night = Night.latest(context.instance)
    if night is not None and night.outcome(context.instance) is None:
        return SkipReason(f"{night} is still going on; what arrives meanwhile waits for its end")
    seen = json.loads(context.cursor) if context.cursor else {"waiting": {}, "taken": {}}
    watched = watch(profile.drop, seen["waiting"], seen["taken"])
    cursor = json.dumps({"waiting": watched.waiting, "taken": {**watched.taken, **watched.ready}})
    if not watched.ready:
        waiting = f"{len(watched.waiting)} files may still be being written" if watched.waiting else "nothing arrived"
        return SensorResult(skip_reason=f"{waiting}; {len(watched.taken)} files were taken before", cursor=cursor)
    config = RunConfig(ops={corpus.key.to_python_identifier(): CorpusConfig(dropped=list(watched.ready))})
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
