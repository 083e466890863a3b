"""`python -m pipelines.code_server`: the code server of a deployment where each run is a process beside it."""

from __future__ import annotations

import os
import sys

from dagster import DagsterInstance

from pipelines.execution import MODULE
from pipelines.recovery import note_lost_runs


def main() -> None:
    """Become `dagster code-server start`, with the arguments that it takes."""
    with DagsterInstance.get() as instance:
        note_lost_runs(instance)
    command = [sys.executable, "-m", "dagster", "code-server", "start", "--module-name", MODULE]
    os.execv(sys.executable, [*command, *sys.argv[1:]])


if __name__ == "__main__":
    main()
