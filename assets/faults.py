"""How a stage fails: with the message that a person needs first, and again later where waiting can help."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from dagster import Failure, OpExecutionContext, RetryRequested

from finstill.errors import InputError, UnreachableError

RETRIES = 3
FIRST_WAIT_SECONDS = 10

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def explain_faults(stage: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make an asset, a check or an op fail in the words of the error that a person can mend.

    An `InputError` becomes Dagster's `Failure`: what the UI shows begins with what is wrong, where, and what to do, and
    the stack trace stands below. Any other error is a fault of ours, and stays as it is.

    Where the hub or an object store did not answer, the stage starts again after 10, 20 and 40 seconds. Dagster's
    `RetryPolicy` tries again whatever the error: a file with a bad row would fail four times.
    """

    @functools.wraps(stage)
    def explained(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return stage(*args, **kwargs)
        except Exception as error:
            tried = OpExecutionContext.get().retry_number
            if can_pass(error) and tried < RETRIES:
                raise RetryRequested(max_retries=RETRIES, seconds_to_wait=FIRST_WAIT_SECONDS * 2**tried) from error
            if isinstance(error, InputError):
                raise Failure(str(error)) from error
            raise

    return explained


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
