"""What is thrown away by age: runs with their events and logs, students that no recipe names, and leftovers.

Of the cache of soft labels nothing goes by age: the small parts that each night adds become few large ones. Dagster's
own `retention` covers the ticks of schedules and sensors alone.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import (
    AssetRecordsFilter,
    Config,
    DagsterInstance,
    OpExecutionContext,
    RunsFilter,
    in_process_executor,
    job,
    op,
)
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from pydantic import Field

from assets.faults import explain_faults
from assets.resources import ProfileResource
from assets.students import students
from finstill.config.recipe import RECIPE_NAME
from finstill.config.workspace import Workspace
from finstill.files import TEMPORARY_PREFIX, replaced_folders

DAY_SECONDS = 86_400
RUNS_A_PAGE = 100

LEFTOVERS = (
    f"**/{TEMPORARY_PREFIX}*",
    "students/*/training-*",
    "teacher/checkpoint/fine-tuning-*",
    "trial/*",
    "starts/*",
    "word-vectors/*.npy",  # An older version's place for them.
)
"""What runs that were cut off leave in a workspace, and what is made again where it is missing. A student may be called
`training-long`: the place tells."""


class Ages(Config):
    """How old something may become, in days."""

    runs: int = Field(
        default=90,
        ge=1,
        description="Finished runs, with their event and compute logs. Runs that made what stands now are kept.",
    )
    students: int = Field(
        default=90, ge=1, description="Artefacts of students whose recipe is gone. The champion has its own copy."
    )
    leftovers: int = Field(
        default=7,
        ge=1,
        description="Unfinished files and checkpoints of runs that were cut off, replaced versions of folders, and the "
        "weights that students started from.",
    )


@op
@explain_faults
def remove_by_age(context: OpExecutionContext, config: Ages, profile: ProfileResource) -> None:
    """Removes what is older than its age, and says how much of it there was."""
    now = time.time()
    runs = remove_runs(context.instance, now - config.runs * DAY_SECONDS)
    workspace, recipes = profile.workspace, set(profile.recipes())
    gone = list(remove_students(context.instance, workspace, recipes, now - config.students * DAY_SECONDS))
    leftovers = list(remove_leftovers(workspace.root, now - config.leftovers * DAY_SECONDS))
    context.add_output_metadata(
        {"runs": runs, "students": ", ".join(gone) or "none", "leftovers": ", ".join(leftovers) or "none"}
    )


@op
@explain_faults
def compact_cache(context: OpExecutionContext, profile: ProfileResource) -> None:
    """Merges the small parts of every teacher's soft labels into few large ones; labelling may go on meanwhile."""
    from finstill.cache.cache import SoftLabelCache, teachers
    from finstill.cache.upkeep import compact

    reports = [compact(SoftLabelCache.open(profile.cache, fingerprint)) for fingerprint in teachers(profile.cache)]
    context.add_output_metadata(
        {
            "parts_merged": sum(report.merged for report in reports),
            "parts_written": sum(report.written for report in reports),
            "repeated_rows_dropped": sum(report.duplicates for report in reports),
        }
    )


@job(executor_def=in_process_executor)
def retention() -> None:
    """Removes old runs and their logs, students that no recipe names, and what killed runs left; compacts the cache."""
    remove_by_age()
    compact_cache()


def remove_runs(instance: DagsterInstance, before: float) -> int:
    """Delete the finished runs that ended before a moment, and return how many.

    Deleting a run deletes its events, and with them what it materialized: a run that made the latest of any asset or
    partition is kept, since staleness is told by it.

    Args:
        before: seconds since the epoch.
    """
    # All before any is deleted: a page begins where the run before it stands.
    old, cursor = set(), None
    while page := instance.get_run_records(RunsFilter(statuses=FINISHED_STATUSES), limit=RUNS_A_PAGE, cursor=cursor):
        cursor = page[-1].dagster_run.run_id
        old |= {
            record.dagster_run.run_id
            for record in page
            if (record.end_time or record.create_timestamp.timestamp()) < before
        }
    removed = old - runs_that_count(instance)
    for run_id in removed:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.delete_run(run_id)
    return len(removed)


def runs_that_count(instance: DagsterInstance) -> set[str]:
    """Return the runs that made the latest materialization of an asset or of a partition of one."""
    runs = set()
    partitions = instance.get_dynamic_partitions(str(students.name))
    for key in instance.all_asset_keys():
        for wanted in (None, *([partition] for partition in partitions)):
            found = instance.fetch_materializations(AssetRecordsFilter(key, asset_partitions=wanted), limit=1).records
            runs |= {record.run_id for record in found}
    return runs


def remove_students(instance: DagsterInstance, workspace: Workspace, recipes: set[str], before: float) -> Iterator[str]:
    """Remove the artefacts and the partition of each student that no recipe names and that is older than a moment.

    A partition that no recipe could name goes, and no folder with it: `../champion` would be somebody else's.
    """
    partitions = instance.get_dynamic_partitions(str(students.name))
    folders = {path.name for path in workspace.students.glob("*") if RECIPE_NAME.fullmatch(path.name)}
    for name in sorted({*partitions, *folders} - recipes):
        if RECIPE_NAME.fullmatch(name):
            student = workspace.of_student(name)
            if student.exists() and _newest(student) >= before:
                continue
            shutil.rmtree(student, ignore_errors=True)
        instance.delete_dynamic_partition(str(students.name), name)
        yield name


def remove_leftovers(root: Path, before: float) -> Iterator[str]:
    """Remove what nothing stands for any more and that is older than a moment.

    That is unfinished files, checkpoints that no run went on from, and replaced versions of folders.
    """
    found = {path for pattern in LEFTOVERS for path in root.glob(pattern)} | set(replaced_folders(root))
    for path in sorted(found):
        # One may have lain in another that is gone by now.
        if os.path.lexists(path) and _newest(path) < before:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            yield str(path.relative_to(root))


def _newest(path: Path) -> float:
    """Return when a file, or anything in a folder, was last changed, in seconds since the epoch."""
    return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
