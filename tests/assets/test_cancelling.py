"""What a training does whose run was cancelled and whose interrupt was lost; tests/pipelines has the processes."""

from __future__ import annotations

import pytest
from dagster import DagsterExecutionInterruptedError, DagsterInstance, DagsterRun, DagsterRunStatus, build_asset_context

from assets import cancelling
from assets.cancelling import stop_when_cancelled


def test_a_training_ends_at_the_first_step_after_its_run_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "SECONDS_BETWEEN", 0.0)
    with DagsterInstance.ephemeral() as instance:
        context = build_asset_context(instance=instance)
        run = instance.add_run(DagsterRun("distil", run_id=context.run_id, status=DagsterRunStatus.STARTED))
        callback = stop_when_cancelled(context)  # type: ignore[arg-type]
        callback.on_step_end(None, None, None)  # type: ignore[arg-type]
        instance.report_run_canceling(run)
        with pytest.raises(DagsterExecutionInterruptedError):
            callback.on_step_end(None, None, None)  # type: ignore[arg-type]
