"""A night as a chain of ordinary runs, and which of them comes next.

A run of the job `nightly_redistillation` begins a night: it labels what is new. When it has ended, each student whose
inputs changed gets a run of `distil`, and when those have ended a run of `decide` compares the students and promotes
one where it is shown to be better. Last, the asset `night` tells what all of them did.

What comes next is read from the runs alone, which carry the tag `finstill/night`, and nothing else is remembered: a
daemon that is killed in the middle of a night goes on with it when it is back, and asks for no run twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, RunsFilter, SensorResult, SkipReason
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARTITION_NAME_TAG, WILL_RETRY_TAG

from assets.comparison import comparison
from assets.corpus import INPUTS_TAG, corpus
from assets.resources import ProfileResource
from assets.students import students
from pipelines.jobs import decide, distil, nightly_redistillation
from pipelines.nights.staleness import STAGES_OF_A_STUDENT, latest_materialization, stale_students
from pipelines.nights.summary import NIGHT, NIGHT_TAG, summarise_night, tag_why

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

ALIVE = [DagsterRunStatus.QUEUED, *IN_PROGRESS_RUN_STATUSES]
"""Without NOT_STARTED, which a run is for a moment, or for good where Dagster could not store all of it."""

PATIENCE_SECONDS = 86_400
"""How long a night is waited for of which nothing runs."""


@dataclass(frozen=True)
class Night:
    """A night, by the run that began it; its id is that run's."""

    first: DagsterRun

    @classmethod
    def latest(cls, instance: DagsterInstance) -> Night | None:
        runs = instance.get_runs(RunsFilter(job_name=nightly_redistillation.name), limit=1)
        return cls(runs[0]) if runs else None

    @property
    def id(self) -> str:
        return self.first.run_id

    def __str__(self) -> str:
        return f"the night {self.id[:8]}"

    def outcome(self, instance: DagsterInstance) -> str | None:
        """Return what the asset `night` said of it, None while it is going on."""
        told = latest_materialization(instance, NIGHT.key)
        return told.description if told is not None and (told.tags or {}).get(NIGHT_TAG) == self.id else None

    def is_going_on(self, instance: DagsterInstance) -> bool:
        """Whether its end is waited for.

        Where nothing of it ran for a day it is not: `continue_night` is off or fails at each tick, and would leave the
        deployment without nights for good.
        """
        if self.outcome(instance) is not None:
            return False
        filters = [RunsFilter(run_ids=[self.id]), RunsFilter(tags={NIGHT_TAG: self.id})]
        records = [record for each in filters for record in instance.get_run_records(each)]
        since = time.time() - PATIENCE_SECONDS
        ran = any(each.dagster_run.status in ALIVE or each.update_timestamp.timestamp() > since for each in records)
        return ran or bool(_students_in_progress(instance))

    def runs(self, instance: DagsterInstance, job: str) -> list[DagsterRun]:
        """Return its runs of a job, the latest first."""
        return list(instance.get_runs(RunsFilter(job_name=job, tags={NIGHT_TAG: self.id})))

    def request(self, job: str, partition: str | None = None, why: str | None = None) -> RunRequest:
        """Return a request that Dagster grants once, however often it is made."""
        return RunRequest(
            job_name=job,
            partition_key=partition,
            run_key=f"{self.id} {job} {partition or ''}".strip(),
            tags={NIGHT_TAG: self.id} | (tag_why(why) if why else {}),
        )


