"""Running a job in this process: as `make demo` does stage by stage, and a night's run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dagster import (
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRunStatus,
    ExecuteInProcessResult,
)


class RunFailedError(Exception):
    """A Dagster run did not succeed.

    Attributes:
        stage: the step that failed, or the check that did not pass.
        partition: of the run, where it has one.
        cause: what that step or check said.
    """

    def __init__(self, job: str, partition: str | None, stage: str, cause: str):
        super().__init__(f"{job} {partition}: {stage}: {cause}" if partition else f"{job}: {stage}: {cause}")
        self.stage = stage
        self.partition = partition
        self.cause = cause


def execute(
    job: str, instance: DagsterInstance, tags: Mapping[str, str], partition: str | None = None
) -> ExecuteInProcessResult:
    """Run a job of the code location in this process, so that torch is imported once for many.

    Raises:
        RunFailedError: a step failed, or a blocking check did not pass.
        DagsterExecutionInterruptedError: it was cancelled, and whoever started it is to stop too.
    """
    from pipelines.definitions import defs

    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        raise_on_error=False,
        tags=dict(tags),
        # Dagster's own console log repeats every event; the stages' progress is what a person follows.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    # Dagster takes the interrupt for the inner run's, and calls that cancelled or its step failed, whichever is
    # interrupted first. Who started it is to stop too.
    if result.dagster_run.status == DagsterRunStatus.CANCELED or any(map(_was_interrupted, result.all_events)):
        if result.dagster_run.status != DagsterRunStatus.CANCELED:
            instance.report_run_canceled(result.dagster_run, "The run that this one belonged to was cancelled.")
        raise DagsterExecutionInterruptedError
    if not result.success:
        raise RunFailedError(job, partition, *_failure(result))
    return result


OWN_ERROR = re.compile(r"^finstill(\.\w+)+: ")
"""How Dagster writes the class of an error that Finstill raised for a person to read."""


def step_failure(event: DagsterEvent) -> tuple[str, str]:
    """Return the step of a failure event, and why it failed: what Finstill's own error says, else the first cause."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None and not OWN_ERROR.match(error.message):
        error = error.cause
    # Dagster prefixes the class name, which a person need not read where the message says it all.
    message = re.sub(r"^dagster\.\S*Failure: ", "", OWN_ERROR.sub("", error.message.strip())) if error else ""
    return str(event.step_key), message


def _was_interrupted(event: DagsterEvent) -> bool:
    error = event.step_failure_data.error if event.is_step_failure else None
    return error is not None and DagsterExecutionInterruptedError.__name__ in error.to_string()


def _failure(result: ExecuteInProcessResult) -> tuple[str, str]:
    """Return the step or check that failed, and why."""
    for event in result.all_events:
        if event.is_step_failure:
            return step_failure(event)
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    names = ", ".join(check.check_name for check in failed)
    return names, "; ".join(f"the check {check.check_name} failed: {check.description}" for check in failed)
