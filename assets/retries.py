"""Trying again, with longer and longer waits, where that can help: the network's faults and no others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from dagster import OpExecutionContext, RetryRequested

from finstill.errors import UnreachableError

RETRIES = 3
FIRST_WAIT_SECONDS = 10

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def retries_where_it_can_help(stage: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make an asset or op start again after 10, 20 and 40 seconds where the hub or an object store did not answer.

    Dagster's `RetryPolicy` tries again whatever the error: a file with a bad row would fail four times.
    """

    @functools.wraps(stage)
    def retried(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return stage(*args, **kwargs)
        except Exception as error:
            if not can_pass(error):
                raise
            wait = FIRST_WAIT_SECONDS * 2 ** OpExecutionContext.get().retry_number
            raise RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error

    return retried


def can_pass(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is a fault of the network, which may be gone the next time.

    Arrow raises a bare `OSError` without a number for what an object store or the way to it does; a local disk's
    errors have one.
    """
    while error is not None:
        if isinstance(error, (UnreachableError, ConnectionError, TimeoutError)):
            return True
        if type(error) is OSError and error.errno is None:
            return True
        error = error.__cause__
    return False
