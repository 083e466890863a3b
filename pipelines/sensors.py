"""Sensors: what makes runs, partitions and messages by itself."""

from __future__ import annotations

import json
import time
from pathlib import Path

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
from dagster._utils.backoff import backoff, exponential_delay_generator

from assets.corpus import CorpusConfig, corpus
from assets.resources import ProfileResource
from assets.students import students
from finstill.errors import UnreachableError
from finstill.files import digest
from pipelines.deployment import webhook
from pipelines.failures import describe_failure, post
from pipelines.jobs import decide, distil, nightly_redistillation
from pipelines.nights.conductor import Night, next_step
from pipelines.recovery import end_noted_runs, give_free_slots

PAUSES = (0, 3600, 4 * 3600, 24 * 3600)
"""Seconds until a dropped file is asked for again that a night failed to take: at the next look, and then seldom, so
that a file that cannot be read begins no night after the other."""


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
    return next_step(context.instance, context.repository_def.asset_graph, profile)


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
    description="Ends the runs that a code server before this one left when it was killed, and gives a free slot of a "
    "pool to a step that waits for one, where Dagster lost it.",
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
)
def recovery(context: SensorEvaluationContext) -> SkipReason:
    """Look at the runs that were left and at each pool."""
    ended, given = end_noted_runs(context.instance), give_free_slots(context.instance)
    found = [f"ended, since its process is gone: {run_id}" for run_id in ended]
    found += [f"a step got a slot that was lost: {pool}" for pool in given]
    return SkipReason("; ".join(found) or "nothing was lost")


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
    if night is not None and night.is_going_on(context.instance):
        return SkipReason(f"{night} is still going on; what arrives meanwhile waits for its end")
    seen = json.loads(context.cursor) if context.cursor else {}
    settings = profile.profile()
    waiting = seen.get("waiting", {})
    watched = watch(profile.drop, waiting, settings.corpus, profile.workspace.taken, settings.corrections)
    # A file that was asked for and is not taken: the run of that night failed before it had copied it.
    asked = {key: tries for key, tries in seen.get("asked", {}).items() if key in map(_key, watched.ready.items())}
    now = time.time()
    due = {
        name: mark
        for name, mark in watched.ready.items()
        if (tries := asked.get(_key((name, mark)))) is None or now >= tries["again_at"]
    }
    for key in map(_key, due.items()):
        times = asked.get(key, {"times": 0})["times"] + 1
        asked[key] = {"times": times, "again_at": now + PAUSES[min(times, len(PAUSES)) - 1]}
    cursor = json.dumps({"waiting": {**watched.waiting, **watched.ready}, "asked": asked})
    if not due:
        rest = f"{len(watched.waiting)} files may still be being written" if watched.waiting else "nothing arrived"
        failed = f"; {len(watched.ready)} files are tried again later, since their nights failed" if asked else ""
        return SensorResult(skip_reason=f"{rest}{failed}; {len(watched.taken)} were taken before", cursor=cursor)
    config = RunConfig(ops={corpus.key.to_python_identifier(): CorpusConfig(dropped=due)})
    # As long for a thousand files as for one: it becomes a tag, and PostgreSQL's index of tags takes no more than 2,704
    # bytes.
    run_key = digest(*(f"{key} {asked[key]['times']}" for key in sorted(map(_key, due.items()))))
    return SensorResult(run_requests=[RunRequest(run_key=run_key, run_config=config)], cursor=cursor)


def _key(file: tuple[str, str]) -> str:
    """Return what a file is known by in the cursor: another size or time of change is another file."""
    return " ".join(file)


@run_failure_sensor(
    description="Posts each failed run to FINSTILL_WEBHOOK as JSON: stage, partition, and the first line of the cause.",
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
)
def failure_webhook(context: RunFailureSensorContext, profile: ProfileResource) -> SkipReason | None:
    """Post one failure, three times at most until it is taken."""
    url = webhook()
    if url is None:
        return SkipReason("FINSTILL_WEBHOOK names no URL to post failures to")
    # By its file: a profile that cannot be read is a reason of failures. And Dagster asks once for each failure.
    message = {"profile": Path(profile.path).stem, **describe_failure(context)}
    backoff(post, (UnreachableError,), [url, message], max_retries=2, delay_generator=exponential_delay_generator(1.0))
    return None
