"""Schedules: what runs by the clock, in the deployment's time zone."""

from __future__ import annotations

from dagster import DefaultScheduleStatus, RunRequest, ScheduleEvaluationContext, SkipReason
from dagster import schedule as schedule_by_cron

from assets.resources import ProfileResource
from finstill.errors import InputError
from pipelines.deployment import nightly_cron, time_zone
from pipelines.failures import without_secrets
from pipelines.jobs import nightly_redistillation
from pipelines.nights.conductor import Night, why_a_night
from pipelines.nights.summary import tag_why
from pipelines.operations.retention import retention


@schedule_by_cron(
    cron_schedule=nightly_cron() or "0 2 * * *",
    execution_timezone=time_zone(),
    job=nightly_redistillation,
    default_status=DefaultScheduleStatus.RUNNING if nightly_cron() else DefaultScheduleStatus.STOPPED,
    description="Begins a night where something that a student is made from has changed; otherwise its tick says that "
    "nothing is new. It is on by default where FINSTILL_NIGHTLY is set.",
)
def nightly(context: ScheduleEvaluationContext, profile: ProfileResource) -> RunRequest | SkipReason:
    """Begin a night, or say why there is none; where it cannot be told whether there is need for one, begin it."""
    night = Night.latest(context.instance)
    if night is not None and night.is_going_on(context.instance):
        return SkipReason(f"{night} is still going on")
    try:
        why = why_a_night(context.instance, context.repository_def.asset_graph, profile)
    except (InputError, OSError) as error:
        # Of a tick that fails nobody hears; of a run that does, the webhook tells.
        why = f"what changed cannot be told: {without_secrets(str(error))}"
    return RunRequest(tags=tag_why(why)) if why else SkipReason("nothing is new: no input of any student changed")


@schedule_by_cron(
    cron_schedule="0 5 * * 0",
    execution_timezone=time_zone(),
    job=retention,
    description="Runs retention on Sundays at five, with the ages that are its defaults.",
)
def weekly_retention() -> RunRequest:
    """Ask for the run."""
    return RunRequest()
