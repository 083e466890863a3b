"""Ending a training whose run was cancelled."""

import time
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, DagsterExecutionInterruptedError, DagsterRunStatus

if TYPE_CHECKING:
    from transformers import TrainerCallback

SECONDS_BETWEEN = 2.0


def stop_when_cancelled(context: AssetExecutionContext) -> "TrainerCallback":
    """Return a callback that ends the training within seconds of its run's cancelling.

    Dagster interrupts a cancelled step's process once. An interrupt that arrives while a library is being imported or a
    checkpoint is read may be lost there, and the training would go on to its end.
    """
    from transformers import TrainerCallback

    class StopWhenCancelled(TrainerCallback):
        _next = 0.0

        def on_step_end(self, *_: object, **__: object) -> None:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + SECONDS_BETWEEN
            run = context.instance.get_run_by_id(context.run_id)
            if run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED):
                raise DagsterExecutionInterruptedError

    return StopWhenCancelled()
