"""What is said of a failed run to people who are not looking at the UI."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Mapping

from dagster import RunFailureSensorContext

from finstill.errors import UnreachableError
from pipelines.execution import step_failure

TIMEOUT_SECONDS = 10

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET = 6


def describe_failure(context: RunFailureSensorContext) -> dict[str, str]:
    """Return job, run, stage, partition and the first line of the cause; and `text`, which chat programs show."""
    run = context.dagster_run
    stage, partition = run.job_name, run.tags.get("dagster/partition", "")
    cause = context.failure_event.message or "" if context.failure_event else ""
    if failures := context.get_step_failure_events():
        stage, cause = step_failure(failures[0])
        # A night's stage says itself which stage of which student failed.
        said = failures[0].step_failure_data.user_failure_data
        if said is not None:
            metadata = {name: str(value.value) for name, value in said.metadata.items()}
            stage, partition = metadata.get("stage", stage), metadata.get("partition", partition)
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
