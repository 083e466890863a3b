"""Slots of a pool that Dagster lost."""

from __future__ import annotations

from dagster import DagsterInstance
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage


def give_free_slots(instance: DagsterInstance) -> list[str]:
    """Give each pool's free slot to the step that waits for it first, and return the pools where a step waited.

    Dagster 1.13 looks for a free slot and then queues the step. A slot that was freed in between is given to no step,
    and the step would wait until the next one leaves the pool, in the worst case for ever.
    """
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    lost = [
        pool
        for pool in sorted(storage.get_concurrency_keys())
        if storage.get_concurrency_info(pool).pending_step_count and storage.has_unassigned_slots(pool)
    ]
    storage.assign_pending_steps(lost)
    return lost
