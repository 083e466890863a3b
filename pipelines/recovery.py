"""What runs lose that nobody would give back: a slot of a pool, and the process that executed them."""

from __future__ import annotations

import os

from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.tags import GRPC_INFO_TAG

LOST_RUNS = "FINSTILL_LOST_RUNS"
"""The variable by which a code server knows the runs that the one before it left."""


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


def note_lost_runs(instance: DagsterInstance) -> None:
    """Write down, for the code server that this process becomes, the runs whose processes ended with the one before.

    Dagster's monitoring does not look whether such a process is alive: after a restart of the machine its run would
    stay as it was, and so would its slot in a pool. They are ended when the server answers: a retry that is asked for
    before has no code to run, and is given up.
    """
    running = instance.get_runs(RunsFilter(statuses=ACTIVE_RUN_STATUSES))
    os.environ[LOST_RUNS] = " ".join(run.run_id for run in running if GRPC_INFO_TAG in run.tags)


def end_noted_runs(instance: DagsterInstance) -> list[str]:
    """End the runs that were written down and are still taken for alive, and return their ids."""
    noted = os.environ.get(LOST_RUNS, "").split()
    lost = instance.get_runs(RunsFilter(run_ids=noted, statuses=ACTIVE_RUN_STATUSES)) if noted else []
    for run in lost:
        end_lost_run(instance, run)
    return [run.run_id for run in lost]


def end_lost_run(instance: DagsterInstance, run: DagsterRun) -> None:
    """Report a run as failed whose process is gone, and free its slots."""
    instance.report_run_failed(run, "The process that executed this run is gone: it was killed.")
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
