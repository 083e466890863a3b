"""A process that executes runs, as `make demo` does: what it leaves behind when it is killed, and what it waits for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from dagster import DagsterExecutionInterruptedError, DagsterInstance, DagsterRunStatus, build_sensor_context
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test, instance_for_test

from assets.resources import ProfileResource
from finstill.config.recipe import Recipe
from finstill.errors import UnreachableError
from pipelines.execution import CALL_TAG, RunFailedError, calling, execute
from pipelines.recovery import LOST_RUNS, note_lost_runs
from pipelines.run import distil_side_by_side
from pipelines.sensors import recovery
from tests.pipelines.house import House

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


def test_a_call_whose_neighbour_has_ended_is_still_seen(instance: DagsterInstance) -> None:
    with ExitStack() as first:
        first.enter_context(calling(instance))
        with calling(instance):
            alive = started(instance)
            first.close()
            with calling(instance):
                assert status(instance, alive) == DagsterRunStatus.STARTED


def test_a_new_server_ends_the_runs_of_the_one_before_and_no_others(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOST_RUNS, "")
    of_a_pod = create_run_for_test(instance, status=DagsterRunStatus.STARTED).run_id
    of_the_server = started(instance)
    instance.add_run_tags(of_the_server, {GRPC_INFO_TAG: "{}"})
    assert waits(instance)
    note_lost_runs(instance)
    alive = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags={GRPC_INFO_TAG: "{}"}).run_id
    assert of_the_server in str(recovery.evaluate_tick(build_sensor_context(instance=instance)).skip_message)
    assert status(instance, of_the_server) == DagsterRunStatus.FAILURE
    assert status(instance, alive) == DagsterRunStatus.STARTED
    assert status(instance, of_a_pod) == DagsterRunStatus.STARTED
    assert not waits(instance)


def die(*_: object) -> None:
    os._exit(9)


def test_a_training_whose_process_is_killed_says_so(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.run._distil", die)
    with pytest.raises(RunFailedError, match="process was killed"):
        distil_side_by_side(["small"], instance, {})


def test_an_interrupt_that_a_step_failed_of_is_no_failure(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(profile: ProfileResource) -> dict[str, Recipe]:
        try:
            raise DagsterExecutionInterruptedError
        except DagsterExecutionInterruptedError as error:
            raise RuntimeError("a library was at work") from error

    monkeypatch.setattr(ProfileResource, "recipes", interrupted)
    with pytest.raises(DagsterExecutionInterruptedError):
        execute("tune", house.instance, {})


def test_a_run_executed_again_from_the_ui_is_left_alone(instance: DagsterInstance) -> None:
    first = create_run_for_test(instance, status=DagsterRunStatus.SUCCESS, tags={CALL_TAG: "a"}).run_id
    again = started(instance, parent_run_id=first, root_run_id=first)
    with calling(instance):
        assert status(instance, again) == DagsterRunStatus.STARTED


def test_what_a_run_waits_for_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("assets.faults.FIRST_WAIT_SECONDS", 0)
    caplog.set_level("INFO", logger="finstill")
    faults = iter([UnreachableError("the hub does not answer", where="s3://texts")])
    read = ProfileResource.recipes

    def recipes(profile: ProfileResource) -> dict[str, Recipe]:
        for fault in faults:
            raise fault
        return read(profile)

    monkeypatch.setattr(ProfileResource, "recipes", recipes)
    other, storage = create_run_for_test(house.instance).run_id, house.instance.event_log_storage
    storage.initialize_concurrency_limit_to_default(POOL)
    assert storage.claim_concurrency_slot(POOL, other, STEP).is_claimed

    class Leave(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            storage.free_concurrency_slots_for_run(other)

    monkeypatch.setattr(logging.getLogger("finstill.execution"), "handlers", [Leave()])
    execute("tune", house.instance, {})
    assert caplog.messages[:2] == [
        "tuning: waits until another run leaves the pool 'training'",
        "tuning: starts again in 0 s. s3://texts: the hub does not answer",
    ]


@pytest.mark.timeout(120)
def test_a_slot_that_is_freed_while_a_step_queues_is_not_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    other, storage = create_run_for_test(house.instance).run_id, house.instance.event_log_storage
    storage.initialize_concurrency_limit_to_default(POOL)
    assert storage.claim_concurrency_slot(POOL, other, STEP).is_claimed
    assert isinstance(storage, SqlEventLogStorage)
    look = storage.has_unassigned_slots

    def freed_after_the_look(pool: str) -> bool:
        found = look(pool)
        storage.free_concurrency_slots_for_run(other)
        return found

    monkeypatch.setattr(storage, "has_unassigned_slots", freed_after_the_look)
    execute("tune", house.instance, {})


def test_the_daemon_too_gives_a_lost_slot_to_the_step_that_waits(instance: DagsterInstance) -> None:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    storage.initialize_concurrency_limit_to_default(POOL)
    first, second = (create_run_for_test(instance).run_id for _ in range(2))
    storage.add_pending_step(POOL, first, STEP, should_assign=False)
    assert not storage.claim_concurrency_slot(POOL, first, STEP).is_claimed

    def tick() -> str | None:
        return recovery.evaluate_tick(build_sensor_context(instance=instance)).skip_message

    assert tick() == f"a step got a slot that was lost: {POOL}"
    assert storage.claim_concurrency_slot(POOL, first, STEP).is_claimed
    storage.claim_concurrency_slot(POOL, second, STEP)
    assert tick() == "nothing was lost"
    assert not storage.claim_concurrency_slot(POOL, second, STEP).is_claimed
