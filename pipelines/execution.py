"""Running a job in this process, as `make demo` does stage by stage: torch is imported once for all of them.

Each is an ordinary run all the same: it knows the code location that it came from, so that it stands in the UI's
timeline and can be executed again from there.
"""

from __future__ import annotations

import fcntl
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dagster import (
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    JobExecutionResult,
    RunsFilter,
    in_process_executor,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.execution.api import execute_run
from dagster._core.execution.execute_in_process import merge_run_tags
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from pipelines.failures import cause_of, is_interrupt, step_failure
from pipelines.recovery import end_lost_run, give_free_slots

# Below the library's logger: progress lines go where a caller looks, and so do these.
logger = logging.getLogger("finstill.execution")

ROOT = str(Path(__file__).parents[1])
MODULE = "pipelines.definitions"
LOCATION = "finstill"
"""The code location's name in `workspace.yaml`, `pyproject.toml` and `deploy/`."""


CALL_TAG = "finstill/call"
"""The tag of runs in this process, with the same value for all runs of one call."""


class RunFailedError(Exception):
    """A Dagster run did not succeed.

    Attributes:
        stage: the step that failed, or the check that did not pass.
        cause: what that step or check said.
    """

    def __init__(self, job: str, partition: str | None, stage: str, cause: str):
        # All arguments, so that another process can send it.
        super().__init__(job, partition, stage, cause)
        self.stage = stage
        self.cause = cause

    def __str__(self) -> str:
        job, partition, stage, cause = self.args
        return f"{job} {partition}: {stage}: {cause}" if partition else f"{job}: {stage}: {cause}"


@contextmanager
def calling(instance: DagsterInstance) -> Iterator[None]:
    """Mark this process as one that executes runs, and first end the runs that such a process left when it was killed.

    A killed run keeps its slot in a pool, so that the next one would wait for it without end; a daemon would free it,
    and there need be none. The operating system gives up a lock with the process that holds it: whoever gets this one
    knows that no other process is at work here.
    """
    with (Path(instance.root_directory) / "calling.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Another call is at work: its runs are alive, and those before it were ended when it began.
            pass
        else:
            # One that was executed again from the UI has the tag too, and a process of its own.
            for run in instance.get_runs(RunsFilter(statuses=ACTIVE_RUN_STATUSES)):
                if CALL_TAG in run.tags and run.parent_run_id is None:
                    end_lost_run(instance, run)
        # Held to the end by each of several calls, so that the next one sees any of them.
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def create_run(
    job: str, instance: DagsterInstance, tags: Mapping[str, str], partition: str | None = None
) -> DagsterRun:
    """Return a new run of a job of the code location, for this process or a run launcher to execute."""
    from pipelines.definitions import defs

    definition = defs.resolve_job_def(job)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE, working_directory=ROOT),
        LOCATION,
    )
    repository = ReconstructableRepository.for_module(MODULE, "defs", ROOT)
    return instance.create_run_for_job(
        definition,
        # Dagster's own console log repeats every event; the stages' progress is what a person follows.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags=merge_run_tags(definition, partition, tags, None, instance, None),
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job),
        job_code_origin=repository.get_reconstructable_job(job).get_python_origin(),
    )


def execute(
    job: str, instance: DagsterInstance, tags: Mapping[str, str], partition: str | None = None
) -> JobExecutionResult:
    """Run a job of the code location in this process, one step after the other.

    Raises:
        RunFailedError: a step failed, or a blocking check did not pass.
        DagsterExecutionInterruptedError: it was cancelled.
    """
    from pipelines.definitions import defs

    definition = defs.resolve_job_def(job).with_executor_def(in_process_executor)
    run = create_run(job, instance, tags, partition)
    instance.add_event_listener(run.run_id, partial(_see_to_what_waits, instance))
    result = execute_run(InMemoryJob(definition), run, instance)
    failures = (event.step_failure_data.error for event in result.all_events if event.is_step_failure)
    if result.dagster_run.status == DagsterRunStatus.CANCELED or any(map(is_interrupt, failures)):
        raise DagsterExecutionInterruptedError
    if not result.success:
        raise RunFailedError(job, partition, *_failure(result))
    return result


def _see_to_what_waits(instance: DagsterInstance, entry: EventLogEntry) -> None:
    """Log why a step stands still, because another run holds its pool or the network did not answer.

    A step that waits for a pool is also given a free slot, in case Dagster lost one.
    """
    event = entry.dagster_event
    if event is None:
        return
    if event.is_engine_event and (pool := event.engine_event_data.metadata.get("pool")) is not None:
        logger.info("%s: waits until another run leaves the pool '%s'", event.step_key, pool.value)
        # The sensor `recovery` does it for the runs of a daemon, and there need be none.
        give_free_slots(instance)
    if event.is_step_up_for_retry:
        retry = event.step_retry_data
        logger.info("%s: starts again in %s s. %s", event.step_key, retry.seconds_to_wait, cause_of(retry.error))


def _failure(result: JobExecutionResult) -> tuple[str, str]:
    """Return the step or check that failed, and why."""
    for event in result.all_events:
        if event.is_step_failure:
            return step_failure(event)
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    names = ", ".join(check.check_name for check in failed)
    return names, "; ".join(f"the check {check.check_name} failed: {check.description}" for check in failed)
