"""Why a run failed, as it is said to people: in a night's summary, on a terminal and to the webhook."""

from __future__ import annotations

import html
import json
import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException

from dagster import DagsterEvent, DagsterExecutionInterruptedError, RunFailureSensorContext
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._core.storage.tags import PARTITION_NAME_TAG
from dagster._utils.error import SerializableErrorInfo

from assets.metadata import shortened
from finstill.errors import UnreachableError

TIMEOUT_SECONDS = 10

OWN_ERROR = re.compile(r"^finstill(\.\w+)+: ")
"""How Dagster writes the class of an error that Finstill raised for a person to read."""

KILLED = "its process was killed, most often for want of memory"

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET = 6

URLS = ("FINSTILL_CACHE", "FINSTILL_DROP", "FINSTILL_STUDY")
"""Variables whose values may be URLs with credentials in them."""

WEBHOOK = "FINSTILL_WEBHOOK"
"""Its value is a secret as a whole: who knows a chat program's URL may post to it."""

CAUSE_CHARACTERS = 1_000
"""Of a cause, which may quote a cell of a corpus."""


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
    """Return job, run, stage, partition and the first line of the cause; and `text`, which chat programs show.

    Chat programs read `<!channel>` and `<url|name>` as more than text, unless `&`, `<` and `>` are escaped.
    """
    run = context.dagster_run
    stage, partition = run.job_name, run.tags.get(PARTITION_NAME_TAG, "")
    cause = context.failure_event.message or "" if context.failure_event else ""
    if failures := context.get_step_failure_events():
        stage, cause = step_failure(failures[0])
    first_line = shortened(without_secrets(cause.strip().partition("\n")[0]), CAUSE_CHARACTERS)
    of = f" of {partition}" if partition else ""
    return {
        "job": run.job_name,
        "run": run.run_id,
        "stage": stage,
        "partition": partition,
        "cause": first_line,
        "text": html.escape(f"{run.job_name}: {stage}{of} failed. {first_line}", quote=False),
    }


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return `text` without the user part of URLs, and without what variables of the environment hold of secrets.

    These are the values of those that are named as a secret, the credentials in `URLS`, and the webhook.
    """
    # The longest first: a shorter one may be a part of it.
    for secret in sorted(_secrets(environment), key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    # Up to the last @: a password that is not quoted as URLs ask may hold a slash or an @ itself.
    return re.sub(r"://(\S+)", lambda found: "://" + found[1].rpartition("@")[2], text)


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        after_scheme = value.partition("://")[2]
        if SECRET_NAME.search(name):
            yield value
        elif name == WEBHOOK:
            # A library may quote the path alone.
            yield from (value, "/" + after_scheme.partition("/")[2])
        if name in (*URLS, WEBHOOK) and "@" in after_scheme:
            credentials = after_scheme.rpartition("@")[0]
            yield from (value, credentials, credentials.partition(":")[2])


def post(url: str, message: Mapping[str, str]) -> None:
    """Post `message` as JSON.

    Raises:
        UnreachableError: it was not taken. The URL, which may be a secret itself, is not said.
    """
    content = json.dumps(dict(message)).encode()
    try:
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass
    except (OSError, ValueError, HTTPException) as error:
        raise UnreachableError(f"the failure could not be posted ({type(error).__name__})", where=WEBHOOK) from None
