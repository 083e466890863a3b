"""Why a run failed, as it is said to people: in a night's summary, on a terminal and to the webhook."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Mapping

from dagster import DagsterEvent, DagsterExecutionInterruptedError, RunFailureSensorContext
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._core.storage.tags import PARTITION_NAME_TAG
from dagster._utils.error import SerializableErrorInfo

from finstill.errors import UnreachableError

TIMEOUT_SECONDS = 10

OWN_ERROR = re.compile(r"^finstill(\.\w+)+: ")
"""How Dagster writes the class of an error that Finstill raised for a person to read."""

KILLED = "its process was killed, most often for want of memory"

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET = 6


def step_failure(event: DagsterEvent) -> tuple[str, str]:
    """Return the step of a failure event, and why it failed."""
    return str(event.step_key), cause_of(event.step_failure_data.error)


def cause_of(error: SerializableErrorInfo | None) -> str:
    """Return why a step failed: what Finstill's own error says, else the first cause."""
    while error is not None and error.cause is not None and not OWN_ERROR.match(error.message):
        error = error.cause
    if error is not None and error.cls_name == ChildProcessCrashException.__name__:
        return KILLED
    return OWN_ERROR.sub("", error.message.strip()) if error else ""


def is_interrupt(error: SerializableErrorInfo | None) -> bool:
    """Whether a step failed because its run was interrupted.

    An interrupt that meets Dagster or a library at its own work is wrapped, and becomes the failure of a step.
    """
    while error is not None:
        if error.cls_name == DagsterExecutionInterruptedError.__name__:
            return True
        error = error.cause
    return False


def describe_failure(context: RunFailureSensorContext) -> dict[str, str]:
    """Return job, run, stage, partition and the first line of the cause; and `text`, which chat programs show."""
    run = context.dagster_run
    stage, partition = run.job_name, run.tags.get(PARTITION_NAME_TAG, "")
    cause = context.failure_event.message or "" if context.failure_event else ""
    if failures := context.get_step_failure_events():
        stage, cause = step_failure(failures[0])
    first_line = without_secrets(cause.strip().partition("\n")[0])
    of = f" of {partition}" if partition else ""
    return {
        "job": run.job_name,
        "run": run.run_id,
        "stage": stage,
        "partition": partition,
        "cause": first_line,
        "text": f"{run.job_name}: {stage}{of} failed. {first_line}",
    }


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return `text` without the user part of URLs, and without the value of any variable that is named as a secret."""
    text = re.sub(r"(\w+://)[^/\s@]+@", r"\1", text)
    for name, value in environment.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text


def post(url: str, message: Mapping[str, str]) -> None:
    """Post `message` as JSON.

    Raises:
        UnreachableError: it was not taken. The URL, which may be a secret itself, is not said.
    """
    request = urllib.request.Request(
        url, json.dumps(dict(message)).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"the failure could not be posted ({type(error).__name__})", where="FINSTILL_WEBHOOK"
        ) from None
