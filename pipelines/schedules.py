"""Schedules: what runs by the clock, in the deployment's time zone."""

from __future__ import annotations

from dagster import DagsterInstance, DagsterRunStatus, RunRequest, RunsFilter, ScheduleEvaluationContext, SkipReason
from dagster import schedule as schedule_by_cron

from assets.resources import ProfileResource
from pipelines.deployment import nightly_cron, time_zone
from pipelines.nightly import INPUTS_TAG, inputs_state, nightly_redistillation

IN_PROGRESS = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


@schedule_by_cron(
    cron_schedule=nightly_cron(),
    execution_timezone=time_zone(),
    job=nightly_redistillation,
    description="Runs nightly_redistillation where the corpus's source, the profile or the recipes changed since the "
    "last night that succeeded.",
)
def nightly(context: ScheduleEvaluationContext, profile: ProfileResource) -> RunRequest | SkipReason:
    """Ask for a night, or say why there is none."""
    if going_on := night_in_progress(context.instance):
        return SkipReason(f"the night {going_on[:8]} is still going on")
    last = context.instance.get_runs(
        RunsFilter(job_name=nightly_redistillation.name, statuses=[DagsterRunStatus.SUCCESS]), limit=1
    )
    if last and last[0].tags.get(INPUTS_TAG) == inputs_state(profile):
        return SkipReason(
            f"nothing is new: the corpus's source, the profile and the recipes are as the night "
            f"{last[0].run_id[:8]} found them"
        )
    return RunRequest()


def night_in_progress(instance: DagsterInstance) -> str | None:
    """Return the id of a night that is waiting or going on."""
    runs = instance.get_runs(RunsFilter(job_name=nightly_redistillation.name, statuses=IN_PROGRESS), limit=1)
    return runs[0].run_id if runs else None