def next_step(instance: DagsterInstance, graph: AssetGraph, profile: ProfileResource) -> SensorResult | SkipReason:
    """Return what is to be done next about the latest night: runs to start, its summary, or what it waits for."""
    night = Night.latest(instance)
    if night is None:
        return SkipReason("no night was begun yet")
    if outcome := night.outcome(instance):
        return SkipReason(f"{night} is over: {outcome}")
    if night.first.tags.get(NIGHT_TAG) != night.id:
        # The first run was started by the schedule, the sensor or a person, none of which knew its id.
        instance.add_run_tags(night.id, {NIGHT_TAG: night.id})
    if is_in_progress(instance, night.first):
        return SkipReason(f"{night} waits for its texts to be labelled")
    if night.first.status != DagsterRunStatus.SUCCESS:
        # Without the recipes: that they cannot be read may be the reason.
        return _end(instance, night, [])

    recipes = profile.recipes()
    asked = {run.tags[PARTITION_NAME_TAG] for run in night.runs(instance, distil.name)}
    in_progress = _students_in_progress(instance)
    stale = stale_students(graph, recipes, profile, instance)
    if start := {name: why for name, why in stale.items() if name not in asked | in_progress}:
        return SensorResult(
            run_requests=[night.request(distil.name, name, why) for name, why in start.items()],
            dynamic_partitions_requests=[students.build_add_request(list(start))],
        )
    if in_progress:
        return SkipReason(f"{night} waits for students: {', '.join(sorted(in_progress))}")
    if not (decided := night.runs(instance, decide.name)):
        return SensorResult(run_requests=[night.request(decide.name)])
    if is_in_progress(instance, decided[0]):
        return SkipReason(f"{night} waits for the comparison and the champion")
    return _end(instance, night, list(recipes))


def why_a_night(instance: DagsterInstance, graph: AssetGraph, profile: ProfileResource) -> str:
    """Return the reason to begin a night, empty where a night would find nothing to do."""
    night = Night.latest(instance)
    if night is not None and (outcome := night.outcome(instance)) not in ("promoted", "kept"):
        return f"{night} {outcome}" if outcome else f"{night} never ended: the sensor continue_night is off or fails"
    if latest_materialization(instance, corpus.key) is None:
        return "the corpus was never read"
    told = latest_materialization(instance, NIGHT.key)
    made_from = (told.tags or {}).get(INPUTS_TAG) if told is not None else None
    if made_from is None:
        return "what the last night was made from is not known"
    if made_from != profile.inputs():
        return "the corpus's source, the teacher, the profile or the recipes changed"
    if not profile.workspace.corpus.is_file():
        return "the corpus's table is gone"
    if stale := stale_students(graph, profile.recipes(), profile, instance):
        return "; ".join(f"{name}: {why}" for name, why in stale.items())
    if latest_materialization(instance, comparison.key) is None:
        return "the students were never compared"
    return "" if (profile.workspace.champion / "current").is_dir() else "the champion's folder is gone"


def is_in_progress(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run is going on, or failed and is about to be started again by Dagster."""
    if not run.is_complete_and_waiting_to_retry:
        return run.status in NOT_FINISHED_STATUSES
    if (backfill_id := run.tags.get(BACKFILL_ID_TAG)) is None:
        return True
    # A run whose backfill has ended is not started again, and its tags say further that it will be.
    backfill = instance.get_backfill(backfill_id)
    return backfill is not None and backfill.status not in BULK_ACTION_TERMINAL_STATUSES


def _students_in_progress(instance: DagsterInstance) -> set[str]:
    """Return the students that a run is making now or is about to, whoever started it."""
    runs = [
        *instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES)),
        *instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"})),
    ]
    return {
        run.tags[PARTITION_NAME_TAG]
        for run in runs
        if is_in_progress(instance, run)
        and PARTITION_NAME_TAG in run.tags
        and (run.job_name == distil.name or not set(STAGES_OF_A_STUDENT).isdisjoint(run.asset_selection or ()))
    }


def _end(instance: DagsterInstance, night: Night, recipes: Sequence[str]) -> SensorResult:
    summary = summarise_night(instance, night.id, recipes)
    instance.add_run_tags(night.id, {"finstill/outcome": summary.outcome})
    return SensorResult(asset_events=[summary.materialization()], skip_reason=f"{night} is over: {summary.outcome}")
