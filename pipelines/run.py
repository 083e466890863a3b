"""`python -m pipelines.run`: every stage of a profile, with its progress on the terminal.

It materializes the same assets as the Dagster UI, in the same instance, so that a run started here is looked at there.
Stages run one after the other, and the students side by side: each trains on one core.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dagster import DagsterExecutionInterruptedError, DagsterInstance, DagsterRunStatus, JobExecutionResult, RunsFilter
from joblib import cpu_count
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from assets.resources import ProfileResource
from assets.students import students
from finstill.config.workspace import Workspace
from finstill.errors import InputError
from finstill.files import read_json
from finstill.progress import progress_to
from pipelines.deployment import home, prepare_instance, profile_path
from pipelines.execution import CALL_TAG, RunFailedError, calling, execute
from pipelines.failures import KILLED

# Where the output is no terminal, rich would fold the table into 80 columns.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

SECONDS_TO_HEAR = 5.0
"""How long runs have to end by themselves when they are interrupted."""

COLUMNS = {
    "accuracy": ("accuracy", "{:.3f}"),
    "macro_f1": ("macro-F1", "{:.3f}"),
    "agreement": ("agreement", "{:.3f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "alerts_per_thousand": ("alerts a thousand", "{:,.0f}"),
    "macro_f1_out_of_domain": ("macro-F1 out of domain", "{:.3f}"),
    "parameters": ("parameters", "{:,}"),
    "megabytes": ("MB", "{:,.1f}"),
    "texts_per_second": ("texts/s", "{:,.0f}"),
    "times_faster": ("times faster", "{:,.1f}"),
}


def main() -> int:
    """Run all stages, print where things are, and return the exit status."""
    try:
        profile = profile_path()
        os.environ["FINSTILL_PROFILE"] = str(profile)
        prepare_instance(profile)
        with progress_on_terminal():
            label, decide = run_all_stages()
    except (InputError, RunFailedError) as error:
        console.print(f"[bold red]Stopped.[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        console.print("[bold red]Stopped.[/] Run it again: it goes on from here.")
        return 130
    print_outcome(profile, label, decide)
    return 0


def run_all_stages() -> tuple[JobExecutionResult, JobExecutionResult]:
    """Materialize every stage and return the results of the first job and the last."""
    from pipelines.definitions import defs

    profile = (defs.resources or {})["profile"]
    assert isinstance(profile, ProfileResource)
    recipes = list(profile.recipes())
    # One tag for all runs of this call: the UI finds them together by it.
    tags = {CALL_TAG: uuid.uuid4().hex[:8]}
    with DagsterInstance.get() as instance, calling(instance):
        instance.add_dynamic_partitions(str(students.name), recipes)
        console.rule("[bold]label")
        label = execute("label", instance, tags)
        console.rule(f"[bold]distil {escape(', '.join(recipes))}")
        distil_side_by_side(recipes, instance, tags)
        console.rule("[bold]decide")
        return label, execute("decide", instance, tags)


def distil_side_by_side(recipes: Sequence[str], instance: DagsterInstance, tags: Mapping[str, str]) -> None:
    """Run `distil` for each recipe, as many at once as there are cores, in processes that end with this one.

    Raises:
        RunFailedError: a step of one failed, or a blocking check did not pass. Those that run end first, and what
            has not begun does not begin.
        DagsterExecutionInterruptedError, KeyboardInterrupt: it was cancelled.
    """
    waiting = list(reversed(recipes))
    running: set[Future[None]] = set()
    with ProcessPoolExecutor(cpu_count(), multiprocessing.get_context("spawn"), initializer=begin_process) as processes:
        try:
            while waiting or running:
                # No more than can run: the executor would begin those that wait whatever comes of the others.
                while waiting and len(running) < cpu_count():
                    running.add(processes.submit(_distil, waiting.pop(), tags))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for distilled in done:
                    distilled.result()
        except BrokenProcessPool as error:
            raise RunFailedError("distil", None, "student", f"{KILLED}. Run it again: it goes on from here") from error
        except (DagsterExecutionInterruptedError, KeyboardInterrupt):
            # An interrupt may be lost where a library is imported; a training asks what its run's status is.
            if wait(running, timeout=SECONDS_TO_HEAR).not_done:
                for run in instance.get_runs(RunsFilter(tags=dict(tags), statuses=[DagsterRunStatus.STARTED])):
                    instance.report_run_canceling(run)
            raise


def _distil(recipe: str, tags: Mapping[str, str]) -> None:
    with progress_on_terminal(), DagsterInstance.get() as instance:
        execute("distil", instance, tags, recipe)


def begin_process() -> None:
    """Prepare a process that distils: it leaves interrupts between two runs to its parent, and ends with it."""
    # Dagster handles Ctrl-C while a run goes on; between two runs it is the caller's alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the process that started this one is gone, and end: nobody would hear of the run's end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def print_outcome(profile: Path, label: JobExecutionResult, decide: JobExecutionResult) -> None:
    """Print the table, the verdicts, and where to look next."""
    from finstill.evaluation.report import REPORT_FILE, TABLE_FILE

    comparison = Workspace.of_profile(home(), profile).comparison
    outcome = read_json(comparison / TABLE_FILE)
    table = Table("classifier", title=f"{profile.stem}, on the test split; speed on one thread")
    columns = {
        key: column for key, column in COLUMNS.items() if any(row.get(key) is not None for row in outcome["table"])
    }
    for title, _ in columns.values():
        table.add_column(title, justify="right")
    for row in outcome["table"]:
        cells = [form.format(row[key]) if row.get(key) is not None else "–" for key, (_, form) in columns.items()]
        table.add_row(row["name"], *cells)
    console.print()
    console.print(table)
    for sentence in [*outcome["verdicts"], *outcome["notes"], _metadata(decide, "champion")["reason"]]:
        console.print(escape(sentence), soft_wrap=True)
    for name, advice in outcome["advice"].items():
        for sentence in advice:
            console.print(escape(f"Advice for {name}: {sentence}"), soft_wrap=True)
    logits = _metadata(label, "teacher_logits")
    reached, rows = logits["rows_reached_by_the_teacher"], logits["texts"]
    console.print(f"Texts that reached the teacher: {reached:,} of {rows:,}; the others were in the cache.")
    if left_out := logits.get("texts_left_out"):
        console.print(f"Texts left out, since an imported teacher has no row of them: {left_out:,}.")
    console.print(f"\nReport: {comparison / REPORT_FILE}", soft_wrap=True)
    if page := _metadata(decide, "page").get("page"):
        console.print(f"Try the champion in a browser: {page}", soft_wrap=True)
    command = f"make dev PROFILE={os.path.relpath(profile)}" if profile.stem != "embedded" else "make dev"
    console.print(f"In the Dagster UI: {command}, then http://127.0.0.1:3000/runs/{decide.run_id}", soft_wrap=True)


def progress_on_terminal() -> AbstractContextManager[None]:
    """Show Finstill's log lines while the block runs."""
    return progress_to(RichHandler(console=console, show_path=False, show_level=False, omit_repeated_times=False))


def _metadata(result: JobExecutionResult, asset: str) -> dict[str, Any]:
    """Return the values that an asset's materialization in this run recorded."""
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key and event.asset_key.path == [asset]
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


if __name__ == "__main__":
    sys.exit(main())
