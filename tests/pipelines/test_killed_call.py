"""What a process that executes runs, as `make demo` does, leaves behind when it is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, instance_for_test

from pipelines.execution import CALL_TAG, calling

POOL, STEP = "training", "student"


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with instance_for_test(overrides={"concurrency": {"pools": {"default_limit": 1}}}) as instance:
        yield instance


def started(instance: DagsterInstance, **more: object) -> str:
    """Return a run that began a step in the pool, and of which nothing was heard since."""
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags={CALL_TAG: "a"}, **more)
    instance.event_log_storage.initialize_concurrency_limit_to_default(POOL)
    assert instance.event_log_storage.claim_concurrency_slot(POOL, run.run_id, STEP).is_claimed
    return run.run_id


def waits(instance: DagsterInstance) -> bool:
    """Whether the next run would wait for its slot in the pool."""
    run = create_run_for_test(instance)
    claim = instance.event_log_storage.claim_concurrency_slot(POOL, run.run_id, STEP)
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return not claim.is_claimed


def status(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_killed_run_is_ended_and_its_slot_is_free(instance: DagsterInstance) -> None:
    killed = started(instance)
    assert waits(instance)
    with calling(instance):
        assert status(instance, killed) == DagsterRunStatus.FAILURE
        assert not waits(instance)


def test_a_call_beside_another_leaves_its_runs_alone(instance: DagsterInstance) -> None:
    with calling(instance):
        alive = started(instance)
        with calling(instance):
            assert status(instance, alive) == DagsterRunStatus.STARTED
            assert waits(instance)


def test_a_run_executed_again_from_the_ui_is_left_alone(instance: DagsterInstance) -> None:
    first = create_run_for_test(instance, status=DagsterRunStatus.SUCCESS, tags={CALL_TAG: "a"}).run_id
    again = started(instance, parent_run_id=first, root_run_id=first)
    with calling(instance):
        assert status(instance, again) == DagsterRunStatus.STARTED
