"""A night as a chain of ordinary runs, and which of them comes next.

A run of the job `nightly_redistillation` begins a night: it labels what is new. When it has ended, each student whose
inputs changed gets a run of `distil`, and when those have ended a run of `decide` compares the students and promotes
one where it is shown to be better. Last, the asset `night` tells what all of them did.

What comes next is read from the runs alone, which carry the tag `finstill/night`, and nothing else is remembered: a
daemon that is killed in the middle of a night goes on with it when it is back, and asks for no run twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, RunsFilter, SensorResult, SkipReason

from assets.comparison import comparison
from assets.corpus import INPUTS_TAG, corpus
from assets.resources import ProfileResource
from assets.students import students
from finstill.config.recipe import Recipe
from pipelines.jobs import decide, distil, nightly_redistillation
from pipelines.nights.staleness import STAGES_OF_A_STUDENT, latest_materialization, stale_students
from pipelines.nights.summary import NIGHT, NIGHT_TAG, WHY_TAG, summarise_night

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

IN_PROGRESS = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]

WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster sets it on a run that failed, where `run_retries` of `dagster.yaml` says so."""


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

    def runs(self, instance: DagsterInstance, job: str) -> list[DagsterRun]:
        """Return its runs of a job, the latest first."""
        return list(instance.get_runs(RunsFilter(job_name=job, tags={NIGHT_TAG: self.id})))

    def request(self, job: str, partition: str | None = None, why: str | None = None) -> RunRequest:
        """Return a request that Dagster grants once, however often it is made."""
        return RunRequest(
            job_name=job,
            partition_key=partition,
            run_key=f"{self.id} {job} {partition or ''}".strip(),
            tags={NIGHT_TAG: self.id} | ({WHY_TAG: why} if why else {}),
        )


def next_step(instance: DagsterInstance, graph: AssetGraph, profile: ProfileResource) -> SensorResult | SkipReason:
    """Return what is to be done next about the latest night: runs to start, its summary, or what it waits for."""
    night, recipes = Night.latest(instance), profile.recipes()
    if night is None:
        return SkipReason("no night was begun yet")
    if outcome := night.outcome(instance):
        return SkipReason(f"{night} is over: {outcome}")
    if night.first.tags.get(NIGHT_TAG) != night.id:
        # The first run was started by the schedule, the sensor or a person, none of which knew its id.
        instance.add_run_tags(night.id, {NIGHT_TAG: night.id})
    if is_in_progress(night.first):
        return SkipReason(f"{night} waits for its texts to be labelled")
    if night.first.status != DagsterRunStatus.SUCCESS:
        return _end(instance, night, recipes)

    asked = {run.tags["dagster/partition"] for run in night.runs(instance, distil.name)}
    in_progress = _students_in_progress(instance)
    stale = stale_students(graph, recipes, profile.profile(), instance)
    if start := {name: why for name, why in stale.items() if name not in asked | in_progress}:
        return SensorResult(
            run_requests=[night.request(distil.name, name, why) for name, why in start.items()],
            dynamic_partitions_requests=[students.build_add_request(list(start))],
        )
    if in_progress:
        return SkipReason(f"{night} waits for students: {', '.join(sorted(in_progress))}")
    if not (decided := night.runs(instance, decide.name)):
        return SensorResult(run_requests=[night.request(decide.name)])
    if is_in_progress(decided[0]):
        return SkipReason(f"{night} waits for the comparison and the champion")
    return _end(instance, night, recipes)


def why_a_night(instance: DagsterInstance, graph: AssetGraph, profile: ProfileResource) -> str:
    """Return the reason to begin a night, empty where a night would find nothing to do."""
    night = Night.latest(instance)
    outcome = night.outcome(instance) if night is not None else None
    if outcome in ("failed", "cancelled"):
        return f"{night} {outcome}"
    read = latest_materialization(instance, corpus.key)
    if read is None:
        return "the corpus was never read"
    if (read.tags or {}).get(INPUTS_TAG) != profile.inputs():
        return "the corpus's source, the teacher, the profile or the recipes changed"
    if stale := stale_students(graph, profile.recipes(), profile.profile(), instance):
        return "; ".join(f"{name}: {why}" for name, why in stale.items())
    compared = latest_materialization(instance, comparison.key)
    return "" if compared is not None else "the students were never compared"


def is_in_progress(run: DagsterRun) -> bool:
    """Whether a run is going on, or failed and is about to be started again by Dagster."""
    about_to_retry = run.tags.get(WILL_RETRY_TAG) == "true" and "dagster/auto_retry_run_id" not in run.tags
    return run.status in IN_PROGRESS or (run.status == DagsterRunStatus.FAILURE and about_to_retry)


def _students_in_progress(instance: DagsterInstance) -> set[str]:
    """Return the students that a run is making now or is about to, whoever started it."""
    runs = [
        *instance.get_runs(RunsFilter(statuses=IN_PROGRESS)),
        *instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"})),
    ]
    return {
        run.tags["dagster/partition"]
        for run in runs
        if is_in_progress(run)
        and "dagster/partition" in run.tags
        and (run.job_name == distil.name or not set(STAGES_OF_A_STUDENT).isdisjoint(run.asset_selection or ()))
    }


def _end(instance: DagsterInstance, night: Night, recipes: Mapping[str, Recipe]) -> SensorResult:
    summary = summarise_night(instance, night.id, list(recipes))
    instance.add_run_tags(night.id, {"finstill/outcome": summary.outcome})
    return SensorResult(asset_events=[summary.materialization()], skip_reason=f"{night} is over: {summary.outcome}")
